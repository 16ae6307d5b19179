"""Base and tuned answers from one copy of the weights; training after chatting at 4 bits."""

import itertools
import threading

import pytest
import torch
from toys import keys

from playground.chat.generate import Prompt, generate_answers
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.model import adapt
from playground.model.adapt import ADAPTER_NAME
from playground.model.load import load_model
from playground.settings import Generation, Load, Lora

PROMPTS = ([0, 40, 41, 42, 60], [0, 99, 30, 31, 120, 121, 7, 8])
PLAIN = Generation(max_new_tokens=16)


def load(folder, bits):
    return load_model(folder, Load(model=str(folder), bits=bits, device="cpu", dtype="bfloat16"), lambda *_: None)


def with_adapter(loaded, **lora):
    """The loaded model with an adapter that changes its answers."""
    loaded.model = adapt.add_lora(loaded.model, Lora(r=4, **lora), loaded.dtype, 0)
    torch.manual_seed(5)
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    loaded.model.eval()
    return loaded


def answers(loaded, prompts, generation=PLAIN) -> list[dict]:
    return list(generate_answers(loaded.model, loaded.tokenizer, prompts, [1], generation, threading.Event()))


def both_sides(ids) -> list[Prompt]:
    return [Prompt(ids), Prompt(ids, ADAPTER_NAME)]


# OPT flattens rows and tokens to one dimension; test_families.py compares sides of all families at more widths
FAMILIES_AT_BITS = [
    pytest.param(family, bits, marks=[pytest.mark.exhaustive] * (family != "llama" and bits != 4))
    for family in ("llama", "gpt2", "gpt_neox", "opt")
    for bits in (32, 16, 4)
]


@pytest.mark.slow
@pytest.mark.parametrize("family,bits", FAMILIES_AT_BITS)
def test_base_answers_equal_those_of_a_model_without_adapter(toy, family, bits):
    tuned_model, base_model = with_adapter(load(toy(family), bits)), load(toy(family), bits)
    for ids in PROMPTS:
        base, tuned = answers(tuned_model, both_sides(ids))[-1]["texts"]
        expected = answers(base_model, [Prompt(ids)] * 2)[-1]["texts"]
        assert [base, base] == expected and base
        assert tuned != base
        assert answers(tuned_model, [Prompt(ids)])[-1]["texts"] == answers(base_model, [Prompt(ids)])[-1]["texts"]


@pytest.mark.slow
@pytest.mark.parametrize("family,lora", [("llama", {"use_dora": True}), ("switch", {}), ("qwen2_moe", {})])
@pytest.mark.parametrize("beams", [1, 3])
def test_base_answers_are_the_same_where_mixed_batches_are_not_supported(toy, family, lora, beams):
    tuned_model, base_model, generation = (
        with_adapter(load(toy(family), 32), **lora),
        load(toy(family), 32),
        Generation(max_new_tokens=12, num_beams=beams),
    )
    events = answers(
        tuned_model, [Prompt(PROMPTS[0]), Prompt(PROMPTS[1], ADAPTER_NAME), Prompt(PROMPTS[1])], generation
    )
    base = answers(base_model, [Prompt(PROMPTS[0]), Prompt(PROMPTS[1])], generation)[-1]["texts"]
    [tuned] = answers(tuned_model, [Prompt(PROMPTS[1], ADAPTER_NAME)], generation)[-1]["texts"]
    assert events[-1]["texts"] == [base[0], tuned, base[1]] and tuned != base[1]
    tokens = [e["tokens"] for e in events]
    assert tokens == sorted(tokens) and tokens[-1] <= 12


def test_rows_of_different_lengths_are_answered_as_they_are_alone(toy):
    tuned_model = with_adapter(load(toy(), 32))
    together = answers(tuned_model, [Prompt(PROMPTS[0]), Prompt(PROMPTS[1], ADAPTER_NAME)])[-1]["texts"]
    alone = [
        answers(tuned_model, [Prompt(PROMPTS[0])])[-1]["texts"][0],
        answers(tuned_model, [Prompt(PROMPTS[1], ADAPTER_NAME)])[-1]["texts"][0],
    ]
    assert together == alone


def test_texts_grow_token_by_token(toy):
    events = answers(with_adapter(load(toy(), 32)), both_sides(PROMPTS[0]))
    assert [e["tokens"] for e in events[:-1]] == list(range(1, len(events)))
    for before, after in itertools.pairwise(events):
        assert all(new.startswith(old) for old, new in zip(before["texts"], after["texts"]))


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}])  # with DoRA the sides are answered one after the other
def test_each_answer_tells_how_and_when_it_ended(toy, lora):
    tuned_model = with_adapter(load(toy(), 32), **lora)
    base, tuned = (answers(tuned_model, [Prompt(PROMPTS[0], name)])[-1]["ids"][0] for name in (None, ADAPTER_NAME))
    end_id = next(token for token in base if token not in tuned)
    *_, last = generate_answers(
        tuned_model.model, tuned_model.tokenizer, both_sides(PROMPTS[0]), [end_id], PLAIN, threading.Event()
    )
    assert [end["finish"] for end in last["ends"]] == ["end", "limit"]
    assert [end["tokens"] for end in last["ends"]] == [base.index(end_id) + 1, PLAIN.max_new_tokens]
    assert all(end["seconds"] > 0 for end in last["ends"])
    if not lora:
        assert last["ends"][0]["seconds"] < last["ends"][1]["seconds"]


def test_beam_search_yields_texts_at_the_end_and_keeps_the_base_answer(toy):
    generation = Generation(max_new_tokens=10, num_beams=3)
    tuned_model, base_model = with_adapter(load(toy(), 32)), load(toy(), 32)
    events = answers(tuned_model, both_sides(PROMPTS[1]), generation)
    assert len(events) > 2 and [e for e in events if "texts" in e] == events[-1:]
    assert events[-1]["texts"][0] == answers(base_model, [Prompt(PROMPTS[1])] * 2, generation)[-1]["texts"][0]
    assert events[-1]["texts"][0] != events[-1]["texts"][1]


def test_sampling_is_reproducible_by_seed(toy):
    tuned_model = with_adapter(load(toy(), 32))

    def sample(seed):
        return answers(tuned_model, both_sides(PROMPTS[0]), Generation(max_new_tokens=16, temperature=1.0, seed=seed))[
            -1
        ]["texts"]

    assert sample(1) == sample(1) != sample(2)


def test_stop_ends_generation_with_the_text_so_far(toy):
    tuned_model, stop = with_adapter(load(toy(), 32)), threading.Event()
    events = []
    for event in generate_answers(
        tuned_model.model, tuned_model.tokenizer, both_sides(PROMPTS[0]), [], Generation(max_new_tokens=400), stop
    ):
        events.append(event)
        if len(events) == 3:
            stop.set()
    assert 3 <= events[-1]["tokens"] < 400 and len(events[-1]["texts"]) == 2
    assert [end["finish"] for end in events[-1]["ends"]] == ["stopped", "stopped"]


def test_closing_the_iterator_stops_generation(toy):
    tuned_model, stop = with_adapter(load(toy(), 32)), threading.Event()
    before = threading.active_count()
    events = generate_answers(
        tuned_model.model, tuned_model.tokenizer, both_sides(PROMPTS[0]), [], Generation(max_new_tokens=400), stop
    )
    next(events)
    events.close()
    assert stop.is_set() and threading.active_count() == before


def test_errors_of_the_generating_thread_are_raised_to_the_reader(toy):
    tuned_model = with_adapter(load(toy(), 32))
    with pytest.raises(IndexError):
        answers(tuned_model, [Prompt([0, 100_000])])


def _gradients(loaded) -> dict[str, torch.Tensor]:
    tuned = adapt.add_lora(loaded.model, Lora(r=4), loaded.dtype, 0)
    torch.manual_seed(3)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tuned.train()
    ids = torch.tensor([PROMPTS[1]])
    tuned(input_ids=ids, labels=ids).loss.backward()
    return {n: p.grad for n, p in tuned.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("bits", [4, 8])
def test_chatting_first_leaves_gradients_unchanged(toy, bits):
    chatted, fresh = load(toy(), bits), load(toy(), bits)
    answers(chatted, [Prompt(PROMPTS[0])])
    after_chat, expected = _gradients(chatted), _gradients(fresh)
    assert len(after_chat) == 28
    for name, gradient in after_chat.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=0, msg=name)


QUESTION = [{"instruction": "What is the answer to question 3?", "answer": None}]


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 4])
def test_chat_and_training_alternate(chosen, tmp_path, bits):
    bench, settings = (
        Workbench(tmp_path),
        chosen(load={"bits": bits}, data={"end_row": 8, "held_out": 0.3}, train={"max_steps": 2, "batch_size": 2}),
    )

    def chat(adapter):
        return [
            e
            for e in bench.chat(settings, adapter, {"base": QUESTION, "tuned": QUESTION}, PLAIN)
            if e["kind"] == "answer"
        ][-1]

    first = chat(None)
    assert "tuned" not in first
    results = [list(bench.tune(settings))[-1]["result"] for _ in range(2)]
    answer = chat(results[1]["run"])
    assert (
        answer["base"] == first["base"] or bits == 4
    )  # 4 bits compute in bfloat16, where a batch of one may be rounded differently
    assert answer["tuned"] != answer["base"]
    assert chat(results[0]["run"])["tuned"] == answer["tuned"]  # read from disk, of a run with the same seed
    assert [r["loss"]["after"] < r["loss"]["before"] for r in results] == [True, True]
    assert results[0]["loss"] == results[1]["loss"]


@pytest.mark.slow
def test_an_answer_ends_where_the_models_context_ends(chosen, tmp_path):
    question = {"base": [{"instruction": "what " * 60, "answer": None}]}
    result = list(Workbench(tmp_path).chat(chosen(), None, question, Generation(max_new_tokens=4000)))[-1]["result"]
    end = result["sides"]["base"]
    assert end["finish"] in ("limit", "end") and 0 < end["tokens"] < 512 and end["tokens_per_s"] > 0
    assert not result["together"]


def test_a_conversation_too_long_for_the_model_is_an_error(chosen, tmp_path):
    long = [{"instruction": "what " * 400, "answer": None}]
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path).chat(chosen(), None, {"base": long}, Generation(max_new_tokens=8)))
    assert keys(caught) == ["error.context"]
