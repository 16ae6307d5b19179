"""LoRA on any family: which layers, added and taken off again (Hu et al. 2021, arXiv 2106.09685; PEFT)."""

import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from playground.errors import problem
from playground.settings import Lora

ADAPTER_NAME = "default"  # PEFT's name for a first adapter; its folder then loads with plain PeftModel.from_pretrained


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Every linear layer of the network by its full name; the output head and what routes a mixture of experts left out.

    Experts that a model holds together as one three-dimensional parameter (Mixtral, Qwen3-MoE, OLMoE) are no linear
    layers: there LoRA adapts the attention, and whatever else is a layer of its own, and the experts stay as they are.
    """
    head = model.get_output_embeddings()
    return {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, (nn.Linear, Conv1D)) and m is not head and not _routes(name)
    }


def _routes(name: str) -> bool:
    return "router" in name or name.rsplit(".", 1)[-1] in ("gate", "shared_expert_gate")


def resolve_target_modules(model: PreTrainedModel, wanted: str, last: int = 0) -> list[str]:
    """The names that PEFT is to adapt, each the shortest ending that fits no other module.

    wanted: "attention", "all-linear", or names typed with commas; last: only those of so many layers at the end (0: of
    all), an encoder's layers coming before its decoder's. Below the lowest adapted layer nothing is learned, so no
    activation is kept there and no gradient computed. Raises PlaygroundError that lists the names there are, for a typed
    name that fits no layer.
    """
    layers = list(linear_layers(model))
    if wanted == "all-linear":
        chosen = layers
    elif wanted == "attention":
        chosen = [
            n for n in layers if any("attn" in p.lower() or "attention" in p.lower() for p in n.split(".")[:-1])
        ] or layers
    else:
        typed = [name.strip() for name in wanted.split(",") if name.strip()]
        missing = [name for name in typed if not any(_ends_with(full, name) for full in layers)]
        if missing:
            raise problem("error.targets", missing=missing, found=sorted({name.rsplit(".", 1)[-1] for name in layers}))
        chosen = [full for full in layers if any(_ends_with(full, name) for name in typed)]
    repeated = [name + "." for name, m in model.named_modules() if isinstance(m, GradientCheckpointingLayer)]
    if 0 < last < len(repeated):
        chosen = [name for name in chosen if name.startswith(tuple(repeated[-last:]))]
    others = {ending for name, _ in model.named_modules() if name not in chosen for ending in _endings(name)}
    return sorted({next(ending for ending in _endings(name) if ending not in others) for name in chosen})


def _endings(name: str) -> list[str]:
    """What a module's name ends with, whole words alone, from the shortest on."""
    words = name.split(".")
    return [".".join(words[-count:]) for count in range(1, len(words) + 1)]


def _ends_with(name: str, ending: str) -> bool:
    return f".{name}".endswith(f".{ending}")


def add_lora(model: PreTrainedModel, settings: Lora, dtype: torch.dtype, seed: int) -> PeftModel:
    """The model with a fresh adapter in `dtype`; base weights stay frozen and as they are.

    The adapter computes in its layer's own type: PEFT's default (float32) copies every input of every adapted layer.
    """
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=resolve_target_modules(model, settings.target_modules, settings.layers),
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )
    torch.manual_seed(seed)
    tuned = get_peft_model(model, config, adapter_name=ADAPTER_NAME, autocast_adapter_dtype=False)
    return _in_type(tuned, dtype)


def load_lora(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> PeftModel:
    """The model with the adapter of `folder`. Raises PlaygroundError where it can't be read or doesn't fit."""
    try:
        tuned = PeftModel.from_pretrained(model, folder, adapter_name=ADAPTER_NAME, autocast_adapter_dtype=False)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise problem("error.adapter", path=folder.parent.name, detail=str(error).split("\n")[0][:200]) from error
    tuned.eval()
    return _in_type(tuned, dtype)


def save_lora(model: PeftModel, folder: Path) -> None:
    """The adapter in PEFT's format, whole or not at all.

    PEFT would save nothing of a model whose tensors are missing, so what was written is opened and counted.
    """
    fresh = folder.with_name("adapter.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        model.save_pretrained(fresh)
        with safe_open(fresh / "adapter_model.safetensors", "pt") as file:
            if not any("lora_B" in name for name in file.keys()):
                raise problem("error.unexpected", kind="adapter", detail="no tensors were saved")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.replace(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def remove_lora(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The bare base model again, with its own layers in place."""
    return model.unload() if isinstance(model, PeftModel) else model


def _in_type(model: PeftModel, dtype: torch.dtype) -> PeftModel:
    """Adapters in the type that their layers compute in: `dtype`, or a layer's own (T5's `wo` is float32 beside float16)."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            own = layer.get_base_layer().weight.dtype
            for name, parameter in layer.named_parameters():
                if name.startswith("lora_"):
                    parameter.data = parameter.data.to(own if own.is_floating_point else dtype)
    return model
