"""Predictions from a config: shapes weigh what real tensors weigh, and the allocator's simulation keeps its books."""

import pytest
import torch
from toys import FAMILIES
from transformers import AutoConfig

from playground.memory import ledger, predict
from playground.memory.allocator import reserved
from playground.model.load import load
from playground.model.tensors import tensors
from playground.settings import Load, Settings


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_weigh_what_real_tensors_weigh(toy, family, bits):
    folder, settings = toy(family), Load(bits=bits, dtype="bfloat16", device="cpu")
    model = load(folder, settings, lambda *_: None).model
    real, rounded = ledger.parts(model), 512 * len(list(tensors(model)))
    place = predict.Place("cpu", torch.float32 if bits == 32 else torch.bfloat16)
    found = predict.load(AutoConfig.from_pretrained(folder), Settings(load=settings), place)["parts"]
    for part in ("weights", "quant_constants"):
        assert real[part] <= found.get(part, 0) <= real[part] + rounded


def test_a_hole_is_taken_again_and_pages_are_only_added():
    mib = 2**20
    assert reserved([(1, 10 * mib, "")]) == 20 * mib
    assert reserved([(1, 10 * mib, ""), (1, -10 * mib, ""), (2, 20 * mib, "")]) == 20 * mib
    assert reserved([(1, 10 * mib, ""), (2, 10 * mib, ""), (1, -10 * mib, ""), (3, 11 * mib, "")]) == 40 * mib
    assert reserved([(1, 512, "")]) == 2 * mib
