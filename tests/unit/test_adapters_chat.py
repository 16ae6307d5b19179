"""The same question to several runs' adapters over one copy of the weights: at once, in turn, refused, stopped."""

import itertools
import json
import threading

import pytest
import torch
from test_cli import _main as run_command
from test_generate import PROMPTS, answers, load
from toys import keys

from playground import runs
from playground.chat.generate import Prompt, batches, generate_answers
from playground.engine.model_slot import ADAPTER_NAMES
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.model import adapt, saved_adapter
from playground.settings import Generation, Lora

PLAIN = Generation(max_new_tokens=12)
QUESTION = "What is the answer to question 3?"
KINDS = [
    {"r": 2, "target_modules": "attention"},
    {"r": 16},
    {"r": 5, "alpha": 40, "use_rslora": True},
    {"r": 3, "layers": 1},
]


def save_adapter(loaded, folder, seed, lora):
    """Save an adapter that changes the answers; the model keeps none."""
    tuned = adapt.add_lora(loaded.model, Lora(**lora), loaded.dtype, seed)
    torch.manual_seed(seed + 5)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
        elif ".modules_to_save." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    saved_adapter.save_lora(tuned, folder)
    loaded.model = adapt.remove_lora(tuned)


@pytest.fixture(scope="module")
def saved(toy, tmp_path_factory):
    """`saved(family, *loras)`: the folders of their adapters for a toy, written on first use."""
    home, written = tmp_path_factory.mktemp("adapters"), {}

    def folders(family, *loras):
        found = []
        for lora in loras:
            key = (family, json.dumps(lora))
            if key not in written:
                written[key] = home / str(len(written)) / "adapter"
                save_adapter(load(toy(family), 32), written[key], len(written), lora)
            found.append(written[key])
        return found

    return folders


def with_adapters(loaded, folders):
    loaded.model = saved_adapter.load_lora(loaded.model, folders[0], loaded.dtype)
    for name, folder in zip(ADAPTER_NAMES[1:], folders[1:], strict=False):
        saved_adapter.load_further_lora(loaded.model, folder, name, loaded.dtype)
    return loaded


@pytest.mark.parametrize(
    "family,loras,together",
    [
        ("llama", KINDS, True),
        ("opt", KINDS[:2], True),
        ("llama", [KINDS[0], {"r": 4, "use_dora": True}, KINDS[3]], False),
    ],
)
def test_each_row_is_answered_as_by_its_adapter_alone(toy, saved, family, loras, together):
    """Greedy, token by token, in rows of different lengths, which are padded on the left."""
    folders = saved(family, *loras)
    loaded = with_adapters(load(toy(family), 32), folders)
    names = [None, *ADAPTER_NAMES[: len(folders)]]
    prompts = [Prompt(PROMPTS[n % 2], name) for n, name in enumerate(names)]
    assert (len(batches(loaded.model, prompts, 12)) == 1) == together
    mixed = answers(loaded, prompts, PLAIN)[-1]["ids"]
    alone = []
    for prompt, folder in zip(prompts, [None, *folders]):
        fresh = load(toy(family), 32)
        if folder:
            fresh.model = saved_adapter.load_lora(fresh.model, folder, fresh.dtype)
        alone += answers(fresh, [Prompt(prompt.ids, folder and adapt.ADAPTER_NAME)], PLAIN)[-1]["ids"]
    assert mixed == alone
    assert len({tuple(ids) for ids in mixed}) == len(mixed)
    assert loaded.model.active_adapter == adapt.ADAPTER_NAME


@pytest.mark.parametrize("bits", [16, 4])
def test_further_adapters_compute_in_the_type_of_the_model(toy, saved, bits):
    """Their files have float32, to which PEFT would convert each layer's input."""
    folders = saved("llama", KINDS[0], KINDS[3])
    loaded = with_adapters(load(toy("llama"), bits), folders)
    types: dict = {}
    for name, parameter in loaded.model.named_parameters():
        if "lora_" in name:
            types.setdefault(name.split(".")[-2], set()).add(parameter.dtype)
    assert types == {name: {torch.bfloat16} for name in ADAPTER_NAMES[:2]}
    assert not any(module.training for module in loaded.model.modules())


@pytest.fixture
def bench(chosen, saved, tmp_path):
    """`bench(*loras, load=…)`: a workbench over runs that have these adapters, and the runs' ids."""

    def build(*loras, loads=(), templates=(), formats=()):
        ids = []
        for n, lora in enumerate(loras):
            values = {"load": dict(loads[n]) if n < len(loads) else {}, "data": {}}
            if n < len(formats):
                values["data"] = {"prompt_format": "custom", "custom_format": formats[n]}
            run = runs.create(tmp_path, "tune", chosen(**values))
            [folder] = saved("llama", lora)
            run.adapter.symlink_to(folder)
            run.append("done", job="tune", result={"template": templates[n] if n < len(templates) else "alpaca"})
            ids.append(run.id)
        return Workbench(tmp_path), ids

    return build


def ask(workbench, ids, generation=PLAIN):
    """The last answers {"base", run id: text}, the notes, the result and the events."""
    events = list(workbench.chat_with_adapters(ids, QUESTION, generation))
    last = [event for event in events if event["kind"] == "answer"][-1]
    notes = [event["key"] for event in events if event["kind"] == "note"]
    return {"base": last["base"], **last["adapters"]}, notes, events[-1]["result"], events


def ask_one(workbench, run_id):
    """The same question to base and one run, as the Compare tab asks it."""
    turn = [{"instruction": QUESTION, "answer": None}]
    settings = runs.find(workbench.root, run_id).settings()
    events = list(workbench.chat(settings, run_id, {"base": turn, "tuned": turn}, PLAIN))
    return [event for event in events if event["kind"] == "answer"][-1]


def test_all_adapters_answer_in_one_batch_as_each_does_in_a_chat(bench):
    workbench, ids = bench(*KINDS[:3])
    texts, notes, result, events = ask(workbench, ids)
    assert result["together"] and not [key for key in notes if "adapters" in key]
    assert list(result["sides"]["adapters"]) == ids and len(set(texts.values())) == 4
    measured = [event for event in events if event["kind"] == "memory_measured"][-1]["parts"]["adapters"]
    predicted = [event for event in events if event["kind"] == "memory_predicted"][-1]["parts"]["adapters"]
    assert predicted == measured > 0
    assert [event["kind"] for event in events].count("loaded") == 1
    again, _, _, events = ask(workbench, ids)
    assert again == texts and not [event for event in events if event.get("name") in ("load", "prepare")]
    one = ask_one(workbench, ids[0])
    assert (one["base"], one["tuned"]) == (texts["base"], texts[ids[0]])
    assert workbench.parts()["adapters"] < measured  # those of the other runs are gone
    assert [ask_one(workbench, run_id)["tuned"] for run_id in ids[1:]] == [texts[run_id] for run_id in ids[1:]]


@pytest.mark.parametrize(
    "lora,note",
    [
        ({"r": 4, "use_dora": True}, "note.adapters_dora"),
        ({"r": 4, "modules_to_save": "norm"}, "note.adapters_modules"),
    ],
)
def test_adapters_that_share_no_batch_answer_in_turn_over_the_same_weights(bench, lora, note):
    workbench, ids = bench(KINDS[0], lora)
    texts, notes, result, events = ask(workbench, ids)
    assert note in notes and not result["together"]
    assert [event["kind"] for event in events].count("loaded") == 1
    shown = [{"base": e["base"], **e["adapters"]} for e in events if e["kind"] == "answer"]
    assert all(new[side].startswith(old[side]) for old, new in itertools.pairwise(shown) for side in texts)
    alone = [ask_one(workbench, run_id) for run_id in ids]
    assert [one["tuned"] for one in alone] == [texts[run_id] for run_id in ids]
    assert alone[0]["base"] == texts["base"] and len(set(texts.values())) == 3


def test_each_adapter_is_asked_in_the_format_that_it_was_trained_with(bench):
    """The base is asked in the first one's."""
    formats = ["Q: {instruction}\nA: {answer}", "In a word: {instruction} > {answer}"]
    workbench, ids = bench(KINDS[0], KINDS[1], templates=["custom", "custom"], formats=formats)
    texts, _, result, _ = ask(workbench, ids)
    assert result["together"]
    alone = [ask_one(workbench, run_id) for run_id in ids]
    assert texts == {"base": alone[0]["base"], ids[0]: alone[0]["tuned"], ids[1]: alone[1]["tuned"]}
    assert alone[0]["base"] != alone[1]["base"]


@pytest.mark.parametrize("lora", [KINDS[1], {"r": 4, "use_dora": True}])
def test_stop_keeps_the_answers_so_far(bench, lora):
    workbench, ids = bench(KINDS[0], lora)
    events = []
    for event in workbench.chat_with_adapters(ids, QUESTION, Generation(max_new_tokens=300)):
        events.append(event)
        if event["kind"] == "answer" and event["tokens"] == 3:
            workbench.stop.set()
    result = events[-1]["result"]
    base, adapters = result["sides"]["base"], result["sides"]["adapters"]
    assert result["stopped"] and base["finish"] == "stopped" and 3 <= base["tokens"] < 300
    assert {end["finish"] for end in adapters.values()} == {"stopped"}
    assert (adapters[ids[1]]["tokens"] == 0) == ("use_dora" in lora)


def refused(workbench, ids) -> pytest.ExceptionInfo:
    before = len(list(workbench.root.iterdir()))
    with pytest.raises(PlaygroundError) as caught:
        list(workbench.chat_with_adapters(ids, QUESTION, PLAIN))
    assert len(list(workbench.root.iterdir())) == before  # no run was begun for it
    return caught


@pytest.mark.parametrize(
    "loads,field,values",
    [
        ([{}, {"bits": 4}], "load.bits", [32, 4]),
        ([{}, {"model": "other-model"}], "load.model", [None, "other-model"]),
        ([{"bits": 16}, {"bits": 16, "dtype": "float16"}], "load.dtype", ["auto", "float16"]),
        ([{"bits": 4}, {"bits": 4, "quant_type": "fp4"}], "load.quant_type", ["nf4", "fp4"]),
        ([{"bits": 8}, {"bits": 8, "quant_type_8bit": "fp8"}], "load.quant_type_8bit", ["int8", "fp8"]),
        ([{"bits": 4}, {"bits": 4, "double_quant": False}], "load.double_quant", [True, False]),
    ],
)
def test_runs_on_different_bases_are_refused_with_both_values(bench, loads, field, values):
    workbench, ids = bench(KINDS[0], KINDS[0], KINDS[0], loads=[*loads, loads[1]])
    caught = refused(workbench, ids)
    [problem] = caught.value.problems  # though two runs differ from the first
    assert (problem.key, problem.values["field"]) == ("adapters.error.base", field)
    assert problem.values["given"] == values[1] and values[0] in (None, problem.values["value"])
    text = caught.value.text("en")
    assert all(str(part) in text for part in (*ids[:2], field, values[1]))


def test_settings_that_leave_the_base_as_it_is_may_differ(bench):
    """At 32 bits neither the half-precision type nor the quantization counts; nor does a simulated card."""
    loads = [{"dtype": "float16", "quant_type": "fp4"}, {"simulate_gpu_gib": 8.0, "double_quant": False}]
    workbench, ids = bench(KINDS[0], KINDS[1], loads=loads)
    assert ask(workbench, ids)[2]["together"]


def test_runs_without_an_adapter_are_refused_by_name(bench, chosen, tmp_path):
    workbench, ids = bench(KINDS[0], KINDS[1])
    full, unfinished = (runs.create(tmp_path, "tune", chosen()) for _ in range(2))
    full.model.mkdir()
    caught = refused(workbench, [ids[0], full.id, unfinished.id])
    assert keys(caught) == ["adapters.error.full", "error.no_adapter"]
    assert [problem.values["run"] for problem in caught.value.problems] == [full.id, unfinished.id]
    assert keys(refused(workbench, ids[:1])) == ["adapters.error.count"]
    assert keys(refused(workbench, [*ids, "a", "b", "c"])) == ["adapters.error.count"]
    assert keys(refused(workbench, [ids[0], ids[0]])) == ["adapters.error.twice"]
    assert keys(refused(workbench, [ids[0], "../x"])) == ["error.no_run"]


def test_an_adapter_that_cannot_be_read_leaves_none_on_the_model(bench, tmp_path):
    workbench, ids = bench(KINDS[0], KINDS[1])
    broken = runs.find(tmp_path, ids[1]).adapter
    content = {file.name: file.read_bytes() for file in broken.iterdir()}
    broken.unlink()
    broken.mkdir()
    for name, data in content.items():
        (broken / name).write_bytes(data)
    config = json.loads((broken / "adapter_config.json").read_text()) | {"r": 7}
    (broken / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(PlaygroundError) as caught:
        list(workbench.chat_with_adapters(ids, QUESTION, PLAIN))
    assert keys(caught) == ["error.adapter"] and ids[1] in caught.value.text("en")
    assert not workbench.parts().get("adapters")


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    "change,key",
    [
        ({"target_modules": [float("nan")]}, "error.adapter_value"),
        ({"lora_alpha": float("inf")}, "error.adapter_value"),
        ({"r": -1}, "error.adapter_value"),
        ({"rank_pattern": {"q_proj": None}}, "error.adapter_value"),
    ],
)
def test_a_config_that_was_edited_by_hand_is_refused_by_its_value(bench, tmp_path, place, change, key):
    workbench, ids = bench(KINDS[0], KINDS[1])
    edited = runs.find(tmp_path, ids[place]).adapter
    content = {file.name: file.read_bytes() for file in edited.iterdir()}
    edited.unlink()
    edited.mkdir()
    for name, data in content.items():
        (edited / name).write_bytes(data)
    config = json.loads((edited / "adapter_config.json").read_text()) | change
    (edited / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(PlaygroundError) as caught:
        list(workbench.chat_with_adapters(ids, QUESTION, PLAIN))
    assert keys(caught) == [key] and ids[place] in caught.value.text("en")


def test_closing_the_answers_early_restores_the_active_adapter(toy, saved):
    loaded = with_adapters(load(toy(), 32), saved("llama", KINDS[0], {"r": 4, "use_dora": True}))
    prompts = [Prompt(PROMPTS[0], "second")]
    events = generate_answers(loaded.model, loaded.tokenizer, prompts, [], PLAIN, threading.Event())
    next(events)
    events.close()
    assert loaded.model.active_adapter == adapt.ADAPTER_NAME


def test_the_command_ends_in_one_object_with_the_answer_of_each_run(bench, capsys, tmp_path):
    workbench, ids = bench(KINDS[0], KINDS[1], {"r": 4, "use_dora": True})
    flags = ("--prompt", QUESTION, "--runs", tmp_path, "--max-new-tokens", "6")
    status, result, shown = run_command(capsys, "compare", *ids[:2], *flags)
    texts, _, _, _ = ask(workbench, ids[:2], Generation(max_new_tokens=6))
    assert status == 0 and result["prompt"] == QUESTION and result["together"]
    assert {"base": result["base"], **result["adapters"]} == texts
    assert list(result["sides"]["adapters"]) == ids[:2] and "one after another" not in shown
    status, result, shown = run_command(capsys, "compare", ids[2], ids[0], *flags)
    assert status == 0 and not result["together"] and "one after another" in shown
    status, result, _ = run_command(capsys, "compare", *ids[:2], *flags, "--bits", "4")
    assert status == 1 and "--bits" in result["error"] and ids[1] in result["error"]
    status, result, _ = run_command(capsys, "compare", ids[0], ids[0], *flags)
    assert status == 1 and ids[0] in result["error"]
