"""Kinds of adapters and start values beside LoRA's usual ones: MiSS, PiSSA and LoftQ.

All of them are trained and saved as ordinary LoRA adapters next to weights that stay as they were loaded. So the base
model answers as before, and whatever reads LoRA reads them:

* MiSS (Kang and Yin 2024, arXiv 2409.15371) adds one trained r-row matrix D to every block of r inputs. That is LoRA
  with B = Dᵀ, no scale, and an A that is never trained: the r × r identity, repeated up to the layer's width.
* PiSSA (Meng and others 2024, arXiv 2404.02948) trains the r strongest directions B₀A₀ of a weight and freezes the
  rest: W - s B₀A₀ + s B A. That is LoRA of rank 2 r with B' = [B, -B₀] and A' = [A; A₀], whose second half is frozen.
* LoftQ (Li and others 2023, arXiv 2310.08659) starts so that s B A makes up for what quantization took from W. As in
  PEFT's `replace_lora_weights_loftq`, the weights stay quantized as they are, and the original ones are read from disk.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from playground import compat
from playground.errors import problem
from playground.model.original_weights import OriginalWeights
from playground.settings import Lora

ADAPTER_NAME = "default"  # PEFT's name for a first adapter; its folder then loads with plain PeftModel.from_pretrained


def lora_rank_and_alpha(settings: Lora) -> tuple[int, float]:
    """The `r` and `lora_alpha` of the LoRA adapter that these settings are trained as."""
    if settings.kind == "miss":
        return settings.r, settings.r  # a scale of 1
    if settings.init.startswith("pissa"):
        return 2 * settings.r, settings.alpha * (math.sqrt(2) if settings.use_rslora else 2)  # the same scale
    return settings.r, settings.alpha


def set_start_values(model: PeftModel, settings: Lora, seed: int, on_progress: Callable[..., None] | None) -> None:
    """Give a new adapter the start values of its settings, and freeze what of it isn't trained.

    Layer by layer, since a decomposition needs several times the memory of its weight.

    on_progress: called with (done, total, "layers"). Raises PlaygroundError for a layer that can't have them, and what
    on_progress raises.
    """
    if settings.kind == "lora" and settings.init == "default":
        return
    layers = list(_checked_layers(model, settings))
    torch.manual_seed(seed)  # `svd_lowrank` draws numbers
    base: Any = model.get_base_model()  # PEFT's hint says nn.Module
    originals = OriginalWeights(base) if settings.init == "loftq" else None
    for done, (name, layer) in enumerate(layers, 1):
        if settings.kind == "miss":
            _start_miss(layer)
        elif originals is None:
            _start_pissa(layer, settings)
        else:
            _start_loftq(name, layer, originals)
        if on_progress:
            on_progress(done, len(layers), "layers")


def freeze_shared_rows(model: PeftModel) -> None:
    """Freeze A of an adapter that is continued as MiSS."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            _matrices(module)[0].requires_grad_(False)


def is_miss(folder: Path) -> bool:
    """Whether the adapter in a folder is one that was trained as MiSS; False where its weights can't be read."""
    try:
        with safe_open(folder / "adapter_model.safetensors", "pt") as tensors:
            names = [name for name in tensors.keys() if name.endswith(".lora_A.weight")]
            matrices = (tensors.get_tensor(name).float() for name in names)
            return bool(names) and all(torch.equal(a, repeated_identity(*a.shape)) for a in matrices)
    except (OSError, SafetensorError):
        return False


def repeated_identity(r: int, width: int) -> Tensor:
    """MiSS' A, r × width: column i has its 1 in row i modulo r."""
    return torch.eye(r).repeat(1, -(-width // r))[:, :width]


def _checked_layers(model: PeftModel, settings: Lora) -> Iterator[tuple[str, Any]]:
    """The adapted layers under the base model's names. Raises PlaygroundError for one that can't have the settings."""
    kind = "MiSS" if settings.kind == "miss" else settings.init
    for name, layer in model.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        base: Any = layer.get_base_layer()
        if not isinstance(base, nn.Linear if settings.kind == "miss" else (nn.Linear, Conv1D)):
            raise problem("error.start_layer", kind=kind, layer=name, type=type(base).__name__)
        sizes: Any = (layer.in_features, layer.out_features)  # numbers, of a linear layer
        most = sizes[0] if settings.kind == "miss" else min(sizes)
        if settings.r > most:
            raise problem("error.start_rank", kind=kind, r=settings.r, layer=name, most=most)
        yield name, layer


def _matrices(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.lora_A[ADAPTER_NAME].weight, layer.lora_B[ADAPTER_NAME].weight


def _start_miss(layer: Any) -> None:
    a, _ = _matrices(layer)  # B starts as zeros, as D does
    if not a.is_meta:
        a.data.copy_(repeated_identity(*a.shape))
    a.requires_grad_(False)


@torch.no_grad()
def _start_pissa(layer: Any, settings: Lora) -> None:
    a, b = _matrices(layer)
    r = settings.r
    if not a.is_meta:
        weight = _weight_of(layer)
        if settings.init == "pissa":
            u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        else:
            u, s, v = torch.svd_lowrank(weight, r, niter=int(settings.init.rsplit("_", 1)[1]))
            vt = v.T
        half_a, half_b = _factors(u, s, vt, r, layer.scaling[ADAPTER_NAME])
        a.data.copy_(torch.cat([half_a, half_a]))
        b.data.copy_(torch.cat([half_b, -half_b], 1))
    # The second half gets no gradient, so that Adam never moves it.
    a.register_hook(lambda gradient: torch.cat([gradient[:r], torch.zeros_like(gradient[r:])]))
    b.register_hook(lambda gradient: torch.cat([gradient[:, :r], torch.zeros_like(gradient[:, r:])], 1))


@torch.no_grad()
def _start_loftq(name: str, layer: Any, originals: OriginalWeights) -> None:
    a, b = _matrices(layer)
    base = layer.get_base_layer()
    if a.is_meta or not compat.is_quantized(base.weight):
        return  # nothing was lost: the usual start, B = 0
    quantized = _weight_of(layer)
    original = originals.weight(name, quantized.shape, getattr(base, "source_cls", None) is Conv1D)
    lost = original.to(quantized.device, torch.float32) - quantized
    u, s, vt = torch.linalg.svd(lost, full_matrices=False)
    half_a, half_b = _factors(u, s, vt, len(a), layer.scaling[ADAPTER_NAME])
    a.data.copy_(half_a)
    b.data.copy_(half_b)


def _weight_of(layer: Any) -> Tensor:
    """The base weight as it is computed with, float32, (out, in)."""
    weight = compat.unquantized_weight(layer.get_base_layer()).float()
    return weight.T if layer.fan_in_fan_out else weight


def _factors(u: Tensor, s: Tensor, vt: Tensor, r: int, scale: float) -> tuple[Tensor, Tensor]:
    """A, r × in, and B, out × r, with scale · B A the r strongest parts of u · s · vt."""
    root = (s[:r] / scale).sqrt()
    return root[:, None] * vt[:r], u[:, :r] * root
