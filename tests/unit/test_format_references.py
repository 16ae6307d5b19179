"""Number formats against references that share nothing with them: fractions, bit patterns, the papers' formulas."""

import math
import sys
from fractions import Fraction
from statistics import NormalDist
from types import SimpleNamespace

import pytest
import torch
from bitsandbytes import functional as bnb

from playground.lab import microscaling
from playground.lab.codebooks import codebook
from playground.lab.formats import BITS, parse_format
from playground.lab.hqq import steps_and_zeros
from playground.lab.quantize import quantize


def minifloat(exponent_bits, mantissa_bits, bias):
    """Every non-negative value of a small float by its bit pattern: IEEE 754, but without infinity and NaN."""
    values = []
    for code in range(2 ** (exponent_bits + mantissa_bits)):
        exponent, mantissa = divmod(code, 2**mantissa_bits)
        fraction = Fraction(mantissa, 2**mantissa_bits) + (exponent > 0)
        values.append(fraction * Fraction(2) ** (max(exponent, 1) - bias))
    return values


E2M1 = minifloat(2, 1, 1)
E4M3 = minifloat(4, 3, 7)[:-1]  # its last code is NaN


def nearest(value, values):
    """The nearest of these values by code; of two the one with the even code; saturated."""
    sign, size = (-1, -value) if value < 0 else (1, value)
    code = min(range(len(values)), key=lambda code: (abs(values[code] - size), code % 2))
    return sign * values[code]


def float32(value):
    """A fraction rounded to float32, exactly."""
    return Fraction(torch.tensor(float(value), dtype=torch.float64).float().item())


def blocks_of(weight, size):
    return [[Fraction(value) for value in block] for block in weight.reshape(-1, size).tolist()]


def nvfp4(weight):
    """Code x scale of the block x scale of the tensor (arXiv 2509.25149, appendix C), each step in exact numbers."""
    of_tensor = float32(Fraction(weight.abs().max().item()) / (448 * 6))
    rows = []
    for block in blocks_of(weight, 16):
        of_block = nearest(max(map(abs, block)) / 6 / of_tensor, E4M3)
        rows += [nearest(x / (of_block * of_tensor), E2M1) * of_block * of_tensor if of_block else 0 for x in block]
    return rows


def mxfp4(weight):
    """OCP Microscaling Formats 1.0, section 6.3: the scale is the largest power of two in the block, over E2M1's."""
    rows = []
    for block in blocks_of(weight, 32):
        largest = max(map(abs, block))
        exponent = math.floor(math.log2(largest)) if largest else 0
        exponent += largest >= Fraction(2) ** (exponent + 1)  # log2 is rounded
        scale = Fraction(2) ** (exponent - 2)
        rows += [nearest(x / scale, E2M1) * scale for x in block]
    return rows


def fp8(weight):
    rows = []
    for block in blocks_of(weight, weight.shape[1]):
        scale = float32(max(map(abs, block)) / 448)
        rows += [nearest(x / scale, E4M3) * scale for x in block]
    return rows


@pytest.mark.parametrize("reference", [nvfp4, mxfp4, fp8], ids=lambda reference: reference.__name__)
@pytest.mark.parametrize("type", [torch.float32, torch.bfloat16], ids=str)
def test_formats_of_gpus_are_those_of_their_specifications_to_the_bit(reference, type):
    torch.manual_seed(0)
    weight = torch.randn(12, 64) * torch.logspace(-4, 0, 12)[:, None]  # blocks far below the tensor's largest value
    weight[2, :32] = 0
    weight[3, 5], weight[4, 6] = 3.0, -0.75
    weight = weight.to(type).float()
    expected = torch.tensor([float(value) for value in reference(weight)], dtype=torch.float64).float()
    assert torch.equal(quantize(weight, parse_format(reference.__name__)).values, expected.view_as(weight))


def test_scales_of_blocks_are_values_of_their_types():
    torch.manual_seed(1)
    weight = torch.randn(64, 64) * torch.logspace(-30, 3, 64)[:, None]
    powers = microscaling.mxfp4_scales(weight)
    assert torch.equal(powers.to(torch.float8_e8m0fnu).float(), powers)
    of_blocks, _ = microscaling.nvfp4_scales(weight)
    assert torch.equal(of_blocks.to(torch.float8_e4m3fn).float(), of_blocks) and of_blocks.max() == 448


@pytest.mark.parametrize("bits", BITS)
def test_the_float_type_has_every_bit_pattern_of_a_small_float(bits):
    exponent_bits = math.ceil(bits / 2)
    values = minifloat(exponent_bits, bits - 1 - exponent_bits, 1)
    expected = sorted({sign * value / values[-1] for value in values for sign in (-1, 1)})
    assert codebook("float", bits).tolist() == pytest.approx([float(value) for value in expected], abs=6e-8)
    assert len(expected) == 2**bits - 1  # two patterns are zero


def test_the_float_type_at_8_bits_is_torchs_e4m3_and_the_two_patterns_that_are_nan_there():
    finite = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    values = codebook("float", 8) * 480
    assert torch.equal(values[1:-1], finite[finite.isfinite()].unique()) and values[-1] == 480


@pytest.mark.parametrize("bits", BITS)
def test_the_quantile_type_has_quantiles_of_the_normal_distribution(bits):
    """As QLoRA's appendix has them at 4 bits: half the codes on each side, and the outermost ones as far from 1."""
    half, quantile = 2 ** (bits - 1), NormalDist().inv_cdf
    outermost = 1 - (1 / (2 * (2 * half)) + 1 / (2 * (2 * half - 1))) / 2
    above = [quantile(outermost - (outermost - 0.5) * step / half) for step in range(half)]
    below = [-quantile(outermost - (outermost - 0.5) * step / (half - 1)) for step in range(half - 1)]
    expected = [value / max(above) for value in sorted([*below, 0.0, *above])]
    assert codebook("quantile", bits).tolist() == pytest.approx(expected, abs=6e-8)


def test_the_quantile_type_at_4_bits_is_the_map_of_bitsandbytes(monkeypatch):
    def quantiles(shares):
        return torch.tensor([NormalDist().inv_cdf(share) for share in shares.tolist()], dtype=torch.float64)

    monkeypatch.setitem(sys.modules, "scipy", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "scipy.stats", SimpleNamespace(norm=SimpleNamespace(ppf=quantiles)))
    expected = bnb.create_normal_map().unique()
    assert torch.allclose(codebook("quantile", 4), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["int", "float", "quantile"])
@pytest.mark.parametrize("bits", BITS)
def test_every_weight_becomes_the_nearest_value_of_its_block(kind, bits):
    torch.manual_seed(bits)
    weight = torch.randn(4, 128) * 0.03
    values = quantize(weight, parse_format(f"{kind}{bits}:64")).values.double().view(-1, 64)
    blocks = weight.double().view(-1, 64)
    scales = weight.view(-1, 64).abs().amax(1, keepdim=True).half().double()
    grid = codebook(kind, bits).double() * scales
    least = (blocks[:, :, None] - grid[:, None]).abs().amin(2)
    assert torch.allclose((values - blocks).abs(), least, rtol=0, atol=1e-8)
    assert (values[:, :, None] - grid[:, None]).abs().amin(2).max() < 1e-8


def test_ternary_weights_are_those_of_bitnet():
    torch.manual_seed(0)
    weight = torch.randn(2, 64, dtype=torch.float64)
    for row, values in zip(weight.tolist(), quantize(weight, parse_format("ternary")).values.tolist()):
        mean = float(torch.tensor(sum(map(abs, row)) / len(row)).half())
        assert values == pytest.approx([mean * max(-1, min(1, round(x / mean))) for x in row], rel=1e-6)


def half_quadratic(row_blocks, bits):
    """Steps and zero points by the formulas of HQQ's text, one number after another.

    min over z of |W - D(z)|_p: W_e = shrink(W - D(z), β) = sign(x) max(0, |x| - |x|^(p-1) / β), then
    z = mean(W_q - (W - W_e) / s), and β grows; until the error is no longer less.
    """
    p, beta, most = 0.7, 10.0, 2**bits - 1
    steps = [(max(block) - min(block)) / most for block in row_blocks]
    zeros = [-min(block) / step for block, step in zip(row_blocks, steps)]
    best = None
    for _ in range(20):
        codes = [
            [min(max(round(x / step + zero), 0), most) for x in block]
            for block, step, zero in zip(row_blocks, steps, zeros)
        ]
        errors = [
            [x - step * (code - zero) for x, code in zip(block, coded)]
            for block, coded, step, zero in zip(row_blocks, codes, steps, zeros)
        ]
        error = sum(abs(e) for block in errors for e in block)
        if best and error >= best[0]:
            break
        best = (error, zeros)
        zeros = []
        for block, coded, missed, step in zip(row_blocks, codes, errors, steps):
            sparse = [math.copysign(max(0.0, abs(e) - abs(e) ** (p - 1) / beta), e) if e else 0.0 for e in missed]
            moved = [code - (x - e) / step for x, code, e in zip(block, coded, sparse)]
            zeros.append(sum(moved) / len(moved))
        beta *= 1.01
    return steps, best[1]


@pytest.mark.parametrize("bits", BITS)
def test_the_half_quadratic_search_is_that_of_its_formulas(bits):
    torch.manual_seed(bits)
    blocks = torch.randn(6, 32, dtype=torch.float64) * 3  # as large as makes the search move the zero points
    blocks[0, 3] = 25.0
    expected_steps, expected_zeros = half_quadratic(blocks.tolist(), bits)
    steps, zeros = steps_and_zeros(blocks, bits)
    plain = -blocks.amin(1) / torch.tensor(expected_steps)
    assert torch.equal(steps.flatten(), torch.tensor(expected_steps).half().float())
    assert torch.equal(zeros.flatten(), torch.tensor(expected_zeros).half().float())
    assert not torch.allclose(zeros.flatten().double(), plain, rtol=1e-3) or bits > 4
