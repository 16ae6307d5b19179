"""LoRA adapters on any model family: choose layers, attach, save, load, remove (Hu and others, arXiv 2106.09685)."""

import re
from collections.abc import Callable, Iterable

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from playground.errors import problem
from playground.model.language_part import language_part
from playground.model.mapped_weights import waiting_dtype
from playground.model.start_values import ADAPTER_NAME, lora_rank_and_alpha, set_start_values
from playground.settings import Load, Lora, has_own_layers, is_float8

GROUPS = ("attention", "all-linear")  # of layers that a setting names together
# Families with state space layers: PEFT (0.21) refuses to adapt these, since kernels bypass their forward pass.
MAMBA_TYPES, MAMBA_KERNELS = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"), ("out_proj", "conv1d")


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Map full module names to the model's linear layers, without the output head and mixture-of-experts routers.

    Experts stored together as one three-dimensional parameter (Mixtral, Qwen3-MoE, OLMoE) are not linear layers: in
    these models LoRA adapts the attention and any other linear layer, and the experts stay unadapted.
    """
    head = model.get_output_embeddings()
    part, _ = language_part(model)
    left_out = MAMBA_KERNELS if model.config.model_type in MAMBA_TYPES else ()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and f"{name}.".startswith(f"{part}." if part else "")
        and module is not head
        and not _is_router(name)
        and name.rsplit(".", 1)[-1] not in left_out
    }


def _is_router(name: str) -> bool:
    return "router" in name or name.rsplit(".", 1)[-1] in ("gate", "shared_expert_gate")


def resolve_target_modules(model: PreTrainedModel, target_modules: str, last_layers: int = 0) -> list[str]:
    """Return PEFT's `target_modules` for a model: name suffixes, each the shortest that matches no other module.

    target_modules: "attention", "all-linear", module names separated by commas, or a regular expression for whole names
        as PEFT has it. Names and expressions may also mean the output head and the embeddings.
    last_layers: adapt only this many layers at the end (0: all). An encoder's layers count as before its decoder's.
        Nothing below the lowest adapted layer is trained, so no activations are kept and no gradients computed there.

    Raises PlaygroundError, with the names that exist, for a name or an expression that matches no such module.
    """
    names = list(linear_layers(model))
    if target_modules not in GROUPS:
        names += [name for name, module in model.named_modules() if _is_head_or_embedding(model, module)]
    selected = _select_layers(names, target_modules)
    layers = [name + "." for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)]
    if 0 < last_layers < len(layers):
        selected = [name for name in selected if name.startswith(tuple(layers[-last_layers:]))]
    return _unambiguous_suffixes(selected, [name for name, _ in model.named_modules()])


def _select_layers(names: list[str], target_modules: str) -> list[str]:
    """The linear layers among `names` that a `target_modules` setting stands for."""
    if target_modules == "all-linear":
        return names
    if target_modules == "attention":
        return [name for name in names if _is_in_attention(name)] or names
    if is_expression(target_modules):
        try:
            return _matching(names, re.compile(target_modules))
        except re.error as error:
            raise problem("error.target_expression", given=target_modules, detail=str(error)) from error
    wanted = [name.strip() for name in target_modules.split(",") if name.strip()]
    missing = [suffix for suffix in wanted if not any(_has_suffix(name, suffix) for name in names)]
    if missing:
        raise problem("error.targets", missing=missing, found=sorted({name.rsplit(".", 1)[-1] for name in names}))
    return [name for name in names if any(_has_suffix(name, suffix) for suffix in wanted)]


def is_expression(target_modules: str) -> bool:
    """Whether a `target_modules` setting is a regular expression rather than names."""
    return bool(re.search(r"[\\\[\](){}|*+?^$]", target_modules))


def _matching(names: list[str], expression: re.Pattern) -> list[str]:
    matching = [name for name in names if expression.fullmatch(name)]
    if not matching:
        found = sorted({name.rsplit(".", 1)[-1] for name in names})
        raise problem("error.targets", missing=[expression.pattern], found=found)
    return matching


def _is_head_or_embedding(model: PreTrainedModel, module: nn.Module) -> bool:
    """Whether a module is the output head or the token embedding, in a form that LoRA knows."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return (module is head and isinstance(head, nn.Linear)) or (module is embedding and type(module) is nn.Embedding)


def _is_in_attention(name: str) -> bool:
    """Whether a layer's parent modules include an attention block: "self_attn", "SelfAttention", "attn", ..."""
    return any("attn" in parent or "attention" in parent for parent in name.lower().split(".")[:-1])


def _unambiguous_suffixes(selected: list[str], every_module: Iterable[str]) -> list[str]:
    """For each selected module the shortest suffix that no other module's name has; PEFT matches names by suffix."""
    chosen = set(selected)
    taken = {suffix for name in every_module if name not in chosen for suffix in _suffixes(name)}
    return sorted({next(suffix for suffix in _suffixes(name) if suffix not in taken) for name in selected})


def _suffixes(name: str) -> list[str]:
    """The suffixes of a dotted module name, in whole parts, shortest first."""
    parts = name.split(".")
    return [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]


def _has_suffix(name: str, suffix: str) -> bool:
    return f".{name}".endswith(f".{suffix}")


def add_lora(
    model: PreTrainedModel,
    settings: Lora,
    dtype: torch.dtype,
    seed: int,
    on_progress: Callable[..., None] | None = None,
) -> PeftModel:
    """Wrap a model with a new adapter of any kind; the base weights are frozen and unchanged.

    The adapter gets the dtype that its layer computes in: PEFT's default (float32) copies every input of every adapted
    layer. dtype: for adapters of quantized layers. on_progress: as in `start_values.set_start_values`. Raises
    PlaygroundError for what PEFT refuses, and what on_progress raises; the model is then without an adapter.
    """
    r, alpha = lora_rank_and_alpha(settings)
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT's hint says int; it only scales by alpha / r
        lora_dropout=settings.dropout,
        target_modules=resolve_target_modules(model, settings.target_modules, settings.layers),
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        modules_to_save=_modules_to_save(model, settings.modules_to_save),
        task_type=task_type(model),
    )
    torch.manual_seed(seed)
    try:
        adapted = get_peft_model(model, config, adapter_name=ADAPTER_NAME, autocast_adapter_dtype=False)
    except ValueError as error:  # such as dropout on experts
        raise problem("error.peft", detail=str(error).split("\n")[0][:240]) from error
    assert isinstance(adapted, PeftModel)  # PEFT also names its mixed models as a possible result
    cast_adapters(adapted, dtype)
    try:
        set_start_values(adapted, settings, seed, on_progress)
    except BaseException:
        remove_lora(adapted)
        raise
    return adapted


def task_type(model: PreTrainedModel) -> str:
    """By which PEFT chooses its class; the one for generation has adapters for rows of a batch."""
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def is_named(module: str, names: str) -> bool:
    """Whether a module, by its full name, is one of those names or ends with one; names: separated by commas."""
    return any(_has_suffix(module, name.strip()) for name in names.split(",") if name.strip())


def _modules_to_save(model: PreTrainedModel, names: str) -> list[str] | None:
    """PEFT's `modules_to_save`. Raises PlaygroundError for a name that no module has."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    modules = [name for name, module in model.named_modules() if list(module.parameters(recurse=False))]
    missing = [name for name in wanted if not any(_has_suffix(module, name) for module in modules)]
    if missing:
        raise problem("error.targets", missing=missing, found=sorted({name.rsplit(".", 1)[-1] for name in modules}))
    return wanted or None


def check_lora(settings: Lora, load: Load, device: str) -> None:
    """Raise PlaygroundError for an adapter that can't be trained on weights loaded so, on "cuda" or "cpu".

    DoRA reads the 8-bit weights at every step, and on a CPU loses their scales at the first (PEFT 0.21). The codes of
    float8 and int8-fast it would read as numbers.
    """
    if settings.use_dora and load.bits == 8 and device == "cpu":
        raise problem("error.dora_8bit")
    if settings.use_dora and has_own_layers(load):
        raise problem("error.dora_float8" if is_float8(load) else "error.dora_fast_int8")


def remove_lora(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Detach the adapter: return the base model with its original layers."""
    if not isinstance(model, PeftModel):
        return model
    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # in whose place PEFT would leave the trained copy
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, module.original_module)
    return model.unload()


def _compute_dtype(layer: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """The type that a layer computes in, or `dtype` where it is quantized. Experts have no "weight"."""
    weight = getattr(layer, "weight", next(layer.parameters(), None))
    if not isinstance(weight, torch.Tensor) or not weight.dtype.is_floating_point:
        return dtype
    return waiting_dtype(weight) or weight.dtype


def cast_adapters(model: PeftModel, dtype: torch.dtype) -> PeftModel:
    """Cast each adapter to the dtype of its base layer, or to `dtype` where that layer is quantized.

    Layers of one model can differ: T5's `wo` stays float32 in a float16 model.
    """
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            target = _compute_dtype(layer.get_base_layer(), dtype)
            for name, parameter in layer.named_parameters():
                if name.startswith("lora_"):
                    parameter.data = parameter.data.to(target)
    return model
