"""bitsandbytes' private and fragile APIs: quantized weights and what they are made dense with."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def is_quantized(weight: Any) -> bool:
    """Whether a weight is packed bytes of bitsandbytes, or this program's bytes of float8."""
    return type(weight).__name__ in ("Params4bit", "Int8Params") or is_float8(weight)


def is_float8(weight: Any) -> bool:
    """Whether a weight is a `Float8Linear`'s: e4m3 or integer codes with a scale a row."""
    return hasattr(weight, "row_scales")


def unquantized_weight(layer: Any) -> Any:
    """The weight of a layer as a matrix of numbers, without moving or changing the layer."""
    import torch
    from bitsandbytes.functional import dequantize_4bit

    weight = layer.weight
    if type(weight).__name__ == "Params4bit":
        return dequantize_4bit(weight.data, weight.quant_state)
    if is_float8(weight):
        codes = weight.data if weight.dtype == torch.int8 else weight.data.view(torch.float8_e4m3fn)
        return codes.to(torch.float32) * weight.row_scales[:, None]
    if type(weight).__name__ == "Int8Params":
        return weight.data.to(torch.float32) * (int8_row_scales(layer)[:, None].to(weight.device) / 127)
    return weight.detach()


def import_bitsandbytes() -> None:
    """Import bitsandbytes without torch's compiler: what it would compile is compiled at its first call instead.

    At import, bitsandbytes (0.50) passes functions to torch.compile that on CPUs and CUDA GPUs nearly no weight comes
    to, for which torch imports its compiler: 0.5 s and 41 MiB.
    """
    import torch

    compile_now = torch.compile

    def compile_later(function: Callable, **options: Any) -> Callable:
        compiled = functools.cache(lambda: compile_now(function, **options))
        return functools.wraps(function)(lambda *arguments, **named: compiled()(*arguments, **named))

    torch.compile = compile_later  # type: ignore[assignment]
    try:
        import bitsandbytes  # noqa: F401
    finally:
        torch.compile = compile_now


def quantize_to(weight: Any, device: str) -> Any:
    """Quantize an unquantized Params4bit or Int8Params onto a device, "meta" included, which `.to()` doesn't do."""
    return weight._quantize(device)


def allow_4bit_copies_on_meta() -> None:
    """Let library code copy a quantized Params4bit on the meta device, as PEFT does for DoRA.

    bitsandbytes (0.50) begins a copy with a tensor on the CPU, which can't be given the data of one on meta.
    """
    import torch
    from bitsandbytes.nn import Params4bit

    own = Params4bit.__deepcopy__
    if not hasattr(own, "__wrapped__"):

        @functools.wraps(own)
        def deepcopy(self: Any, memo: dict) -> Any:
            if not self.is_meta:
                return own(self, memo)
            copied = torch.Tensor._make_subclass(type(self), self.data.clone(), self.requires_grad)
            copied.__dict__.update(self.__dict__, quant_state=copy.deepcopy(self.quant_state, memo))
            return copied

        # copy.deepcopy asks the class alone, so that no registered function can take this method's place
        Params4bit.__deepcopy__ = deepcopy  # type: ignore[method-assign]


@contextlib.contextmanager
def separate_code_books() -> Iterator[None]:
    """Within it, code books may be made without values (on meta): no real layer gets one of them afterwards."""
    import bitsandbytes.functional

    books = copy.copy(bitsandbytes.functional.name2qmap)
    try:
        yield
    finally:
        bitsandbytes.functional.name2qmap.clear()
        bitsandbytes.functional.name2qmap.update(books)


def int8_row_scales(layer: Any) -> Any:
    """The scale of each output row of a Linear8bitLt: on its state once it has run, else on its weight."""
    return layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB


def quantization_constants(tensor: Any) -> Iterator[Any]:
    """What a quantized weight carries with it: at 4 bits a scale a block and the code book (both again with double
    quantization, and an offset), at 8 bits a scale a row."""
    state = getattr(tensor, "quant_state", None)
    constants = [getattr(tensor, name, None) for name in ("SCB", "row_scales")]
    while state is not None:
        constants += [state.absmax, state.code, getattr(state, "offset", None)]
        constants.append(getattr(state, "float8_row_scales", None))  # model/nf4_fast.py
        state = getattr(state, "state2", None)
    yield from (constant for constant in constants if constant is not None)


def disable_cpu_repacking(layers: Iterable[Any]) -> None:
    """Stop 4-bit layers from repacking their weights in place on a CPU at the first forward pass without gradients.

    Repacked for the AVX-512 kernel, no gradient flows through them any more: chat, then train, breaks silently
    (bitsandbytes issue 2078).
    """
    for layer in layers:
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def set_4bit_compute_dtype(layer: Any, dtype: Any) -> None:
    """Have a Linear4bit compute in this type, whatever the stored config says."""
    layer.compute_dtype, layer.compute_type_is_set = dtype, True
