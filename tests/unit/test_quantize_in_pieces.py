"""Quantizing to 4 bits in pieces: the same result with less memory."""

import bitsandbytes.functional as F
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from playground.model import quantize_in_pieces
from playground.model.load import load_model
from playground.model.quantize_in_pieces import QuantizeInPieces, in_pieces
from playground.settings import Load

OPERATOR = torch.ops.bitsandbytes.quantize_4bit.default


class Sizes(TorchDispatchMode):
    """Numbers of weights that the operator is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is OPERATOR:
            self.seen.append(args[0].numel())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [(8, 64), (16, 64), (37, 100), (3, 21)])  # also no whole number of blocks
def test_pieces_give_the_same_weights_scales_and_state(monkeypatch, shape, quant_type, dtype):
    monkeypatch.setattr(quantize_in_pieces, "PIECE", 512)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    for storage, nested in ((torch.uint8, True), (torch.bfloat16, False)):
        if storage != torch.uint8 and weight.numel() % 128:
            continue
        arguments = {"compress_statistics": nested, "quant_type": quant_type, "quant_storage": storage}
        packed, state = F.quantize_4bit(weight, **arguments)
        with QuantizeInPieces():
            other, other_state = F.quantize_4bit(weight, **arguments)
        assert torch.equal(packed.view(torch.uint8), other.view(torch.uint8)) and other.dtype == storage
        assert torch.equal(state.absmax, other_state.absmax)
        assert torch.equal(F.dequantize_4bit(packed, state), F.dequantize_4bit(other, other_state))


def test_a_large_weight_comes_in_pieces_and_a_small_one_whole():
    with Sizes() as sizes, QuantizeInPieces():
        F.quantize_4bit(torch.ones(5, 2**17), quant_type="nf4")
        F.quantize_4bit(torch.ones(64, 64), quant_type="nf4")
    assert sizes.seen == [2**18, 2**18, 2**17, 2**12]


def test_a_load_quantizes_in_pieces(monkeypatch, toy):
    monkeypatch.setattr(quantize_in_pieces, "PIECE", 256)
    with Sizes() as sizes:
        load_model(toy(), Load(model="toy", bits=4, device="cpu"), lambda *step: None)
    assert len(sizes.seen) > 100 and max(sizes.seen) == 256


def test_operators_are_watched_only_where_4_bits_are_made_on_a_cpu():
    kinds = [
        isinstance(in_pieces(*case), QuantizeInPieces) for case in ((4, "cpu"), (4, "cuda"), (8, "cpu"), (16, "cpu"))
    ]
    assert kinds == [True, False, False, False]
