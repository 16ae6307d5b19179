"""The jobs on a toy model: their events and results, and the run's folder after a fine-tune, a stop and a failure."""

import gc
import json
import os
import shutil
import subprocess
import threading
import weakref
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from toys import keys
from transformers import AutoModelForCausalLM

from playground import runs
from playground.data.source import Row, SelectedRows
from playground.engine import answering
from playground.engine.process import start_job
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.lab.question import LabQuestion
from playground.model import saved_adapter
from playground.settings import Generation

IDS = torch.tensor([[0, 40, 41, 42, 60]])
ASK = {"base": [{"instruction": "What?", "answer": None}], "tuned": [{"instruction": "What?", "answer": None}]}


def _until(events, stop: threading.Event, steps: int) -> list[dict]:
    seen = []
    for event in events:
        seen.append(event)
        if event["kind"] == "step" and event["step"] == steps:
            stop.set()
    return seen


def test_tune_emits_its_events_in_order_and_leaves_a_complete_run(chosen, tmp_path):
    workbench, settings = Workbench(tmp_path), chosen()
    events = list(workbench.tune(settings))
    phases = [e["name"] for e in events if e["kind"] == "phase"]
    assert [p for p in phases if p != "free"] == [
        "data",
        "load",
        "prepare",
        "evaluate",
        "train",
        "save",
        "evaluate",
        "compare",
        "idle",
    ]
    assert events[0] == {"kind": "opened", "run": workbench.run.id} and events[-1]["kind"] == "done"
    assert [e["step"] for e in events if e["kind"] == "step"] == [1, 2, 3]
    result = events[-1]["result"]
    assert 0 < result["loss"]["after"] < result["loss"]["before"]
    assert result["peak"]["rss"] > 100 * 2**20 and not result["stopped"] and result["steps"] == 3
    assert result["parts"]["adapters"] > 0 and result["parts"]["optimizer"] >= 2 * result["parts"]["adapters"]

    run = runs.find(tmp_path, result["run"])
    assert {p.name for p in run.folder.iterdir()} == {"settings.json", "events.jsonl", "adapter", "answers.jsonl"}
    assert run.settings() == settings
    kept = list(run.events())
    assert (
        kept[0]["kind"] == "run_started"
        and kept[0]["settings"] == settings.to_dict()
        and kept[0]["versions"]["torch"] == version("torch")
    )
    assert [e for e in kept if e["kind"] not in ("run_started", "memory")] == events[1:]
    assert [e["t"] for e in kept] == sorted(e["t"] for e in kept)
    assert {tuple(e["parts"]) for e in kept if e["kind"] == "memory" and "parts" in e} == {
        ("weights", "quant_constants", "adapters", "gradients", "optimizer")
    }
    assert runs.history(tmp_path)[0].state == "done"
    assert [s["when"] for s in kept if s["kind"] == "eval"] == ["before", "after", "measures"]


@pytest.mark.parametrize("family", ["llama", "gpt2", "llama-tied"])
def test_saved_adapter_loads_with_plain_peft_and_gives_the_same_logits(chosen, tmp_path, toy, family):
    workbench = Workbench(tmp_path)
    result = list(workbench.tune(chosen(load={"model": str(toy(family))})))[-1]["result"]
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(toy(family), dtype=torch.float32), result["adapter"]
    ).eval()
    with torch.no_grad():
        trained, reloaded = workbench.loaded.model(input_ids=IDS).logits, plain(input_ids=IDS).logits
        with plain.disable_adapter():
            base = plain(input_ids=IDS).logits
    torch.testing.assert_close(trained, reloaded, rtol=1e-5, atol=1e-5)
    assert (base - reloaded).abs().max() > 1e-2


def test_stop_while_training_saves_the_adapter_and_marks_the_run_stopped(chosen, tmp_path):
    workbench = Workbench(tmp_path)
    events = _until(workbench.tune(chosen(train={"max_steps": 5000})), workbench.stop, 2)
    result = events[-1]["result"]
    assert events[-1]["kind"] == "done" and result["stopped"] and result["steps"] < 5000
    assert runs.find(tmp_path, result["run"]).adapter.is_dir() and runs.history(tmp_path)[0].state == "stopped"
    answer = list(workbench.chat(chosen(), result["run"], ASK, Generation(max_new_tokens=4)))[-1]
    assert answer["result"]["adapter"] == result["run"] and not answer["result"]["stopped"]


def test_stop_before_training_saves_no_adapter_and_the_next_job_works(chosen, tmp_path):
    workbench = Workbench(tmp_path)
    events = workbench.tune(chosen())
    for event in events:
        if event["kind"] == "phase" and event["name"] == "prepare":
            workbench.stop.set()
    assert event["kind"] == "done" and event["result"]["stopped"]
    assert runs.history(tmp_path)[0].state == "stopped" and not runs.history(tmp_path)[0].has_adapter
    assert not isinstance(workbench.loaded.model, PeftModel) and workbench.parts()["adapters"] == 0
    assert list(workbench.tune(chosen()))[-1]["result"]["steps"] == 3


def test_failed_tune_is_recorded_in_its_run_and_the_next_job_works(chosen, tmp_path):
    workbench = Workbench(tmp_path)
    with pytest.raises(PlaygroundError) as caught:
        list(workbench.tune(chosen(lora={"target_modules": "q_proj,qqq"})))
    assert keys(caught) == ["error.targets"] and "qqq" in str(caught.value) and "v_proj" in str(caught.value)
    *_, phase, failure = (e for e in workbench.run.events() if e["kind"] != "memory")
    assert phase["name"] == "idle" and (failure["kind"], failure["problems"][0]["key"]) == ("error", "error.targets")
    assert runs.history(tmp_path)[0].state == "failed"
    assert list(workbench.tune(chosen()))[-1]["result"]["loss"]["after"] > 0


@pytest.mark.parametrize("long_rows", [1, 2])
def test_held_out_rows_that_are_too_long_are_left_out_of_the_evaluation_alone(chosen, tmp_path, long_rows):
    long = [{"instruction": "what " * 300, "output": "x", "split": "test"}] * long_rows
    short = [{"instruction": f"Is it {n}?", "output": f"{n}.", "split": "train"} for n in range(6)]
    held_out = [*long, {"instruction": "Is it so?", "output": "Yes.", "split": "test"}][:2]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*short, *held_out]))
    events = list(Workbench(tmp_path).tune(chosen(data={"source": str(path)}, train={"eval_rows": 8})))
    noted = [event["values"]["count"] for event in events if event.get("key") == "note.held_out_too_long"]
    assert noted == [long_rows]
    assert (events[-1]["result"]["loss"]["after"] is None) == (long_rows == 2)


def test_an_adapter_of_the_embedding_alone_is_saved(chosen, tmp_path):
    result = list(Workbench(tmp_path).tune(chosen(lora={"target_modules": "embed_tokens"})))[-1]["result"]
    with safe_open(Path(result["adapter"]) / "adapter_model.safetensors", "pt") as file:
        assert {"lora_embedding_A", "lora_embedding_B"} <= {name.rpartition(".")[2] for name in file.keys()}


@pytest.mark.parametrize(
    "groups,key",
    [
        ({"data": {"prompt_format": "chat"}}, "error.no_chat_template"),
        ({"train": {"max_seq_length": 5000}}, "error.length"),
        ({"train": {"max_seq_length": 8}}, "error.all_too_long"),
        ({"data": {"source": "missing.jsonl"}}, "error.no_file"),
        ({"data": {"start_row": 99}}, "error.empty_slice"),
    ],
)
def test_settings_that_the_model_or_the_data_refuse_raise_their_error(chosen, tmp_path, groups, key):
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path).tune(chosen(**groups)))
    assert keys(caught) == [key]


def test_invalid_settings_are_refused_at_the_edge_and_open_no_run(chosen, tmp_path):
    with pytest.raises(PlaygroundError) as caught:
        start_job(Workbench(tmp_path), "tune", {"settings": chosen(lora={"r": 0}, train={"lr": 0}).to_dict()})
    assert keys(caught) == ["problem.r", "problem.lr"] and runs.history(tmp_path) == []


def test_invalid_generation_settings_are_refused_at_the_edge(chosen, tmp_path):
    arguments = {"settings": chosen().to_dict(), "adapter": None, "sides": ASK, "generation": {"top_p": 7, "beam": 1}}
    with pytest.raises(PlaygroundError) as caught:
        start_job(Workbench(tmp_path), "chat", arguments)
    assert keys(caught) == ["problem.unknown_field", "problem.top_p"] and runs.history(tmp_path) == []


def test_nan_loss_ends_the_fine_tune_as_diverged(chosen, tmp_path, toy):
    import shutil

    shutil.copytree(toy(), tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path / "runs").tune(chosen(load={"model": str(tmp_path / "m")})))
    assert keys(caught) == ["error.diverged"]


def test_float16_lowers_the_loss(chosen, tmp_path):
    settings = chosen(
        load={"bits": 16, "dtype": "float16"},
        data={"end_row": 6, "held_out": 0.3},
        train={"max_steps": 3, "batch_size": 2},
    )
    result = list(Workbench(tmp_path).tune(settings))[-1]["result"]
    assert result["loss"]["after"] < result["loss"]["before"]


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_micro_batches_train_the_same_weights_as_the_whole_batch(chosen, tmp_path, micro_batch):
    tensors = []
    for number in (0, micro_batch):
        workbench = Workbench(tmp_path)
        list(workbench.tune(chosen(data={"end_row": 9}, train={"micro_batch_size": number, "max_steps": 2})))
        tensors.append({n: p for n, p in workbench.loaded.model.named_parameters() if "lora_B" in n})
    for name, value in tensors[0].items():
        torch.testing.assert_close(value, tensors[1][name], rtol=1e-3, atol=1e-4)


def test_lora_layers_adapts_only_the_last_layers(chosen, tmp_path):
    workbench = Workbench(tmp_path)
    list(workbench.tune(chosen(lora={"layers": 1})))
    names = {n for n, _ in workbench.loaded.model.named_parameters() if "lora_" in n}
    assert names and all(".layers.1." in n for n in names)


def test_loading_another_model_frees_the_first_one(chosen, tmp_path, toy):
    workbench = Workbench(tmp_path)
    list(workbench.load(chosen()))
    events = list(workbench.load(chosen(load={"model": str(toy("gpt2"))})))
    assert [e["name"] for e in events if e["kind"] == "phase"] == ["free", "load", "idle"]
    assert workbench.loaded.model.config.model_type == "gpt2"


def _models_at_each_load(workbench, events):
    """How many models are in memory whenever a load begins: weak references, one for each model that was loaded."""
    found, counts = [], []
    for event in events:
        loaded = workbench.loaded
        if loaded and not any(reference() is loaded.model.get_input_embeddings() for reference in found):
            found.append(weakref.ref(loaded.model.get_input_embeddings()))
        del loaded
        if event["kind"] == "phase" and event["name"] == "load":
            gc.collect()
            counts.append(sum(reference() is not None for reference in found))
    return counts


@pytest.mark.parametrize("job", ["chat", "tune", "both sides of a full fine-tune", "lab"])
def test_one_model_has_gone_when_the_next_one_is_loaded(chosen, tmp_path, job):
    workbench, ask = Workbench(tmp_path), {"base": [{"instruction": "Hi", "answer": None}]}
    full = None
    if job.startswith("both"):
        full = list(workbench.tune(chosen(train={"method": "full", "max_steps": 1})))[-1]["result"]["run"]
    list(workbench.load(chosen()))
    events = {
        "chat": lambda: workbench.chat(chosen(load={"bits": 4}), None, ask, Generation(max_new_tokens=2)),
        "tune": lambda: workbench.tune(chosen(load={"bits": 8}, train={"max_steps": 1})),
        "lab": lambda: workbench.lab(
            chosen(load={"bits": 16}), LabQuestion("bf16,bitsandbytes-int8,bitsandbytes-nf4", answer_tokens=0)
        ),
    }
    both = ask | {"tuned": ask["base"]}
    begun = events[job]() if job in events else workbench.chat(chosen(), full, both, Generation(max_new_tokens=2))
    counts = _models_at_each_load(workbench, begun)
    assert len(counts) >= {"lab": 3}.get(job, 1) and set(counts) == {0}, counts


def test_chat_texts_are_not_recorded_in_the_run(chosen, tmp_path):
    workbench = Workbench(tmp_path)
    conversation = {"base": [{"instruction": "My secret is mellon", "answer": None}]}
    answers = [
        e for e in workbench.chat(chosen(), None, conversation, Generation(max_new_tokens=8)) if e["kind"] == "answer"
    ]
    assert (
        answers
        and "mellon" not in (workbench.run.folder / "events.jsonl").read_text()
        and not [e for e in workbench.run.events() if e["kind"] == "answer"]
    )


def test_chat_with_the_adapter_of_another_model_is_refused(chosen, tmp_path, toy):
    workbench = Workbench(tmp_path)
    run = list(workbench.tune(chosen()))[-1]["result"]["run"]
    other = chosen(load={"model": str(toy("gpt2"))})
    with pytest.raises(PlaygroundError) as caught:
        list(workbench.chat(other, run, ASK, Generation(max_new_tokens=4)))
    assert keys(caught) == ["error.adapter"]
    base = list(workbench.chat(other, None, ASK, Generation(max_new_tokens=4)))
    assert base[-1]["kind"] == "done"


def test_chat_with_a_deleted_run_is_refused(chosen, tmp_path):
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path).chat(chosen(), "20200101-000000-tune", ASK, Generation(max_new_tokens=4)))
    assert keys(caught) == ["error.no_run"]


def test_chat_goes_on_after_the_run_that_loaded_its_model_was_deleted(chosen, tmp_path):
    workbench = Workbench(tmp_path)
    loaded = list(workbench.load(chosen()))[-1]["result"]["run"]
    runs.delete(tmp_path, loaded)
    answered = list(workbench.chat(chosen(), None, ASK, Generation(max_new_tokens=4)))[-1]
    assert answered["kind"] == "done" and answered["result"]["run"] != loaded


def test_failed_save_keeps_the_previous_adapter(chosen, tmp_path, monkeypatch):
    workbench = Workbench(tmp_path)
    list(workbench.tune(chosen()))
    before = (workbench.run.adapter / "adapter_model.safetensors").read_bytes()
    monkeypatch.setattr(PeftModel, "save_pretrained", lambda self, folder: os.mkdir(folder))
    with pytest.raises(OSError):
        saved_adapter.save_lora(workbench.loaded.model, workbench.run.adapter)
    assert (workbench.run.adapter / "adapter_model.safetensors").read_bytes() == before
    assert not (workbench.run.folder / "adapter.partial").exists()


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_on_a_full_disk_the_adapter_is_saved_elsewhere_and_earlier_runs_stay_complete(chosen, small_disk):
    workbench = Workbench(small_disk)
    first = list(workbench.tune(chosen(lora={"r": 1}, train={"max_steps": 1})))[-1]["result"]["run"]
    events = list(workbench.tune(chosen(lora={"r": 256}, train={"max_steps": 1})))
    [note] = [event for event in events if event.get("key") == "note.saved_elsewhere"]
    saved = Path(events[-1]["result"]["adapter"])
    assert str(saved) == note["values"]["kept"] and small_disk not in saved.parents
    assert json.loads((saved / "adapter_config.json").read_text())["r"] == 256
    shutil.rmtree(saved.parent)
    kept = runs.history(small_disk)[-1]
    assert (kept.id, kept.state, kept.has_adapter) == (first, "done", True)
    assert json.loads((small_disk / first / "adapter" / "adapter_config.json").read_text())["r"] == 1
    assert list(workbench.chat(chosen(), first, ASK, Generation(max_new_tokens=4)))[-1]["kind"] == "done"


def prompts_of_chat(workbench, settings, run, monkeypatch) -> set[str]:
    """The prompts of a chat with that run's adapter, as texts."""
    prompts = set()

    def answers(model, tokenizer, batch, *_):
        prompts.update(tokenizer.decode(prompt.ids) for prompt in batch)
        end = {"finish": "end", "tokens": 1, "seconds": 0.1}
        yield {"texts": ["blue <"] * len(batch), "tokens": 1, "ends": [end] * len(batch)}

    monkeypatch.setattr(answering, "generate_answers", answers)
    events = list(workbench.chat(settings, run, ASK, Generation(max_new_tokens=4)))
    assert [e for e in events if e["kind"] == "answer"][-1]["tuned"] == "blue "  # the answer's end mark is cut off
    return prompts


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_chat_uses_the_custom_format_that_the_run_was_trained_with(chosen, tmp_path, monkeypatch, method):
    form = "Q> {instruction}\n{input}\nA> {answer} <"
    settings = chosen(data={"prompt_format": "custom", "custom_format": form}, train={"max_steps": 1, "method": method})
    workbench = Workbench(tmp_path)
    run = list(workbench.tune(settings))[-1]["result"]
    assert run["template"] == "custom"
    for other in (workbench, Workbench(tmp_path)):
        prompts = prompts_of_chat(other, chosen(), run["run"], monkeypatch)
        assert prompts and all(prompt.startswith("Q> ") and prompt.endswith("\nA> ") for prompt in prompts)


def test_plain_texts_are_trained_on_and_continued(chosen, tmp_path, monkeypatch):
    rows = SelectedRows(
        [Row("", f"The answer to question {n} is blue.") for n in range(12)], [Row("", "The answer is blue.")]
    )
    monkeypatch.setattr("playground.data.source.read", lambda *_: rows)
    workbench = Workbench(tmp_path)
    result = list(workbench.tune(chosen(train={"max_steps": 2})))[-1]["result"]
    assert result["template"] == "text" and result["loss"]["after"] > 0 and result["recall"] is None
    events = list(workbench.chat(chosen(), result["run"], ASK, Generation(max_new_tokens=4)))
    assert events[-1]["result"]["template"] == "text" and any(e["kind"] == "answer" for e in events)
