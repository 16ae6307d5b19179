"""How much of a trained LoRA adapter's rank was used: the singular values of its change of each layer, ΔW = B A."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from playground import runs
from playground.errors import problem

SHARE = 0.9  # of the squared change: so many directions are counted as used
FILE = "adapter_model.safetensors"  # as PEFT names it
PREFIX = "base_model.model."  # of PEFT's names of layers
SHOWN = 32  # numbers of A and of B


def adapter_spectrum(root: str, run: str) -> dict:
    """The singular values of a fine-tune's ΔW.

    Returns {"r" (the largest of any layer), "layers" (how many), "shares" (of the squared change, by direction, the
    strongest first: the mean over the layers), "needed" (directions that hold SHARE of it: [least, median, most]),
    "numbers" ({"layer", "a", "b"}: the first SHOWN numbers of the first layer's A and B)}.
    Raises PlaygroundError for a run without a LoRA adapter.
    """
    pairs = _read_pairs(runs.find(Path(root), run).adapter / FILE)
    shares = [_squared_shares(a, b) for a, b in pairs.values()]
    shares = [share for share in shares if bool(share.isfinite().all())]
    if not shares:
        raise problem("error.no_lora", run=run)
    rank = max(len(share) for share in shares)
    padded = torch.stack([torch.nn.functional.pad(share, (0, rank - len(share))) for share in shares])
    needed = (padded.cumsum(1) < SHARE).sum(1).add(1).clamp(max=rank).sort().values.tolist()
    return {
        "r": rank,
        "layers": len(shares),
        "shares": padded.mean(0).tolist(),
        "needed": [needed[0], needed[len(needed) // 2], needed[-1]],
        "numbers": _first_numbers(pairs),
    }


def _first_numbers(pairs: dict[str, tuple[Tensor, Tensor]]) -> dict:
    name, (a, b) = next(iter(pairs.items()))
    return {"layer": name, "a": a.flatten()[:SHOWN].tolist(), "b": b.flatten()[:SHOWN].tolist()}


def _read_pairs(file: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) of each adapted linear layer by its name, float32, r × in and out × r; {} where there is no such file."""
    if not file.is_file():
        return {}
    pairs = {}
    with safe_open(file, "pt") as tensors:
        names = set(tensors.keys())
        for name in sorted(names):
            other = name.replace(".lora_A.", ".lora_B.")
            if name == other or other not in names:
                continue
            a, b = tensors.get_tensor(name).float(), tensors.get_tensor(other).float()
            if a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1]:
                pairs[name.partition(".lora_A.")[0].removeprefix(PREFIX)] = a, b
    return pairs


def _squared_shares(a: Tensor, b: Tensor) -> Tensor:
    """Each squared singular value of B A as a share of their sum, largest first, without forming the product.

    B A = Q_b (R_b R_aᵀ) Q_aᵀ with orthonormal Q, so that the r × r matrix in the middle has its singular values. NaN
    where nothing was learned.
    """
    middle = torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T
    squared = torch.linalg.svdvals(middle).square()
    return squared / squared.sum()
