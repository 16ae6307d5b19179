"""Predictions from a config: shapes weigh what real tensors weigh, and the allocator's simulation keeps its books."""

import pytest
import torch
from transformers import AutoConfig

from playground.memory import ledger, predict
from playground.memory.allocator import reserved
from playground.model.load import load
from playground.settings import Load, Settings


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt_neox", "opt"])
def test_shapes_weigh_what_real_tensors_weigh(toy, family, bits):
    folder, settings = toy(family), Load(bits=bits, dtype="bfloat16", device="cpu")
    real = ledger.parts(load(folder, settings, lambda *_: None).model)
    place = predict.Place("cpu", torch.float32 if bits == 32 else torch.bfloat16)
    found = predict.load(AutoConfig.from_pretrained(folder), Settings(load=settings), place)["parts"]
    tensors = 40 * 3 * 512  # each is rounded up to 512 bytes
    for part in ("weights", "quant_constants"):
        assert real[part] <= found.get(part, 0) <= real[part] + tensors


def test_a_hole_is_taken_again_and_pages_are_only_added():
    mib = 2**20
    assert reserved([(1, 10 * mib, "")]) == 20 * mib
    assert reserved([(1, 10 * mib, ""), (1, -10 * mib, ""), (2, 20 * mib, "")]) == 20 * mib
    assert reserved([(1, 10 * mib, ""), (2, 10 * mib, ""), (1, -10 * mib, ""), (3, 11 * mib, "")]) == 40 * mib
    assert reserved([(1, 512, "")]) == 2 * mib
