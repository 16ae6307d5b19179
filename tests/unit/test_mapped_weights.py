"""Matrices that wait in their files become the numbers that a whole load gives."""

import pytest
import torch

from playground.model import mapped_weights
from playground.model.load import load_model
from playground.settings import Load

CPU = torch.device("cpu")


def load(folder, bits, split):
    load = Load(model=str(folder), device="cpu", bits=bits, dtype="bfloat16")
    return load_model(folder, load, lambda *step: None, "cpu", split)


@pytest.mark.parametrize("family", ["llama-tied", "t5", "gpt2"])
@pytest.mark.parametrize("bits", [32, 16])
def test_what_was_read_late_is_what_is_read_at_once(toy, family, bits):
    whole, late = load(toy(family), bits, False), load(toy(family), bits, True)
    waiting = [p for p in late.model.parameters() if mapped_weights.waiting_dtype(p)]
    assert waiting and late.pages and not whole.pages
    assert {mapped_weights.waiting_dtype(p) for p in waiting} == {late.dtype}
    mapped_weights.read(late.model)
    assert not any(mapped_weights.waiting_dtype(p) for p in late.model.parameters())
    for (name, expected), actual in zip(whole.model.named_parameters(), late.model.parameters(), strict=True):
        assert actual.dtype == expected.dtype and torch.equal(actual, expected), name


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_rows_of_all_processes_are_the_matrix(toy, processes):
    expected = dict(load(toy(), 16, False).model.named_parameters())
    for rank in range(processes):
        model = load(toy(), 16, True).model
        mapped_weights.read_rows(model.parameters(), CPU, rank, processes)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                own, whole = (tensor.chunk(processes) for tensor in (parameter, expected[name]))
                assert parameter.dtype == torch.bfloat16
                assert rank >= len(own) or torch.equal(own[rank], whole[rank]), name


def test_a_matrix_of_fewer_rows_than_processes_leaves_some_none():
    weight = torch.nn.Parameter(torch.ones(1, 4))
    weight.read_as = torch.bfloat16
    mapped_weights.read_rows([weight], CPU, 1, 2)
    assert weight.shape == (1, 4) and weight.dtype == torch.bfloat16
