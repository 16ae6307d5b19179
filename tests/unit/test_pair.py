"""Base and tuned answers from one copy of the weights; the trap of chatting before training at 4 bits."""

import threading

import pytest
import torch
from toys import keys

from playground.chat.generate import Prompt, generate_answers
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.model import adapt
from playground.model.load import load_model
from playground.settings import Generation, Load, Lora

PROMPTS = ([0, 40, 41, 42, 60], [0, 99, 30, 31, 120, 121, 7, 8])
PLAIN = Generation(max_new_tokens=16)


def loaded(folder, bits):
    return load_model(folder, Load(model=str(folder), bits=bits, device="cpu", dtype="bfloat16"), lambda *_: None)


def adapted(found, **lora):
    """An adapter that changes answers."""
    found.model = adapt.add_lora(found.model, Lora(r=4, **lora), found.dtype, 0)
    torch.manual_seed(5)
    for name, parameter in found.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    found.model.eval()
    return found


def said(found, asked, generation=PLAIN) -> list[dict]:
    return list(generate_answers(found.model, found.tokenizer, asked, [1], generation, threading.Event()))


def both(ids) -> list[Prompt]:
    return [Prompt(ids, False), Prompt(ids, True)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt"])  # OPT's layers get all rows in one line
@pytest.mark.parametrize("bits", [32, 16, 4])
def test_the_base_column_is_the_model_without_any_adapter_token_for_token(toy, family, bits):
    pair, bare = adapted(loaded(toy(family), bits)), loaded(toy(family), bits)
    for ids in PROMPTS:
        base, tuned = said(pair, both(ids))[-1]["texts"]
        never = said(bare, [Prompt(ids, False)] * 2)[-1]["texts"]
        assert [base, base] == never and base
        assert tuned != base
        assert said(pair, [Prompt(ids, False)])[-1]["texts"] == said(bare, [Prompt(ids, False)])[-1]["texts"]


@pytest.mark.parametrize("family,lora", [("llama", {"use_dora": True}), ("switch", {}), ("qwen2_moe", {})])
@pytest.mark.parametrize("beams", [1, 3])
def test_where_rows_cannot_be_told_apart_base_still_answers_as_the_base(toy, family, lora, beams):
    pair, bare, generation = (
        adapted(loaded(toy(family), 32), **lora),
        loaded(toy(family), 32),
        Generation(max_new_tokens=12, num_beams=beams),
    )
    events = said(pair, [Prompt(PROMPTS[0], False), Prompt(PROMPTS[1], True), Prompt(PROMPTS[1], False)], generation)
    base = said(bare, [Prompt(PROMPTS[0], False), Prompt(PROMPTS[1], False)], generation)[-1]["texts"]
    [tuned] = said(pair, [Prompt(PROMPTS[1], True)], generation)[-1]["texts"]
    assert events[-1]["texts"] == [base[0], tuned, base[1]] and tuned != base[1]
    tokens = [e["tokens"] for e in events]
    assert tokens == sorted(tokens) and tokens[-1] <= 12


def test_rows_of_different_lengths_answer_as_they_do_alone(toy):
    pair = adapted(loaded(toy(), 32))
    together = said(pair, [Prompt(PROMPTS[0], False), Prompt(PROMPTS[1], True)])[-1]["texts"]
    alone = [
        said(pair, [Prompt(PROMPTS[0], False)])[-1]["texts"][0],
        said(pair, [Prompt(PROMPTS[1], True)])[-1]["texts"][0],
    ]
    assert together == alone


def test_texts_grow_and_the_last_one_is_whole(toy):
    events = said(adapted(loaded(toy(), 32)), both(PROMPTS[0]))
    assert [e["tokens"] for e in events[:-1]] == list(range(1, len(events)))
    for before, after in zip(events, events[1:]):
        assert all(new.startswith(old) for old, new in zip(before["texts"], after["texts"]))


def test_with_beams_only_whole_texts_come_and_the_base_is_still_the_base(toy):
    generation = Generation(max_new_tokens=10, num_beams=3)
    pair, bare = adapted(loaded(toy(), 32)), loaded(toy(), 32)
    events = said(pair, both(PROMPTS[1]), generation)
    assert len(events) > 2 and [e for e in events if "texts" in e] == events[-1:]
    assert events[-1]["texts"][0] == said(bare, [Prompt(PROMPTS[1], False)] * 2, generation)[-1]["texts"][0]
    assert events[-1]["texts"][0] != events[-1]["texts"][1]


def test_a_seed_repeats_what_is_drawn_and_another_draws_anew(toy):
    pair = adapted(loaded(toy(), 32))

    def draw(seed):
        return said(pair, both(PROMPTS[0]), Generation(max_new_tokens=16, temperature=1.0, seed=seed))[-1]["texts"]

    assert draw(1) == draw(1) != draw(2)


def test_stop_ends_an_answer_with_what_there_is(toy):
    pair, stop = adapted(loaded(toy(), 32)), threading.Event()
    events = []
    for event in generate_answers(
        pair.model, pair.tokenizer, both(PROMPTS[0]), [], Generation(max_new_tokens=400), stop
    ):
        events.append(event)
        if len(events) == 3:
            stop.set()
    assert 3 <= events[-1]["tokens"] < 400 and len(events[-1]["texts"]) == 2


def test_a_reader_that_leaves_stops_the_writing(toy):
    pair, stop = adapted(loaded(toy(), 32)), threading.Event()
    before = threading.active_count()
    reading = generate_answers(pair.model, pair.tokenizer, both(PROMPTS[0]), [], Generation(max_new_tokens=400), stop)
    next(reading)
    reading.close()
    assert stop.is_set() and threading.active_count() == before


def test_what_breaks_while_writing_is_raised_to_the_reader(toy):
    pair = adapted(loaded(toy(), 32))
    with pytest.raises(IndexError):
        said(pair, [Prompt([0, 100_000], False)])


def _gradients(found) -> dict[str, torch.Tensor]:
    tuned = adapt.add_lora(found.model, Lora(r=4), found.dtype, 0)
    torch.manual_seed(3)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tuned.train()
    ids = torch.tensor([PROMPTS[1]])
    tuned(input_ids=ids, labels=ids).loss.backward()
    return {n: p.grad for n, p in tuned.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("bits", [4, 8])
def test_chatting_first_takes_no_gradient_away(toy, bits):
    chatted, fresh = loaded(toy(), bits), loaded(toy(), bits)
    said(chatted, [Prompt(PROMPTS[0], False)])
    ours, wanted = _gradients(chatted), _gradients(fresh)
    assert len(ours) == 28
    for name, gradient in ours.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=0, msg=name)


QUESTION = [{"instruction": "What is the answer to question 3?", "answer": None}]


@pytest.mark.parametrize("bits", [32, 4])
def test_chat_then_train_then_chat_then_train_again(chosen, tmp_path, bits):
    bench, settings = (
        Workbench(tmp_path),
        chosen(load={"bits": bits}, data={"end_row": 8, "held_out": 0.3}, train={"max_steps": 2, "batch_size": 2}),
    )

    def asked(adapter):
        return [
            e
            for e in bench.chat(settings, adapter, {"base": QUESTION, "tuned": QUESTION}, PLAIN)
            if e["kind"] == "answer"
        ][-1]

    first = asked(None)
    assert "tuned" not in first
    results = [list(bench.tune(settings))[-1]["result"] for _ in range(2)]
    answer = asked(results[1]["run"])
    assert (
        answer["base"] == first["base"] or bits == 4
    )  # 4 bits compute in bfloat16, where a batch of one may round otherwise
    assert answer["tuned"] != answer["base"]
    assert asked(results[0]["run"])["tuned"] == answer["tuned"]  # read from disk, of a run with the same seed
    assert [r["loss"]["after"] < r["loss"]["before"] for r in results] == [True, True]
    assert results[0]["loss"] == results[1]["loss"]


def test_a_conversation_too_long_for_the_model_is_told(chosen, tmp_path):
    long = [{"instruction": "what " * 400, "answer": None}]
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path).chat(chosen(), None, {"base": long}, Generation(max_new_tokens=8)))
    assert keys(caught) == ["error.context"]
