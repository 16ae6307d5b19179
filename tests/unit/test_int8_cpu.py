"""Integer products on a CPU: the same numbers whatever the size of the blocks that they are made in."""

import pytest
import torch

from playground.model import int8_cpu, row_scales
from playground.train import quantized_ops


@pytest.fixture(params=[1, 700, 2**19])
def block(request, monkeypatch):
    """Blocks of one row, of several with a shorter last one, and a single block."""
    monkeypatch.setattr(row_scales, "BLOCK", request.param)
    return request.param


def codes_of(rows, columns):
    return torch.randint(-127, 128, (rows, columns), dtype=torch.int8)


def test_blocks_are_all_rows_once(block):
    for shape in ((37, 128), (1, 5000), (0, 4), (3, 0)):
        rows = [row for part in row_scales.row_blocks(shape) for row in range(*part.indices(shape[0]))]
        assert rows == list(range(shape[0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_products_are_exact_up_to_the_result_s_type(block, dtype):
    torch.manual_seed(0)
    a, b = codes_of(37, 128), codes_of(48, 128)
    a_scales, b_scales, bias = torch.rand(37) / 1000, torch.rand(48), torch.randn(48).to(dtype)
    exact = (a.double() @ b.double().T) * a_scales.double()[:, None]
    for given_scales, given_bias in ((None, None), (b_scales, None), (b_scales, bias), (None, bias)):
        expected = exact * (1 if given_scales is None else given_scales.double())
        expected = expected + (0 if given_bias is None else given_bias.double())
        found = int8_cpu.multiply(a, b, a_scales, given_scales, given_bias, dtype)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-3)
    transposed = int8_cpu.multiply(a, b.t().contiguous().t(), a_scales, b_scales, None, dtype)
    assert torch.equal(transposed, int8_cpu.multiply(a, b, a_scales, b_scales, None, dtype))


def test_a_token_is_rounded_to_127ths_of_its_largest_number(block):
    x = torch.randn(33, 96) * torch.logspace(-6, 3, 33)[:, None]
    x[4] = 0
    factors, before = torch.rand(96), x.clone()
    for given, rows in ((None, x), (factors, x * factors)):
        codes, scales = int8_cpu.quantize_tokens(x, given)
        largest = rows.abs().amax(1)
        assert scales[4] == 1 and (codes[4] == 0).all() and codes.abs().amax() == 127
        assert ((codes * scales[:, None] - rows).abs() <= largest[:, None] / 127 / 2 * 1.0001).all()
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("format", ["int8", "int8-fast", "fp8"])
def test_a_dequantized_weight_is_each_code_times_its_row_s_scale(block, dtype, format):
    codes, scales = codes_of(37, 128), torch.rand(37)
    values, factors = codes.float(), scales / 127 if format == "int8" else scales
    if format == "fp8":
        stored = torch.randn(37, 128).to(torch.float8_e4m3fn)
        codes, values = stored.view(torch.uint8), stored.float()
    weight = quantized_ops.FrozenWeight(codes, format, [scales], 0, 0, 37, 128)
    assert torch.equal(quantized_ops.dequantize(weight, dtype), (values * factors[:, None]).to(dtype))
