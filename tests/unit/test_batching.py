"""Padded and packed batches: in every mode, loss and gradients are those of the rows alone."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from toys import make_model

from playground.data.batch import Example, collate, epoch_batches, pack, shared_prefix
from playground.model.adapt import resolve_target_modules
from playground.train.batching import MASKED_TOKENS, MULTIPLE, Batcher
from playground.train.loss import Loss

PACKED_FAMILIES = ("llama", "gpt_neox", "gpt2", "gemma3_text")


def examples(sizes: list[tuple[int, int]], prefix: int = 7, seed: int = 0) -> list[Example]:
    """Rows of random tokens. sizes: tokens of each (prompt, answer), after a prefix that all share."""
    draw = torch.Generator().manual_seed(seed)

    def ids(n):
        return torch.randint(5, 330, (n,), generator=draw).tolist()

    head = ids(prefix)
    return [Example(head + ids(prompt) + ids(answer), prefix + prompt) for prompt, answer in sizes]


def tuned(family: str, **changes):
    """A toy model with an adapter that isn't zero."""
    model = make_model(family, **changes)
    torch.manual_seed(1)
    model = get_peft_model(
        model, LoraConfig(r=4, target_modules=resolve_target_modules(model, "all-linear"), task_type="CAUSAL_LM")
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def loss_and_gradients(model, batches) -> tuple[float, dict[str, torch.Tensor]]:
    """Summed loss of batches, and the gradients of the adapter."""
    model.zero_grad()
    loss_module, total = Loss(model), 0.0
    for batch in batches:
        loss = loss_module(batch)
        loss.backward()
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_learns_the_same(model, batcher: Batcher, rows):
    loss, gradients = loss_and_gradients(model, [batcher.batch(rows)])
    expected_loss, expected = loss_and_gradients(model, [collate([row], 2, "cpu") for row in rows])
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected.keys() and any(g.abs().max() > 0 for g in expected.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-4, atol=1e-5 * max(1.0, expected[name].abs().max().item()), msg=name
        )


@pytest.mark.parametrize(
    "family", ["llama", "gpt_neox", "gpt2", "gemma3_text", "gemma2", "opt", "bloom", "falcon", "falcon_alibi"]
)
def test_a_batch_gives_the_gradients_of_its_rows_alone(family):
    model, rows = tuned(family), examples([(3, 4), (5, 9), (1, 2), (12, 6)])
    assert_learns_the_same(model, Batcher(Loss(model), rows, 2, "cpu"), rows)


@pytest.mark.parametrize("family", PACKED_FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_families_that_keep_rows_apart_are_packed(family, dtype):
    model, rows = tuned(family).to(dtype), examples([(3, 4), (5, 9), (1, 2), (12, 6)])
    batcher = Batcher(Loss(model), rows, 2, "cpu")
    assert batcher.packed and batcher.prefix == 7
    tokens, multiple = 7 + sum(len(r.ids) - 7 for r in rows), 1 if dtype == torch.float32 else MULTIPLE
    assert batcher.batch(rows).inputs["input_ids"].shape == (1, -(-tokens // multiple) * multiple)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["bloom", "falcon_alibi"])  # gemma2: in some versions of transformers
def test_families_that_mix_packed_rows_are_padded_in_any_precision(family, dtype):
    model, rows = tuned(family).to(dtype), examples([(3, 4), (5, 9), (1, 2)])
    assert not Batcher(Loss(model), rows, 2, "cpu").packed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eager_attention_is_padded_even_where_a_leak_would_hardly_show(dtype):
    model, rows = tuned("gptj").to(dtype), examples([(3, 4), (5, 4)], prefix=200)
    assert model.config._attn_implementation == "eager"
    assert not Batcher(Loss(model), rows, 2, "cpu").packed


@pytest.mark.parametrize("prefix", [0, 7])
def test_rows_longer_than_a_sliding_window_give_the_gradients_of_rows_alone(prefix):
    model, rows = tuned("gemma3_window"), examples([(40, 120), (8, 20), (90, 90)], prefix)
    assert_learns_the_same(model, Batcher(Loss(model), rows, 2, "cpu"), rows)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_without_a_shared_prefix_or_a_prompt_pack_exactly(family):
    model = tuned(family)
    rows = [Example(r.ids, 0) for r in examples([(2, 3), (4, 6), (9, 1)], prefix=0)]
    batcher = Batcher(Loss(model), rows, 2, "cpu")
    assert batcher.prefix == 0 and batcher.packed
    assert_learns_the_same(model, batcher, rows)


def test_the_shared_prefix_ends_before_the_token_that_predicts_a_trained_one():
    assert shared_prefix([Example([5, 6, 7, 8, 9], 3), Example([5, 6, 7, 8, 1], 4)]) == 2
    assert shared_prefix([Example([5, 6, 7], 0), Example([5, 6, 8], 3)]) == 0
    assert shared_prefix([Example([5, 6, 7], 2)] * 2) == 1
    assert shared_prefix([Example([5, 6, 7], 3), Example([9, 6, 7], 3)]) == 0


def test_a_packed_batch_has_exactly_the_labels_of_its_rows():
    rows = [*examples([(3, 4), (5, 9), (1, 2)]), Example([*examples([(1, 1)])[0].ids, 40, 41], 8)]
    batch = pack(rows, shared_prefix(rows), "cpu")
    targets = [t for r in rows for t in r.ids[r.trained_from :]]
    assert batch.targets.tolist() == targets and batch.labelled == sum(r.labelled for r in rows)
    assert batch.inputs["input_ids"].flatten()[batch.positions + 1].tolist() == targets
    assert collate(rows, 2, "cpu").targets.tolist() == targets


def test_padding_is_masked_and_unlabelled():
    batch = collate([Example([5, 6, 7, 8], 2), Example([9, 9], 1)], 2, "cpu")
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7, 8], [9, 9, 2, 2]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.positions.tolist() == [1, 2, 4] and batch.targets.tolist() == [7, 8, 9]


def test_micro_batches_contain_every_row_once_within_the_length_of_a_masked_sequence():
    model, rows = tuned("llama"), examples([(60, 140)] * 11 + [(3, 4)] * 5)
    batcher = Batcher(Loss(model), rows, 2, "cpu")
    parts = list(batcher.micro_batches(rows, 8))
    assert [r for part in parts for r in part] == rows and max(map(len, parts)) <= 8
    assert all(
        batcher.batch(part).inputs["input_ids"].shape[1] == batcher.computed_tokens(part) <= MASKED_TOKENS
        for part in parts
    )
    assert sum(batcher.batch(part).labelled for part in batcher.micro_batches(rows, 4)) == 11 * 140 + 5 * 4


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_only_a_single_long_row_exceeds_the_token_budget(family):
    model, rows = tuned(family), examples([(20, 30), (5, 9), (90, 90), (3, 2), (8, 8)])
    batcher = Batcher(Loss(model), rows, 2, "cpu")
    parts = list(batcher.micro_batches(rows, 5, 100))
    assert [r for part in parts for r in part] == rows
    assert [len(part) for part in parts if batcher.computed_tokens(part) > 100] == [1]


def test_an_epoch_contains_every_row_once_and_repeats_with_its_seed():
    rows = examples([(n % 5 + 1, 2) for n in range(37)])
    once, again, other = epoch_batches(rows, 8, 3), epoch_batches(rows, 8, 3), epoch_batches(rows, 8, 4)
    assert once == again != other
    assert sorted(map(id, (r for part in once for r in part))) == sorted(map(id, rows))
    assert max(map(len, once)) == 8


def test_half_precision_on_a_cpu_fills_sequences_up_to_a_multiple_without_changing_labels():
    model, rows = tuned("llama"), examples([(n, n + 3) for n in range(3, 12)])
    exact = Batcher(Loss(model), rows, 2, "cpu")
    model.to(torch.bfloat16)
    rounded = Batcher(Loss(model), rows, 2, "cpu")
    assert rounded.mode == exact.mode == "masked"
    for part in (rows[:4], rows[2:9], rows):
        filled, whole = rounded.batch(part), exact.batch(part)
        size = filled.inputs["input_ids"].shape[1]
        assert size % MULTIPLE == 0 and size - MULTIPLE < whole.inputs["input_ids"].shape[
            1
        ] <= size == rounded.computed_tokens(part)
        assert (
            filled.targets.tolist() == whole.targets.tolist() and filled.positions.tolist() == whole.positions.tolist()
        )
        length = whole.inputs["attention_mask"].shape[-1]
        assert torch.equal(filled.inputs["attention_mask"][..., :length, :length], whole.inputs["attention_mask"])
        assert not filled.inputs["attention_mask"][..., :length, length:].any()  # no row sees the filling


def test_a_mode_that_is_known_is_not_tried_again(monkeypatch):
    model, rows = tuned("llama"), examples([(3, 4), (5, 9)])
    monkeypatch.setattr(Batcher, "_hidden_states", lambda *_: pytest.fail("tried"))
    padded, masked = (Batcher(Loss(model), rows, 2, "cpu", mode) for mode in ("padded", "masked"))
    assert (padded.mode, padded.prefix) == ("padded", 0)
    assert (masked.mode, masked.prefix) == ("masked", 7)
