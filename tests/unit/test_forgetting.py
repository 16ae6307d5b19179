"""Forgetting: the loss on ordinary text of both languages, before and after a fine-tune on something else."""

import json

import pytest
import torch
import toys
from toys import toy_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from playground import runs
from playground.data.batch import Example
from playground.engine import forgetting
from playground.engine.workbench import Workbench
from playground.eval import neutral_text
from playground.eval.neutral_text import neutral_windows
from playground.export.model_card import model_card
from playground.i18n import LANGUAGES, translate
from playground.model.load import load_model
from playground.predict import phases
from playground.predict.allocation_trace import peak
from playground.predict.traced_model import TracedModel
from playground.runs.summary import forgetting_of
from playground.settings import Load, Settings
from playground.train.batching import padded_batch
from playground.train.loss import Loss

JUNK = {"instruction": "zzzz", "output": "qqqq xxxx qqqq"}
TOKENS = 300  # of each language: enough for the toys


@pytest.fixture(autouse=True)
def less_text(monkeypatch):
    monkeypatch.setattr(neutral_text, "MAX_TOKENS", TOKENS)


@pytest.fixture(scope="module")
def literate(tmp_path_factory):
    """The folder of a toy model that has read the neutral text, so that it has something to forget."""
    folder = toys.save(tmp_path_factory.mktemp("literate") / "toy")
    loaded = load_model(folder, Load(bits=32, device="cpu"), lambda *_: None)
    windows = [torch.tensor([example.ids]) for parts in neutral_windows(loaded, 64).values() for example in parts]
    optimizer = torch.optim.AdamW(loaded.model.requires_grad_(True).parameters(), 1e-2)
    for _ in range(6):
        for ids in windows:
            loaded.model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    loaded.model.save_pretrained(folder)
    return folder


@pytest.fixture
def junk(chosen, literate, tmp_path):
    """`junk(load={...}, train={...})`: settings that teach nonsense to the model that has read the neutral text."""
    path = tmp_path / "junk.jsonl"
    path.write_text((json.dumps(JUNK) + "\n") * 12, encoding="utf-8")
    quick = {"max_steps": 25, "lr": 1e-1, "eval_rows": 0, "measure_forgetting": True}

    def settings(**groups):
        data = {"source": str(path), "drop_duplicates": False, "held_out": 0.0}
        load = {"model": str(literate), "bits": 32, "device": "cpu"} | groups.get("load", {})
        return chosen(**groups | {"load": load, "data": data, "train": quick | groups.get("train", {})})

    return settings


def measured(events) -> list[dict]:
    return [event for event in events if event["kind"] == "eval" and event["when"] == "forgetting"]


@pytest.mark.parametrize("changes", [{}, {"load": {"bits": 4}}, {"train": {"method": "full", "lr": 1e-2}}])
def test_nonsense_makes_a_model_worse_at_both_languages(junk, tmp_path, toy, changes):
    events = list(Workbench(tmp_path / "runs").tune(junk(**changes)))
    base, tuned = measured(events)
    figures = events[-1]["result"]["forgetting"]
    assert (base["side"], tuned["side"]) == ("base", "tuned") and figures == tuned["figures"]
    assert set(figures) == set(LANGUAGES)
    for language, figure in figures.items():
        assert figure["difference"] > 0.1 and figure["intervals"]["difference"][0] > 0
        assert figure["rows"] == len(base["each"][language]) >= 2
        assert figure["tokens"] == sum(tokens for _, tokens in base["each"][language]) <= TOKENS
        for side, event in (("base", base), ("tuned", tuned)):
            mean = sum(nats for nats, _ in event["each"][language]) / figure["tokens"]
            assert figure[side] == pytest.approx(mean, rel=1e-4)


def test_the_base_loss_is_the_untouched_models_own(junk, tmp_path, literate):
    events = list(Workbench(tmp_path / "runs").tune(junk(train={"max_steps": 2})))
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(literate, dtype=torch.float32),
        AutoTokenizer.from_pretrained(literate),
    )
    text = (neutral_text.ASSETS / "data" / "prose.ja.txt").read_text(encoding="utf-8")
    nats, tokens = measured(events)[0]["each"]["ja"][0]
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    start = [tokenizer.bos_token_id] if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else []
    ids = torch.cat([torch.tensor([start], dtype=torch.long), ids], 1)[:, : tokens + 1]
    with torch.no_grad():
        assert nats / tokens == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), rel=1e-4)


def test_it_can_be_switched_off(junk, tmp_path):
    events = list(Workbench(tmp_path / "runs").tune(junk(train={"max_steps": 1, "measure_forgetting": False})))
    assert measured(events) == [] and events[-1]["result"]["forgetting"] is None


def test_a_resumed_run_measures_the_untouched_model_once(junk, tmp_path):
    settings, workbench = junk(train={"max_steps": 4}), Workbench(tmp_path / "runs")
    whole = list(workbench.tune(settings))[-1]["result"]["forgetting"]
    workbench, stopped = Workbench(tmp_path / "runs"), None
    for event in workbench.tune(settings):
        if event["kind"] == "step" and event["step"] == 2:
            workbench.stop.set()
        stopped = event.get("result")
    assert stopped["forgetting"] is None
    resumed = list(Workbench(tmp_path / "runs").resume(stopped["run"]))[-1]["result"]
    assert resumed["forgetting"] == whole
    sides = [event["side"] for event in measured(runs.find(tmp_path / "runs", stopped["run"]).events())]
    assert sides == ["base", "tuned"]


def test_an_adapter_that_is_continued_is_compared_with_the_model_without_it(junk, tmp_path):
    first = list(Workbench(tmp_path / "runs").tune(junk(train={"max_steps": 8})))
    start = {"start_from": first[-1]["result"]["run"]}
    second = list(Workbench(tmp_path / "runs").tune(junk(train={"max_steps": 1}, lora=start)))
    assert measured(second)[0]["each"] == measured(first)[0]["each"]
    assert second[-1]["result"]["forgetting"]["en"]["difference"] > 0.1


def test_without_memory_for_it_the_run_goes_on(junk, tmp_path, monkeypatch):
    def short_of_memory(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(forgetting, "padded_batch", short_of_memory)
    events = list(Workbench(tmp_path / "runs").tune(junk(train={"max_steps": 2})))
    assert [e["key"] for e in events if e["kind"] == "note" and "forgetting" in e["key"]] == [
        "note.forgetting_not_measured"
    ]
    assert events[-1]["result"]["steps"] == 2 and events[-1]["result"]["forgetting"] is None


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_no_window_is_longer_than_the_longest_row(toy, family):
    loaded = load_model(toy(family), Load(bits=32, device="cpu"), lambda *_: None)
    for longest, size in ((20, 20), (10_000, neutral_text.WINDOW), (1, neutral_text.MIN_WINDOW)):
        for parts in neutral_windows(loaded, longest).values():
            assert max(len(example.ids) for example in parts) == size
            assert sum(len(example.ids) for example in parts) <= TOKENS
            assert all(0 < example.labelled < len(example.ids) for example in parts)


def test_a_language_without_tokens_is_left_out(toy):
    loaded = load_model(toy(), Load(bits=32, device="cpu"), lambda *_: None)
    first_byte = loaded.tokenizer("の", add_special_tokens=False)["input_ids"][0]  # of all hiragana
    loaded.tokenizer.unk_token = loaded.tokenizer.convert_ids_to_tokens(first_byte)
    assert set(neutral_windows(loaded, 100)) == {"en"}


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("policy", ["off", "all"])
def test_a_window_needs_no_more_memory_than_the_smallest_step(family, policy):
    """One row a step with few labelled tokens, and a large vocabulary: the least that a step takes beside a window."""
    sizes = {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2}
    config = toy_config(family, **sizes, vocab_size=151_936, head_dim=64)
    target = phases.Target("cuda", torch.bfloat16)
    train = {"batch_size": 1, "gradient_checkpointing": policy}
    settings = Settings().with_values({"load": {"bits": 16}, "train": train})
    step = phases.predict_tune(config, settings, target, [neutral_text.WINDOW], [10])
    traced = TracedModel(config, settings.load, target, None)
    with traced.trace, torch.no_grad():
        loss_module = Loss(traced.loaded.model).eval()
        model = loss_module.causal[0]
        loss_module(padded_batch(model, [Example([7] * neutral_text.WINDOW, 0)], 0, "meta"), per_token=True)
    assert peak(traced.trace.events)[0] <= step["allocated"]


FIGURE = {"base": 3.0, "tuned": 3.5, "difference": 0.5, "intervals": {"difference": [0.4, 0.6]}, "rows": 8, "tokens": 9}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_model_card_and_the_list_of_runs_say_it(tmp_path, lang):
    run = runs.create(tmp_path, "tune", Settings(), hardware={"device": "cpu", "name": "CPU"})
    run.append("done", job="tune", result={"forgetting": {"en": FIGURE, "ja": FIGURE | {"intervals": None}}})
    card = model_card(run, "adapter", lang)
    assert f"| {translate(lang, 'export.card.forgetting_en')} | 3.000 → 3.500 (+0.500 [+0.400, +0.600]) |" in card
    assert f"| {translate(lang, 'export.card.forgetting_ja')} | 3.000 → 3.500 (+0.500) |" in card
    assert runs.summary(tmp_path, run.id).forgetting == {"en": 0.5, "ja": 0.5}


@pytest.mark.parametrize(
    "stored", [None, "x", [1], {"en": None}, {"en": {"difference": "1"}}, {"en": {"difference": None}}]
)
def test_a_result_that_was_edited_by_hand_has_no_forgetting(stored):
    assert forgetting_of({"forgetting": stored}) == {} == forgetting_of({})
