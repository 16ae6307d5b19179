"""Exact bytes of tensors by part."""

import torch
from torch import nn

from playground.memory.ledger import EXACT_PARTS, bytes_by_part


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    assert bytes_by_part(model)["weights"] == 2 * 8 * 8 * 4
    model[1].weight = model[0].weight
    assert bytes_by_part(model)["weights"] == 8 * 8 * 4


def test_gradients_and_optimizer_state_count_once_they_are_allocated():
    model = nn.Linear(8, 8, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    assert bytes_by_part(model, optimizer) == dict.fromkeys(EXACT_PARTS, 0) | {"weights": 256}
    model(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    sizes = bytes_by_part(model, optimizer)
    assert sizes["gradients"] == 256 and sizes["optimizer"] == 2 * 256 + 4  # two moments, and the count of steps
    optimizer.zero_grad()
    assert bytes_by_part(model, optimizer)["gradients"] == 0


def test_adapters_are_apart_from_weights_and_meta_tensors_count_nothing():
    model = nn.ModuleDict({"lora_A": nn.Linear(4, 4, bias=False), "base": nn.Linear(4, 4, bias=False)})
    sizes = bytes_by_part(model)
    assert (sizes["adapters"], sizes["weights"]) == (64, 64)
    assert bytes_by_part(model.to("meta")) == dict.fromkeys(EXACT_PARTS, 0)


def test_without_a_model_all_parts_are_zero():
    assert bytes_by_part(None) == dict.fromkeys(EXACT_PARTS, 0)
