"""Streamed layers compute what resident ones do, to the bit, with two buffers and copies in the order of computing."""

import pytest
import torch
from streamed_toys import KINDS, LAYERS, answer, loss_and_gradients, tuned
from toys import make_model

from playground.memory.ledger import bytes_by_part
from playground.model.load import quantization_config
from playground.model.streamed_load import layer_names, place_streamed
from playground.model.streaming import BUFFERS, _Copy, streamed_numbers
from playground.settings import Load
from playground.train.checkpointing import CheckpointPolicy

FAMILIES = ("gpt_neox", "gpt2", "gemma2", "mixtral", "falcon")
POLICIES = {"16": ("off", "2", "offload"), "nf4": ("off", "all")}


def assert_bit_equal(streamed, resident):
    assert len(streamed) == len(resident)
    for one, other in zip(streamed, resident):
        assert one.isfinite().all() and torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_gradients_and_answers_are_those_of_resident_layers(kind):
    results = []
    for count in (4, 0):
        model, _ = tuned("llama", kind, count, "cpu")
        results.append([answer(model, "cpu")])
        for how in POLICIES.get(kind, ("all",)):
            results[-1] += loss_and_gradients(model, "cpu", CheckpointPolicy(how))
        results[-1].append(answer(model, "cpu"))
    assert_bit_equal(*results)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_the_same(family):
    results = []
    for count in (3, 0):
        model, _ = tuned(family, "16", count, "cpu")
        results.append([*loss_and_gradients(model, "cpu", CheckpointPolicy("off")), answer(model, "cpu")])
    assert_bit_equal(*results)


def test_layers_share_two_buffers_and_wait_in_main_memory():
    model, streamed = tuned("llama", "16", 4, "cpu")
    layers = [layer.self_attn.q_proj.base_layer.weight for layer in streamed.layers]
    places = [layers[number].data_ptr() for number in streamed.numbers]
    assert len(set(places)) == BUFFERS == 2 and places[0] == places[2] != places[1]
    weights = sum(p.nbytes for p in streamed.layers[0].parameters() if p.nbytes >= 2048 and not p.requires_grad)
    assert streamed.bytes == 4 * weights
    resident, _ = tuned("llama", "16", 0, "cpu")
    saved = bytes_by_part(resident)["weights"] - bytes_by_part(model)["weights"]
    assert saved == (4 - BUFFERS) * weights


@pytest.mark.parametrize("how", ["off", "all"])
def test_copies_are_in_the_order_of_computing_and_no_layer_is_copied_without_need(monkeypatch, how):
    model, streamed = tuned("llama", "16", LAYERS, "cpu")
    loss_and_gradients(model, "cpu", CheckpointPolicy(how))
    fetched, copy = [], streamed.waiting.copy
    monkeypatch.setattr(streamed.waiting, "copy", lambda position, to: (fetched.append(position), copy(position, to)))
    copied = streamed.copied
    loss_and_gradients(model, "cpu", CheckpointPolicy(how))
    # the last two layers are there from the forward pass when the backward pass begins, the first two after it
    assert fetched[-6:] == [2, 3, 4, 2, 1, 0]
    assert streamed.copied - copied == len(fetched) * streamed.bytes // 5
    assert streamed.take_stall() > 0 == streamed.take_stall()


def test_states_name_the_layers_in_the_buffers_and_the_one_that_is_being_copied(monkeypatch):
    model, streamed = tuned("llama", "16", 4, "cpu")
    assert streamed.states() == {"ready": [], "copying": []}
    during, copy = [], streamed.waiting.copy

    def noted(position, target):
        during.append(streamed.states())
        copy(position, target)

    monkeypatch.setattr(streamed.waiting, "copy", noted)
    with torch.no_grad():
        model(torch.arange(5, 25)[None])
    assert streamed.numbers == [0, 1, 2, 4]
    assert during[:4] == [
        {"ready": [], "copying": [0]},
        {"ready": [0], "copying": [1]},
        {"ready": [1], "copying": [2]},
        {"ready": [2], "copying": [4]},
    ]
    assert streamed.states() == {"ready": [0, 1], "copying": []}  # for the next forward pass


class LateEvent:
    """An event that a device comes to later."""

    def __init__(self):
        self.is_over = False

    def query(self):
        return self.is_over


def test_states_are_those_of_a_device_that_is_behind_the_program():
    _, streamed = tuned("llama", "16", LAYERS, "cpu")
    copies = [_Copy(position, LateEvent(), LateEvent()) for position in range(LAYERS)]
    for copy in copies:  # the program has asked for all of them; the device comes to them one after another
        streamed._note(copy)
    assert streamed.states() == {"ready": [], "copying": []}
    seen = []
    for copy in copies:
        copy.began.is_over = True
        seen.append(streamed.states())
        copy.ended.is_over = True
    assert seen == [
        {"ready": [], "copying": [0]},
        {"ready": [0], "copying": [1]},
        {"ready": [1], "copying": [2]},
        {"ready": [2], "copying": [3]},
        {"ready": [3], "copying": [4]},
    ]
    streamed._note(_Copy(0, LateEvent(), LateEvent()))
    assert len(streamed._copies[0]) == 2  # those that the device is past are forgotten
    assert streamed.states() == {"ready": [3, 4], "copying": []}


@pytest.mark.parametrize("count,numbers", [(0, []), (3, [0, 2, 4]), (4, [0, 1, 2, 4]), (5, [0, 1, 2, 3, 4])])
def test_streamed_layers_are_spread_evenly(count, numbers):
    assert streamed_numbers(count, LAYERS) == numbers


@pytest.mark.parametrize("kind", ["nf4", "int8", "fp8"])
def test_each_quantized_weight_is_reported_so_that_its_pages_are_given_back(kind):
    model, steps = make_model("llama", num_hidden_layers=LAYERS).to(torch.bfloat16), []
    load = Load(streamed_layers="3", **KINDS[kind])
    count = len([1 for layer in layer_names(model).values() for m in layer.modules() if isinstance(m, torch.nn.Linear)])
    place_streamed(model, load, quantization_config(load, torch.bfloat16), "cpu", lambda *step: steps.append(step))
    assert len(steps) == count + len(layer_names(model))
