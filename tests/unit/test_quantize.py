"""Number formats of the bit-width lab, against their references: bitsandbytes, gguf, and the specifications' values."""

import gguf
import pytest
import torch
from bitsandbytes import functional as bnb
from torch import nn
from toys import keys
from transformers.pytorch_utils import Conv1D

from playground.errors import PlaygroundError
from playground.lab import gguf_types
from playground.lab.codebooks import codebook
from playground.lab.formats import BITS, BLOCKS, GGUF, parse_format, parse_formats
from playground.lab.k_quants import PACKERS
from playground.lab.layers import stored_as
from playground.lab.quantize import bits_per_weight, block_problems, quantize

ALL = [
    "bf16",
    *(f"{kind}{bits}" for kind in ("int", "float", "quantile", "hqq") for bits in BITS),
    *("ternary", "nf4", "fp4", "fp8", "nvfp4", "mxfp4", "int4:32", "int3:256", "nf4:128", "ternary:4096"),
    *(f"gguf-{variant}" for variant in GGUF),
]


@pytest.fixture(scope="module")
def weight():
    torch.manual_seed(0)
    values = torch.randn(48, 512) * 0.03
    values[3, 7] = 0.6  # an outlier
    values[5] = 0  # and a row of nothing
    return values


def _error(weight, name):
    return float((quantize(weight, parse_format(name)).values - weight).square().mean().sqrt())


@pytest.mark.parametrize("name", ALL)
def test_bytes_by_formula_are_those_of_the_tensors(weight, name):
    format = parse_format(name)
    quantized = quantize(weight, format)
    assert quantized.values.shape == weight.shape and quantized.values.isfinite().all()
    assert quantized.bytes == pytest.approx(bits_per_weight(format, tuple(weight.shape)) * weight.numel() / 8, abs=1)
    assert (quantized.values[5] == 0).all()


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith(("bf16", "fp8"))])
def test_a_block_has_no_more_values_than_its_code(weight, name):
    format = parse_format(name)
    values = quantize(weight, format).values
    size = min(format.block, 32) or 16
    codes = 3 if format.kind == "ternary" or format.variant.startswith("tq") else 2**format.bits
    assert max(len(block.unique()) for block in values.reshape(-1, size)) <= codes


@pytest.mark.parametrize("kind", ["int", "float", "quantile", "hqq"])
def test_each_bit_lessens_the_error(weight, kind):
    errors = [_error(weight, f"{kind}{bits}") for bits in BITS]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 20


def test_smaller_blocks_lessen_the_error(weight):
    errors = [_error(weight, f"int4:{block}") for block in BLOCKS]
    assert errors == sorted(errors)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("block", [32, 64, 256, 4096])
def test_nf4_and_fp4_are_those_of_bitsandbytes(weight, kind, block):
    packed, state = bnb.quantize_4bit(weight, blocksize=block, quant_type=kind)
    assert torch.equal(quantize(weight, parse_format(f"{kind}:{block}")).values, bnb.dequantize_4bit(packed, state))


def test_the_quantile_type_at_4_bits_is_nf4():
    assert torch.allclose(codebook("quantile", 4), bnb.get_4bit_type("nf4", "cpu").sort().values, atol=1e-6)


def test_the_float_type_at_4_bits_is_e2m1():
    assert codebook("float", 4).mul(6).tolist() == pytest.approx(
        [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]
    )


@pytest.mark.parametrize("variant", [variant for variant in GGUF if variant not in PACKERS])
def test_plain_gguf_types_are_those_of_the_gguf_package(weight, variant):
    kind = gguf.GGMLQuantizationType[variant.upper()]
    expected = gguf.dequantize(gguf.quantize(weight.numpy(), kind), kind)
    assert torch.equal(quantize(weight, parse_format(f"gguf-{variant}")).values, torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("variant", "most"), [("q2_k", 0.29), ("q3_k", 0.16), ("q4_k", 0.08), ("q5_k", 0.04), ("q6_k", 0.022)]
)
def test_k_quants_keep_what_their_bits_allow(variant, most):
    torch.manual_seed(1)
    weight = torch.randn(32, 512) * 0.02
    assert _error(weight, f"gguf-{variant}") / 0.02 < most


def test_mxfp4_follows_its_specification():
    row = torch.zeros(1, 32)
    row[0, :10] = torch.tensor([6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.75, 0.26])  # scale 1: ties to even codes
    expected = [6.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, -1.0, 0.5]
    assert quantize(row, parse_format("mxfp4")).values[0, :10].tolist() == expected
    assert quantize(row * 2**-20, parse_format("mxfp4")).values[0, :10].mul(2**20).tolist() == expected
    row[0, 0] = 7.9  # still scale 1, so it saturates
    assert quantize(row, parse_format("mxfp4")).values[0, 0] == 6


def test_mxfp4_is_that_of_the_gguf_package_where_no_value_is_a_tie(weight):
    kind = gguf.GGMLQuantizationType.MXFP4
    expected = gguf.dequantize(gguf.quantize(weight.numpy(), kind), kind)
    assert torch.equal(quantize(weight, parse_format("mxfp4")).values, torch.from_numpy(expected))


def test_nvfp4_scales_are_e4m3_times_one_of_the_tensor():
    weight = torch.zeros(1, 32)
    weight[0, :16], weight[0, 16:] = torch.linspace(-6, 6, 16) * 448, torch.linspace(-6, 6, 16) * 13
    values = quantize(weight, parse_format("nvfp4")).values
    assert values[0, 0] == -6 * 448 and values[0, 31] == 6 * 13  # both scales are numbers of E4M3
    assert set(values[0, :16].div(448).abs().tolist()) <= {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0}


def test_half_quadratic_search_lessens_the_error_where_there_are_outliers():
    torch.manual_seed(2)
    weight = torch.randn(64, 512) * 0.02
    weight[torch.rand_like(weight) < 0.01] *= 6
    error = (quantize(weight, parse_format("hqq3")).values - weight).abs().mean()
    low, high = weight.view(-1, 64).amin(1, keepdim=True), weight.view(-1, 64).amax(1, keepdim=True)
    plain = ((weight.view(-1, 64) - low) / (high - low) * 7).round() / 7 * (high - low) + low
    assert error < 0.97 * (plain.view_as(weight) - weight).abs().mean()


@pytest.mark.parametrize("name", ["int8", "int4", "quantile4", "float4", "ternary"])
def test_small_weights_are_quantized_as_large_ones_are(weight, name):
    """Their scales are subnormal in float16, which costs them some digits, but no more."""

    def relative_error(times):
        given = weight * times
        return float((quantize(given, parse_format(name)).values - given).norm() / given.norm())

    largest = float(weight.abs().max())
    assert relative_error(3e-5 / largest) < 1.1 * relative_error(1.0) + 0.002


def test_half_quadratic_values_far_from_zero_stay_close():
    for center, width in ((100.0, 1e-3), (-100.0, 1e-3), (5e-5, 1e-4), (0.5, 0.0)):
        weight = center + width * torch.linspace(-1, 1, 64)[None]
        values = quantize(weight, parse_format("hqq4")).values
        assert values.isfinite().all() and (values - weight).abs().max() < 1e-3 * abs(center) + 5e-5


def test_weights_beyond_float16_are_refused():
    for name in ("int4", "ternary", "hqq4"):
        with pytest.raises(PlaygroundError) as caught:
            quantize(1e7 * torch.linspace(-1, 1, 64)[None], parse_format(name))
        assert keys(caught) == ["error.lab_range"]


def test_names_that_are_no_formats_are_all_named():
    with pytest.raises(PlaygroundError) as caught:
        parse_formats("nf4, int9,  int3:63, bf16:64, gguf-q4_x, gguf-, INT4, :, int")
    named = [problem.values["name"] for problem in caught.value.problems]
    assert named == ["int9", "int3:63", "bf16:64", "gguf-q4_x", "gguf-", ":", "int"]
    assert [format.name for format in parse_formats("NF4, nf4:64, int4:64,, int4:128")] == ["nf4", "int4", "int4:128"]
    for text in (" , ", "int" + "4" * 5000, "int4:" + "6" * 5000):
        with pytest.raises(PlaygroundError):
            parse_formats(text)


def test_rows_that_are_no_whole_blocks_are_named():
    formats = parse_formats("int4:4096,gguf-q4_k,nvfp4,mxfp4")
    found = [(problem.values["name"], problem.values["columns"]) for problem in block_problems(formats, [48, 256, 40])]
    assert found == [("gguf-q4_k", 40), ("gguf-q4_k", 48), ("nvfp4", 40), ("mxfp4", 40), ("mxfp4", 48)]


@pytest.mark.parametrize(("variant", "instead"), [("q4_k", "q5_0"), ("q6_k", "q8_0"), ("q2_k", "q4_0")])
def test_rows_that_no_super_block_divides_get_another_type_as_in_llama_cpp(variant, instead):
    torch.manual_seed(3)
    weight, format = torch.randn(4, 96), parse_format(f"gguf-{variant}")
    other = parse_format(f"gguf-{instead}")
    assert torch.equal(quantize(weight, format).values, quantize(weight, other).values)
    assert bits_per_weight(format, (4, 96)) == bits_per_weight(other, (4, 96))
    assert gguf_types.replacements(variant, [(4, 96), (2, 64), (2, 256)]) == {instead: pytest.approx(0.5)}
    assert gguf_types.replacements(variant, [(2, 256)]) == {}


def test_a_models_layers_say_which_types_they_got_instead():
    layers = {"narrow": nn.Linear(96, 4, bias=False), "wide": nn.Linear(256, 8), "conv": Conv1D(2, 96)}
    replaced, all_weights = 96 * 4 + 96 * 2, 96 * 4 + 256 * 8 + 96 * 2
    assert stored_as(layers, parse_format("gguf-q4_k")) == {"q5_0": pytest.approx(replaced / all_weights)}
    assert stored_as(layers, parse_format("gguf-q8_0")) == stored_as(layers, parse_format("nf4")) == {}
