"""LoRA on any family: which layers, added and taken off again (Hu et al. 2021, arXiv 2106.09685; PEFT)."""

import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from playground.errors import problem
from playground.settings import Lora

TUNED = "default"  # PEFT's name for a first adapter; its folder then loads with plain PeftModel.from_pretrained


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Every linear layer of the network by its full name, the output head left out."""
    head = model.get_output_embeddings()
    return {name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not head}


def targets(model: PreTrainedModel, wanted: str) -> list[str]:
    """The layer names that PEFT is to adapt: "attention", "all-linear", or names typed with commas.

    Raises PlaygroundError that lists the names there are, for a typed name that fits no layer.
    """
    layers = linear_layers(model)
    last = {name.rsplit(".", 1)[-1] for name in layers}
    if wanted == "all-linear":
        return sorted(last)
    if wanted == "attention":
        inside = {n.rsplit(".", 1)[-1] for n in layers if any("attn" in p.lower() or "attention" in p.lower() for p in n.split(".")[:-1])}
        return sorted(inside or last)
    typed = [name.strip() for name in wanted.split(",") if name.strip()]
    missing = [name for name in typed if not any(full == name or full.endswith("." + name) for full in layers)]
    if missing:
        raise problem("error.targets", missing=missing, found=sorted(last))
    return typed


def add_lora(model: PreTrainedModel, settings: Lora, dtype: torch.dtype, seed: int) -> PeftModel:
    """The model with a fresh adapter in `dtype`; base weights stay frozen and as they are.

    The adapter computes in the model's own type: PEFT's default (float32) copies every input of every adapted layer.
    """
    config = LoraConfig(
        r=settings.r, lora_alpha=settings.alpha, lora_dropout=settings.dropout,
        target_modules=targets(model, settings.targets), layers_to_transform=_last_layers(model, settings.layers),
        use_rslora=settings.rslora, use_dora=settings.dora, task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(seed)
    tuned = get_peft_model(model, config, adapter_name=TUNED, autocast_adapter_dtype=False)
    return _in_type(tuned, dtype)


def _last_layers(model: PreTrainedModel, count: int) -> list[int] | None:
    """The numbers of the last `count` layers; None, which is all, for 0 or more than there are.

    Below the lowest adapted layer nothing is learned, so no activation is kept there and no gradient computed.
    """
    total = model.config.get_text_config().num_hidden_layers
    return list(range(total - count, total)) if 0 < count < total else None


def read_lora(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> PeftModel:
    """The model with the adapter of `folder`. Raises PlaygroundError where it can't be read or doesn't fit."""
    try:
        tuned = PeftModel.from_pretrained(model, folder, adapter_name=TUNED, autocast_adapter_dtype=False)
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
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return model
