"""The chunked loss against torch's own cross-entropy."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from toys import make_model

from playground.data.batch import Example, collate
from playground.model.load import load_model
from playground.settings import Load, Lora, Settings
from playground.train import loss as loss_module
from playground.train.loss import Loss, chunked_loss
from playground.train.prepare import make_trainable


def random_case(bias: bool, rows=3, tokens=40, width=16, vocabulary=50):
    torch.manual_seed(0)
    head = nn.Linear(width, vocabulary, bias=bias).requires_grad_(False)
    hidden = torch.randn(rows, tokens, width, requires_grad=True)
    labels = torch.randint(0, vocabulary, (rows, tokens))
    labels[torch.rand(rows, tokens) < 0.4] = -100
    return head, hidden, labels


def positions_and_targets(labels):
    """Positions whose next token is labelled, and those tokens."""
    next_labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], 1).flatten()
    positions = (next_labels != -100).nonzero().squeeze(1)
    return positions, next_labels[positions]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("logits_at_once", [2**24, 1])  # all in one chunk, and the smallest chunk of 16 positions
def test_value_and_gradient_are_those_of_cross_entropy(monkeypatch, bias, logits_at_once):
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", logits_at_once)
    head, hidden, labels = random_case(bias)
    assert (labels[:, 1:] != -100).sum() > 16
    loss = chunked_loss(hidden, head, *positions_and_targets(labels))
    (3.0 * loss).backward()
    gradient, hidden.grad = hidden.grad, None
    expected = functional.cross_entropy(
        head(hidden[:, :-1]).flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
    (3.0 * expected).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, hidden.grad, rtol=1e-5, atol=1e-5)


def test_rows_without_labels_have_no_loss_and_no_gradient():
    head, hidden, labels = random_case(False)
    loss = chunked_loss(hidden, head, *positions_and_targets(torch.full_like(labels, -100)))
    loss.backward()
    assert loss.item() == 0 and hidden.grad.abs().max() == 0


ROWS = [Example([0, 9, 17, 33, 60, 70], 3), Example([0, 12, 8, 1], 1)]


@pytest.mark.parametrize(
    "family", ["llama", "llama-tied", "gpt_neox", "gpt2", "gemma3_text", "gemma2", "opt", "bloom", "falcon"]
)
def test_the_loss_is_the_cross_entropy_of_the_models_logits(family):
    model = make_model(family).requires_grad_(False)
    batch = collate(ROWS, 2, "cpu")
    total = Loss(model)(batch)
    logits = model(**batch.inputs).logits
    labels = torch.tensor([[-100] * 3 + ROWS[0].ids[3:], [-100, *ROWS[1].ids[1:], -100, -100]])
    targets = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
    assert batch.labelled == 6
    torch.testing.assert_close(total, targets, rtol=1e-5, atol=1e-5)


def test_a_plain_frozen_head_is_chunked():
    assert Loss(make_model("llama").requires_grad_(False)).chunked


def test_dropout_of_an_adapter_that_changes_answers_already_leaves_the_loss_chunked(toy):
    load, lora = Load(model=str(toy()), bits=32, device="cpu"), Lora(init="pissa", dropout=0.5)
    loaded = load_model(toy(), load, lambda *step: None)
    make_trainable(loaded, Settings(load=load, lora=lora))
    assert Loss(loaded.model).chunked


def test_a_trained_head_is_not_chunked():
    model = make_model("llama").requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    loss = Loss(model)
    assert not loss.chunked
    loss(collate(ROWS, 2, "cpu")).backward()
    assert model.lm_head.weight.grad.abs().max() > 0


def test_soft_capped_logits_are_not_chunked():
    assert not Loss(make_model("gemma2").requires_grad_(False)).chunked
