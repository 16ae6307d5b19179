"""Saved LoRA adapters: put on a model to answer or to train on, and written to a folder in PEFT's format."""

import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from playground.errors import PlaygroundError, problem
from playground.model.adapt import cast_adapters, task_type
from playground.model.embedding import embedding_rows, resize_embedding, rows_in_adapter
from playground.model.start_values import ADAPTER_NAME, freeze_shared_rows
from playground.replacement import replace_path
from playground.settings import Lora

# Raised by PEFT and safetensors for adapters that can't be read, or that don't fit.
UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


def load_lora(model: PreTrainedModel, folder: Path, dtype: torch.dtype, config: LoraConfig | None = None) -> PeftModel:
    """Wrap a model with a saved adapter, to evaluate. Raises PlaygroundError if it can't be read or doesn't fit.

    config: instead of the folder's own, of an adapter that this program didn't write (adapter_file.py).
    """
    if config:
        config.task_type = task_type(model)
    adapted = _read_lora(model, folder, dtype, config)
    adapted.eval()
    return adapted


def load_further_lora(model: PeftModel, folder: Path, name: str, dtype: torch.dtype) -> None:
    """Put one more saved adapter on the model, under that name in PEFT; the active one stays the same.

    Raises PlaygroundError as load_lora.
    """
    try:
        model.load_adapter(str(folder), name, autocast_adapter_dtype=False)
    except UNREADABLE as error:
        raise _adapter_problem(folder, error) from error
    cast_adapters(model, dtype).eval()


def continue_lora(model: PreTrainedModel, folder: Path, settings: Lora, dtype: torch.dtype, seed: int) -> PeftModel:
    """Wrap a model with a saved adapter, to train it further with the settings' dropout, as their kind.

    Raises PlaygroundError as load_lora.
    """
    torch.manual_seed(seed)
    adapted = _read_lora(model, folder, dtype, None, is_trainable=True, dropout=settings.dropout)
    if settings.kind == "miss":
        freeze_shared_rows(adapted)
    return adapted


def _read_lora(
    model: PreTrainedModel,
    folder: Path,
    dtype: torch.dtype,
    config: PeftConfig | None,
    is_trainable: bool = False,
    dropout: float | None = None,
) -> PeftModel:
    """The model with a saved adapter. config, dropout: in place of the adapter's own."""
    try:
        config = config or PeftConfig.from_pretrained(str(folder))
        if dropout is not None:
            config.lora_dropout = dropout  # type: ignore[union-attr]  # of LoRA's config
        rows = rows_in_adapter(model, folder)
        if rows > embedding_rows(model):
            resize_embedding(model, rows)
        adapted = PeftModel.from_pretrained(
            model,
            folder,
            adapter_name=ADAPTER_NAME,
            is_trainable=is_trainable,
            config=config,
            autocast_adapter_dtype=False,
        )
    except UNREADABLE as error:
        raise _adapter_problem(folder, error) from error
    return cast_adapters(adapted, dtype)


def _adapter_problem(folder: Path, error: Exception) -> PlaygroundError:
    return problem("error.adapter", path=folder.parent.name, detail=str(error).split("\n")[0][:200])


def save_lora(model: PeftModel, folder: Path) -> None:
    """Save the adapter in PEFT's format, replacing `folder` only once the new one is complete.

    PEFT silently saves nothing for a model whose tensors are missing, so the written file is opened and checked.
    """
    partial, old = folder.with_name("adapter.partial"), folder.with_name("adapter.old")
    for left in (partial, old):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        model.save_pretrained(str(partial))
        with safe_open(partial / "adapter_model.safetensors", "pt") as file:
            if not any("lora_B" in name for name in file.keys()):
                raise problem("error.unexpected", kind="adapter", detail="no tensors were saved")
        replace_path(partial, folder, old)
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
