"""Quantize into llama.cpp's k-quants: super-blocks of 256 weights, whose blocks' scales are quantized themselves.

The bytes' order is that of ggml (ggml-common.h; read back by gguf.quants). Scales are searched for: several candidates
a block, each refined by least squares with weights that count large values more; the best one stays. llama.cpp searches
alike, over other candidates, so its files differ from these in some codes, not in their meaning.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SUPER_BLOCK = 256


def pack_q2_k(x: Tensor) -> Tensor:
    """Bytes (n, 84) of x (n, 256): 2 bits in blocks of 16, with 4-bit scales and minimums."""
    codes, scales, minimums, d, d_min = _with_minimum(x, 16, largest_code=3, largest_scale=15)
    return torch.cat([scales | (minimums << 4), _two_bits(codes), _half_bytes(d), _half_bytes(d_min)], 1)


def pack_q3_k(x: Tensor) -> Tensor:
    """Bytes (n, 110) of x (n, 256): 3 bits in blocks of 16, symmetric, with 6-bit scales."""
    codes, scales, d = _symmetric(x, 16, largest_code=3, largest_scale=31)
    codes, scales = codes + 4, scales + 32
    high = (codes >> 2).view(-1, 8, 32)  # a bit says that 4 is *not* to be taken off
    high_bits = (high << torch.arange(8, device=x.device).view(1, 8, 1)).sum(1)
    low, top = scales & 15, scales >> 4
    low_bytes = low[:, :8] | (low[:, 8:] << 4)
    top_bytes = (top.view(-1, 4, 4) << torch.arange(0, 8, 2, device=x.device).view(1, 4, 1)).sum(1)
    return torch.cat([_bytes(high_bits), _two_bits(codes & 3), _bytes(low_bytes), _bytes(top_bytes), _half_bytes(d)], 1)


def pack_q4_k(x: Tensor) -> Tensor:
    """Bytes (n, 144) of x (n, 256): 4 bits in blocks of 32, with 6-bit scales and minimums."""
    codes, scales, minimums, d, d_min = _with_minimum(x, 32, largest_code=15, largest_scale=63)
    return torch.cat([_half_bytes(d), _half_bytes(d_min), _six_bits(scales, minimums), _four_bits(codes, 32)], 1)


def pack_q5_k(x: Tensor) -> Tensor:
    """Bytes (n, 176) of x (n, 256): 5 bits in blocks of 32, with 6-bit scales and minimums."""
    codes, scales, minimums, d, d_min = _with_minimum(x, 32, largest_code=31, largest_scale=63)
    high = (codes >> 4).view(-1, 8, 32) << torch.arange(8, device=x.device).view(1, 8, 1)
    constants = [_half_bytes(d), _half_bytes(d_min), _six_bits(scales, minimums)]
    return torch.cat([*constants, _bytes(high.sum(1)), _four_bits(codes & 15, 32)], 1)


def pack_q6_k(x: Tensor) -> Tensor:
    """Bytes (n, 210) of x (n, 256): 6 bits in blocks of 16, symmetric, with 8-bit scales."""
    codes, scales, d = _symmetric(x, 16, largest_code=31, largest_scale=127)
    codes = codes + 32
    high = (codes >> 4).view(-1, 2, 4, 32) << torch.arange(0, 8, 2, device=x.device).view(1, 1, 4, 1)
    return torch.cat([_four_bits(codes & 15, 64), _bytes(high.sum(2).flatten(1)), _bytes(scales), _half_bytes(d)], 1)


PACKERS: dict[str, Callable[[Tensor], Tensor]] = {
    "q2_k": pack_q2_k,
    "q3_k": pack_q3_k,
    "q4_k": pack_q4_k,
    "q5_k": pack_q5_k,
    "q6_k": pack_q6_k,
}


def _with_minimum(
    x: Tensor, size: int, largest_code: int, largest_scale: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Quantize as d·scale·code - d_min·minimum.

    Returns codes (n, 256) and scales and minimums (n, 256/size) as uint8, and d and d_min (n, 1) as float16.
    """
    blocks = x.view(-1, SUPER_BLOCK // size, size)
    scale, minimum = _search_with_minimum(blocks, largest_code)
    d, scales = _quantize_scales(scale, largest_scale)
    d_min, minimums = _quantize_scales(minimum, largest_scale)
    step = (d.float() * scales).unsqueeze(2)
    shifted = blocks + (d_min.float() * minimums).unsqueeze(2)
    codes = torch.where(step > 0, shifted / step, 0.0).round().clamp(0, largest_code)
    return _bytes(codes.flatten(1)), _bytes(scales), _bytes(minimums), d, d_min


def _search_with_minimum(blocks: Tensor, largest_code: int) -> tuple[Tensor, Tensor]:
    """The best scale and minimum (both ≥ 0) of each block for scale·code - minimum, each (n, blocks)."""
    importance = blocks.square().mean(2, keepdim=True).sqrt() + blocks.abs()
    low, high = blocks.amin(2, keepdim=True).clamp(max=0), blocks.amax(2, keepdim=True)
    spread = (high - low).clamp(min=1e-12)
    best_scale, best_minimum = spread / largest_code, -low
    best_error = _error_with_minimum(blocks, importance, best_scale, best_minimum, largest_code)
    for shift in torch.arange(-1.0, 1.01, 0.125):
        codes = ((blocks - low) * ((largest_code + float(shift)) / spread)).round().clamp(0, largest_code)
        weights, by_code = importance.sum(2, keepdim=True), (importance * codes).sum(2, keepdim=True)
        squares, values = (importance * codes * codes).sum(2, keepdim=True), (importance * blocks).sum(2, keepdim=True)
        products = (importance * codes * blocks).sum(2, keepdim=True)
        determinant = weights * squares - by_code * by_code
        scale = (weights * products - by_code * values) / determinant
        minimum = (by_code * products - squares * values) / determinant
        without = minimum < 0  # then the best there is has none
        scale, minimum = torch.where(without, products / squares, scale), minimum.clamp(min=0)
        error = _error_with_minimum(blocks, importance, scale, minimum, largest_code)
        better = (error < best_error) & (scale > 0)
        best_scale = torch.where(better, scale, best_scale)
        best_minimum = torch.where(better, minimum, best_minimum)
        best_error = torch.where(better, error, best_error)
    return best_scale.squeeze(2), best_minimum.squeeze(2)


def _error_with_minimum(
    blocks: Tensor, importance: Tensor, scale: Tensor, minimum: Tensor, largest_code: int
) -> Tensor:
    codes = ((blocks + minimum) / scale).round().clamp(0, largest_code)
    return (importance * (scale * codes - minimum - blocks).square()).sum(2, keepdim=True)


def _symmetric(x: Tensor, size: int, largest_code: int, largest_scale: int) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize as d·scale·code with codes from -largest_code - 1 on, and scales of either sign.

    Returns codes (n, 256) and scales (n, 256/size) as int16, and d (n, 1) as float16.
    """
    blocks = x.view(-1, SUPER_BLOCK // size, size)
    scale = _search_symmetric(blocks, largest_code)
    largest = scale.gather(1, scale.abs().argmax(1, keepdim=True))
    d = (largest / -(largest_scale + 1)).half()
    safe = torch.where(d == 0, 1.0, d.float())
    scales = torch.where(d == 0, 0.0, scale / safe).round().clamp(-largest_scale - 1, largest_scale)
    step = (d.float() * scales).unsqueeze(2)
    codes = torch.where(step != 0, blocks / torch.where(step == 0, 1.0, step), 0.0)
    return codes.round().clamp(-largest_code - 1, largest_code).flatten(1).short(), scales.short(), d


def _search_symmetric(blocks: Tensor, largest_code: int) -> Tensor:
    """The best scale of each block for scale·code, (n, blocks); negative where that uses the extra negative code."""
    importance = blocks.square()
    extreme = blocks.gather(2, blocks.abs().argmax(2, keepdim=True))
    extreme = torch.where(extreme == 0, 1e-12, extreme)
    best_gain, best_scale = torch.full_like(extreme, -1.0), torch.zeros_like(extreme)
    for shift in torch.arange(-0.9, 0.91, 0.1):
        codes = (blocks * (-(largest_code + 1 + float(shift)) / extreme)).round().clamp(-largest_code - 1, largest_code)
        products = (importance * codes * blocks).sum(2, keepdim=True)
        squares = (importance * codes * codes).sum(2, keepdim=True)
        usable = squares > 0
        scale = torch.where(usable, products / squares.clamp(min=1e-30), 0.0)
        gain = scale * products  # how much of the squared error this scale takes away
        better = usable & (gain > best_gain)
        best_scale, best_gain = torch.where(better, scale, best_scale), torch.where(better, gain, best_gain)
    return best_scale.squeeze(2)


def _quantize_scales(scale: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """A float16 unit (n, 1) and the scales (n, blocks) in it, whole numbers up to `largest`."""
    unit = (scale.amax(1, keepdim=True) / largest).half()
    safe = torch.where(unit == 0, 1.0, unit.float())
    return unit, torch.where(unit == 0, 0.0, scale / safe).round().clamp(0, largest)


def _bytes(values: Tensor) -> Tensor:
    """Whole numbers, also negative ones, as bytes."""
    return values.to(torch.int16).bitwise_and(255).to(torch.uint8)


def _half_bytes(values: Tensor) -> Tensor:
    """Numbers (n, 1) as the two bytes (n, 2) of float16."""
    return values.half().contiguous().view(torch.uint8)


def _two_bits(codes: Tensor) -> Tensor:
    """Codes (n, 256), four a byte: those 32 apart, in each half."""
    places = torch.arange(0, 8, 2, device=codes.device).view(1, 1, 4, 1)
    return _bytes((codes.to(torch.int16).view(-1, 2, 4, 32) << places).sum(2).flatten(1))


def _four_bits(codes: Tensor, apart: int) -> Tensor:
    """Codes (n, 256), two a byte: those `apart`."""
    low, high = codes.to(torch.int16).view(-1, SUPER_BLOCK // (2 * apart), 2, apart).unbind(2)
    return _bytes((low | (high << 4)).flatten(1))


def _six_bits(scales: Tensor, minimums: Tensor) -> Tensor:
    """Eight scales and eight minimums of 6 bits in 12 bytes: the last four of each are split over two places."""
    scales, minimums = scales.to(torch.int16), minimums.to(torch.int16)
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = minimums[:, :4] | ((minimums[:, 4:] >> 4) << 6)
    third = (scales[:, 4:] & 15) | ((minimums[:, 4:] & 15) << 4)
    return _bytes(torch.cat([first, second, third], 1))
