"""What answers are generated with: the form's settings alone or, where it says so, the model's own ones too.

transformers fills in whatever a call leaves open from the `generation_config.json` of a model: a minimum length, forced
tokens, a time limit. That would change answers without a word, or end them with an error.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from playground.settings import Generation

START_TOKENS = ("bos_token_id", "decoder_start_token_id")  # a model can't begin without them
OFFERED = (  # of a model's own settings; the others concern how many answers are made, what is returned, and its speed
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "min_length",
    "min_new_tokens",
    "exponential_decay_length_penalty",
    "bad_words_ids",
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "renormalize_logits",
)
LENGTH_DEPENDENT = (
    "dynamic",
    "longrope",
)  # kinds of rotary embedding whose angles depend on the longest row of a batch


def own_settings(model: PreTrainedModel | PeftModel) -> dict[str, Any]:
    """The settings that a model's own generation config would add, {name: value}, without transformers' defaults."""
    config = _base(model).generation_config
    if config is None:
        return {}
    defaults = GenerationConfig()
    values = {name: getattr(config, name, None) for name in OFFERED}
    return {
        name: value
        for name, value in values.items()
        if value not in (None, [], getattr(defaults, name, None), _neutral_value(name))
    }


def with_own_settings(model: PreTrainedModel | PeftModel, generation: Generation) -> Generation:
    """The settings with the number of beams that the model's own config has, where it is to be used."""
    beams = own_settings(model).get("num_beams") if generation.model_defaults else None
    return replace(generation, num_beams=beams) if beams else generation


def generation_config(
    model: PreTrainedModel | PeftModel, generation: Generation, end_ids: Sequence[int], pad_id: int
) -> GenerationConfig:
    """What an answer is generated with. Of the model's own config: its start tokens, and what is asked for."""
    base = _base(model)
    start = {name: _token(base, name) for name in START_TOKENS}
    if base.config.is_encoder_decoder and start["decoder_start_token_id"] is None:
        start["decoder_start_token_id"] = pad_id  # as T5's first version, and as training does
    values: dict[str, Any] = {
        "num_beams": generation.num_beams,
        "do_sample": generation.temperature > 0,
        "repetition_penalty": generation.repetition_penalty,
    }
    if generation.temperature > 0:
        values |= {"temperature": generation.temperature, "top_p": generation.top_p, "top_k": generation.top_k}
    if generation.model_defaults:
        values = own_settings(model)
    values |= {"max_new_tokens": generation.max_new_tokens, "eos_token_id": sorted({*end_ids}), "pad_token_id": pad_id}
    return GenerationConfig(**start, **values)


@contextmanager
def only_generation_config(model: PreTrainedModel | PeftModel, config: GenerationConfig) -> Iterator[None]:
    """Let `config` be all that transformers knows of how to generate; the model's own is back afterwards."""
    base = _base(model)
    original = base.generation_config
    base.generation_config = config
    try:
        yield
    finally:
        base.generation_config = original


def depends_on_longest(config: PreTrainedConfig, tokens: int) -> bool:
    """Whether the angles of a row of that many tokens also apply to the shorter rows of its batch.

    Dynamic scaling and LongRoPE choose them by the longest row once it exceeds the length of pre-training.
    """
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    for rope in nested or [parameters]:
        if rope.get("rope_type", rope.get("type")) in LENGTH_DEPENDENT:
            trained = rope.get("original_max_position_embeddings") or getattr(
                text, "original_max_position_embeddings", getattr(text, "max_position_embeddings", 0)
            )
            if tokens > (trained or 0):
                return True
    return False


def _base(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]


def _token(model: PreTrainedModel, name: str) -> int | None:
    value = getattr(model.generation_config, name, None)
    return getattr(model.config, name, None) if value is None else value


def _neutral_value(name: str) -> Any:
    """The value of a setting that changes nothing, where transformers leaves it open."""
    neutral: dict[str, Any] = {
        "do_sample": False,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 50,
        "typical_p": 1.0,
        "repetition_penalty": 1.0,
        "encoder_repetition_penalty": 1.0,
        "length_penalty": 1.0,
        "num_beams": 1,
        "early_stopping": False,
        "renormalize_logits": False,
    }
    return neutral.get(name, 0)
