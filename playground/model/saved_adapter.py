"""Saved LoRA adapters: put on a model to answer or to train on, and written to a folder in PEFT's format."""

import re
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from playground.errors import PlaygroundError, problem
from playground.json_values import read_small_json
from playground.model.adapt import cast_adapters, task_type
from playground.model.adapter_file import check_values, layer_of, tensor_shapes
from playground.model.adapter_folder import CONFIG
from playground.model.embedding import embedding_rows, resize_embedding, rows_in_adapter
from playground.model.start_values import ADAPTER_NAME, freeze_shared_rows
from playground.replacement import replace_path
from playground.settings import Lora

# Raised by PEFT and safetensors for adapters that can't be read, or that don't fit.
UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    SafetensorError,
    re.error,  # a layer's name is a regular expression
)


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
    _check_files(folder)
    try:
        model.load_adapter(str(folder), name, autocast_adapter_dtype=False)
    except UNREADABLE as error:
        raise _adapter_problem(folder, error) from error
    _check_finite(model, name, folder)
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
    if config is None:
        _check_files(folder)
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
    _check_finite(adapted, ADAPTER_NAME, folder)
    return cast_adapters(adapted, dtype)


def _check_files(folder: Path) -> None:
    """Raise PlaygroundError where an adapter's files can't be read, or its config has a value that PEFT can't use."""
    shown = f"{folder.parent.name}/{folder.name}"
    try:
        values = read_small_json(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise problem("error.adapter_config", path=shown) from error
    if not isinstance(values, dict):
        raise problem("error.adapter_config", path=shown)
    check_values(values, shown)
    tensor_shapes(folder)


def _check_finite(model: PeftModel, name: str, folder: Path) -> None:
    """Raise PlaygroundError where an adapter's own tensors hold NaN or infinity: every answer would be noise."""
    own = [(full, tensor) for full, tensor in model.named_parameters() if f".{name}." in full and not tensor.is_meta]
    wrong = [full for full, tensor in own if not torch.isfinite(tensor).all()]
    if wrong:
        shown = f"{folder.parent.name}/{folder.name}"
        raise problem(
            "error.adapter_not_finite", path=shown, wrong=len(wrong), count=len(own), layer=layer_of(wrong[0])
        )


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
            if not any(".lora_" in name for name in file.keys()):  # lora_B, of an embedding lora_embedding_B
                raise problem("error.unexpected", kind="adapter", detail="no tensors were saved")
        replace_path(partial, folder, old)
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
