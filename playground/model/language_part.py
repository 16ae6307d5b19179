"""Build a config as a language model: transformers' class for it, without towers for images, video and sound.

Models that also see or hear (Gemma 3, Qwen2-VL, LLaVA) have a network for each kind of input, here called a tower,
beside their language model. Text alone never reaches a tower, so none is built: its weights would take memory for
nothing.
"""

import functools
import inspect
import re
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from playground import compat
from playground.errors import PlaygroundError, problem

# In the names of modules that text never reaches.
TOWER_WORD = re.compile("vision|visual|image|video|audio|speech|multi_modal_projector")


def model_class(config: PreTrainedConfig) -> Any:
    """transformers' class of a language model with this config; it has `from_pretrained` and `from_config`.

    An auto class, or for a model with towers a class that doesn't build them.
    Raises PlaygroundError for a type that can't answer text with text.
    """
    auto = auto_class(config)
    if auto is AutoModelForSeq2SeqLM or not getattr(config, "sub_configs", None):
        return auto
    kind = compat.model_class_for(config, auto)
    if getattr(kind, "config_class", None) is config.sub_configs.get("text_config"):
        return auto  # which takes that part of the config; the class has no towers
    if not _takes_text_alone(kind):
        raise not_a_language_model(config)
    return _without_towers(kind)


def auto_class(config: PreTrainedConfig) -> Any:
    """The auto class that has a language model for this config: encoder-decoder (T5), decoder-only or multimodal.

    Raises PlaygroundError for a type without one, and for one like BERT, which would be trained to copy the next token.
    """
    candidates: tuple[Any, ...] = (AutoModelForCausalLM, AutoModelForMultimodalLM)
    if not config.is_encoder_decoder and compat.sees_later_tokens(config):
        raise not_a_language_model(config)
    for auto in (AutoModelForSeq2SeqLM,) if config.is_encoder_decoder else candidates:
        if compat.knows_config(auto, config):
            return auto
    raise not_a_language_model(config)


def not_a_language_model(config: PreTrainedConfig) -> PlaygroundError:
    """The error for a model that needs more than text, sees what it is to predict, or gives something else."""
    return problem("error.not_language_model", kind=config.model_type)


def _takes_text_alone(kind: type[PreTrainedModel]) -> bool:
    """Whether token ids suffice to call a model of this class."""
    parameters = dict(inspect.signature(kind.forward).parameters)
    parameters.pop("self")
    required = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    return "input_ids" in parameters and not set(required) - {"input_ids"}


@functools.cache
def _without_towers(kind: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A class like this one whose models have no towers."""

    class LanguagePart(kind):  # type: ignore[valid-type, misc]
        def __init__(self, config: PreTrainedConfig, *args: Any, **options: Any) -> None:
            with compat.empty_timm_towers():
                super().__init__(config, *args, **options)
            self.left_out = drop_towers(self)

        @classmethod
        def from_config(cls, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
            return cls._from_config(config, **options)

    # transformers finds by this name how the tensors in a file are called.
    LanguagePart.__name__, LanguagePart.__qualname__, LanguagePart.__module__ = (
        kind.__name__,
        kind.__qualname__,
        kind.__module__,
    )
    return LanguagePart


def max_context_length(config: PreTrainedConfig) -> int | None:
    """Tokens that the model can take, or None where its config doesn't say."""
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    return longest if longest and longest > 0 else None  # XLNet has -1


def drop_towers(model: PreTrainedModel) -> list[str]:
    """Replace each tower by None, and return their names.

    A tower is a submodel whose config has another class than the whole model's and the language model's.
    """
    own = (type(model.config), type(model.config.get_text_config()))
    inner = [(name, module) for name, module in model.named_modules() if name and isinstance(module, PreTrainedModel)]
    dropped: list[str] = []
    for name, module in inner:
        if type(module.config) not in own and not name.startswith(tuple(f"{tower}." for tower in dropped)):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, None)
            dropped.append(name)
    return dropped


def without_towers(config: PreTrainedConfig, model: PreTrainedModel, unused: list[str]) -> tuple[list[str], list[str]]:
    """(modules, others): of the tensors in a file that a model has no place for, the towers they are in, and the rest.

    config: of the whole, from which the model was built.
    """
    if not getattr(config, "sub_configs", None):
        return [], unused
    towers = {name.rpartition(".")[2] for name in getattr(model, "left_out", ())}
    modules, others = set(), []
    for name in unused:
        parts = name.split(".")
        inner = next((n for n, part in enumerate(parts) if part in towers or TOWER_WORD.search(part)), None)
        if inner is None:
            others.append(name)
        else:
            modules.add(".".join(parts[: inner + 1]))
    if not modules and type(model.config) is not type(config):  # transformers itself passed over them
        modules = {name for name in config.sub_configs if name != "text_config" and getattr(config, name, None)}
    return sorted(modules), others


def language_part(model: PreTrainedModel) -> tuple[str, PreTrainedModel]:
    """(name, module) of a multimodal model's language model; ("", model) for any other model."""
    if getattr(model, "left_out", None) is None:
        return "", model
    decoder = model.get_decoder()
    return next(((name, module) for name, module in model.named_modules() if module is decoder), ("", model))


def has_text_alone(model: PreTrainedModel) -> bool:
    """Whether a model's type has nothing but text, so that nothing has to be tried."""
    return getattr(model, "left_out", None) is None


def check_text_alone(model: PreTrainedModel) -> None:
    """Raise PlaygroundError if a multimodal model refuses a text without image or sound."""
    if has_text_alone(model):
        return
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    except (ValueError, TypeError, AttributeError) as error:
        raise not_a_language_model(model.config) from error
