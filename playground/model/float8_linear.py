"""Linear layers whose frozen weight is stored in 8 bits, float8 (e4m3) or integers, with one scale an output row."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from playground.model import float8, int8_fast
from playground.model.mapped_weights import read
from playground.settings import Load, is_fast_int8


class Float8Linear(nn.Linear):
    """x Wᵀ + bias with W as `weight` (bytes: e4m3 codes, (out, in)) and `weight.row_scales` (float32, (out,)).

    The codes are kept as bytes, not as float8: PEFT would otherwise give adapters that type. multiplies: whether
    products are made in float8; otherwise the weight is dequantized for each. source_cls: the class of the layer that
    was quantized; files have the weight of a `Conv1D` transposed.
    """

    source_cls: type[nn.Module] = nn.Linear
    form = "fp8"
    products: Any = float8  # the module that quantizes and multiplies

    def __init__(self, codes: Tensor, scales: Tensor, bias: Any, multiplies: bool) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = codes.shape
        weight: Any = nn.Parameter(codes, requires_grad=False)
        weight.row_scales = scales
        self.weight, self.bias = weight, bias
        self.multiplies = multiplies and not any(size % float8.ALIGNMENT for size in codes.shape)

    @classmethod
    def from_linear(cls, layer: Any, device: str, multiplies: bool) -> "Float8Linear":
        """Quantize a layer's weight on a device; the bias goes there too."""
        weight = layer.weight.data.T if isinstance(layer, Conv1D) else layer.weight.data
        bias = None if layer.bias is None else nn.Parameter(layer.bias.data.to(device), requires_grad=False)
        codes, scales = cls.products.quantize_rows(weight.to(device))
        quantized = cls(codes, scales, bias, multiplies)
        quantized.source_cls = type(layer)
        return quantized

    @property
    def scales(self) -> Tensor:
        weight: Any = self.weight
        return weight.row_scales

    def forward(self, x: Tensor) -> Tensor:
        if not self.multiplies or not self.products.can_multiply(x):
            return functional.linear(x, self.products.dequantize_rows(self.weight, self.scales, x.dtype), self.bias)
        flat = x.reshape(-1, x.shape[-1])
        return self.products.linear(self.weight, self.scales, flat, self.bias).view(*x.shape[:-1], self.out_features)


class FastInt8Linear(Float8Linear):
    """The same with the codes as 8-bit integers ("int8-fast")."""

    form = "int8-fast"
    products = int8_fast


def layer_class(load: Load) -> type[Float8Linear]:
    """The class of the layers of a model that is multiplied in 8 bits (settings)."""
    return FastInt8Linear if is_fast_int8(load) else Float8Linear


def quantize_linears(
    model: nn.Module,
    skip: list[str],
    device: str,
    multiplies: bool,
    kind: type[Float8Linear] = Float8Linear,
    prefix: str = "",
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Replace the linear layers of a model by those of a class on a device, one by one, except those named in `skip`.

    prefix: with which their names begin. on_layer: called with (done, total).

    As transformers has it, `skip` names modules whole or by the end of their names, and what is below them.
    """
    names = [
        name
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, Conv1D) and name.startswith(prefix) and not _is_skipped(name, skip)
    ]
    for done, name in enumerate(names, 1):
        layer = model.get_submodule(name)
        read(layer)
        model.set_submodule(name, kind.from_linear(layer, device, multiplies))
        on_layer(done, len(names))


def _is_skipped(name: str, skip: list[str]) -> bool:
    return any(name == one or name.endswith(f".{one}") or f".{one}." in f".{name}." for one in skip)
