"""A linear layer whose frozen weight is stored in float8 (e4m3), with one scale an output row."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0  # magnitude of an e4m3 number


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(codes as bytes, float32 scales (rows,)) of a matrix; a row of zeros gets the scale 1."""
    largest = x.abs().amax(1).float()
    scales = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
    codes = (x.float() / scales[:, None]).clamp_(-LARGEST, LARGEST).to(E4M3)
    return codes.view(torch.uint8), scales


def dequantize_rows(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix that codes and scales stand for."""
    return (codes.view(E4M3).to(torch.float32) * scales[:, None]).to(dtype)


class Float8Linear(nn.Linear):
    """x Wᵀ + bias with W as `weight` (bytes: e4m3 codes, (out, in)) and `scales` (float32, (out,)).

    The weight is kept as bytes, not as float8: PEFT would otherwise give adapters that type.
    """

    def __init__(self, codes: Tensor, scales: Tensor, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = codes.shape
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("scales", scales)
        self.bias: Any = bias

    @classmethod
    def from_linear(cls, layer: nn.Linear) -> "Float8Linear":
        """Quantize a layer's weight."""
        return cls(*quantize_rows(layer.weight.data), layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, dequantize_rows(self.weight, self.scales, x.dtype), self.bias)
