"""Fine-tunes that stop, fail, resume, run out of memory or train every weight."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from toys import keys, make_model
from transformers import AutoTokenizer

from playground import runs
from playground.engine.process import start_job
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.settings import Generation
from playground.train import checkpoint, loop
from playground.train.loss import Loss
from playground.train.memory_policy import MemoryPlan


def result_of(events) -> dict:
    return [e for e in events if e["kind"] == "done"][-1]["result"]


def stopped_after(workbench, events, step: int) -> dict:
    """The result of a fine-tune that is stopped at a step."""
    seen = []
    for event in events:
        seen.append(event)
        if event["kind"] == "step" and event["step"] == step:
            workbench.stop.set()
    return result_of(seen)


def weights(root, run: str) -> dict:
    return load_file(root / run / "adapter/adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"dropout": 0.3},
        {"use_rslora": True, "loraplus_lr_ratio": 4.0},
        {"use_dora": True},
        {"kind": "miss"},
        {"init": "pissa_niter_2", "loraplus_lr_ratio": 4.0},
    ],
)
def test_resume_continues_bit_for_bit(chosen, tmp_path, lora):
    settings = chosen(lora=lora, train={"max_steps": 8})
    whole = result_of(Workbench(tmp_path).tune(settings))
    workbench = Workbench(tmp_path)
    stopped = stopped_after(workbench, workbench.tune(settings), 3)
    assert stopped["steps"] == 3 and stopped["stopped"] and (tmp_path / stopped["run"] / checkpoint.NAME).is_file()
    resumed = result_of(Workbench(tmp_path).resume(stopped["run"]))
    assert (resumed["run"], resumed["steps"], resumed["stopped"]) == (stopped["run"], 8, False)
    assert resumed["loss"] == whole["loss"]
    resumed_weights, whole_weights = weights(tmp_path, stopped["run"]), weights(tmp_path, whole["run"])
    assert resumed_weights.keys() == whole_weights.keys()
    assert all(torch.equal(resumed_weights[name], whole_weights[name]) for name in whole_weights)
    run = runs.find(tmp_path, stopped["run"])
    assert [e["step"] for e in run.events() if e["kind"] == "step"] == list(range(1, 9))
    assert runs.history(tmp_path)[0].state == "done" and not (run.folder / checkpoint.NAME).exists()


@pytest.mark.slow
def test_failed_run_resumes_from_its_last_checkpoint(chosen, tmp_path, monkeypatch):
    settings = chosen(train={"max_steps": 6, "save_every": 2})
    whole = result_of(Workbench(tmp_path).tune(settings))
    accumulate, calls = loop._accumulate, []

    def breaks(*args):
        calls.append(1)
        if len(calls) == 6:
            raise OSError("the machine was unplugged")
        return accumulate(*args)

    monkeypatch.setattr(loop, "_accumulate", breaks)
    with pytest.raises(PlaygroundError):
        list(Workbench(tmp_path).tune(settings))
    failed = runs.history(tmp_path)[0]
    assert failed.state == "failed"
    resumed = result_of(Workbench(tmp_path).resume(failed.id))
    assert resumed["steps"] == 6
    resumed_weights, whole_weights = weights(tmp_path, failed.id), weights(tmp_path, whole["run"])
    assert all(torch.equal(resumed_weights[name], whole_weights[name]) for name in whole_weights)


@pytest.mark.slow
def test_resume_without_a_usable_checkpoint_is_refused(chosen, tmp_path, lesson):
    workbench = Workbench(tmp_path)
    done = result_of(workbench.tune(chosen()))
    with pytest.raises(PlaygroundError) as caught:
        workbench.resume(done["run"])
    assert keys(caught) == ["error.no_checkpoint"]
    own = tmp_path / "own.jsonl"
    own.write_text(lesson.read_text())
    stopped = stopped_after(workbench, workbench.tune(chosen(data={"source": str(own)}, train={"max_steps": 5})), 2)
    own.write_text(lesson.read_text().replace("blue", "red").replace("question 1", "question one"))
    with pytest.raises(PlaygroundError) as caught:
        list(workbench.resume(stopped["run"]))
    assert keys(caught) == ["error.checkpoint"]
    own.write_text(lesson.read_text())
    (tmp_path / stopped["run"] / checkpoint.NAME).write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path).resume(stopped["run"]))
    assert keys(caught) == ["error.checkpoint"]


@pytest.mark.slow
def test_out_of_memory_steps_the_memory_plan_down_and_trains_the_same(chosen, tmp_path, monkeypatch):
    settings = chosen(train={"max_steps": 4})
    whole = [e["loss"] for e in Workbench(tmp_path).tune(settings) if e["kind"] == "step"]
    forward, calls = Loss.forward, []

    def forward_short_of_memory(self, batch, **options):
        is_predicted = next(self.parameters()).is_meta
        if batch is not None and torch.is_grad_enabled() and self.training and not is_predicted:
            calls.append(1)
            if len(calls) in (3, 5):  # the first is the plan's measurement; then twice in the middle of a step
                raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, batch, **options)

    monkeypatch.setattr(Loss, "forward", forward_short_of_memory)
    events = list(Workbench(tmp_path).tune(settings))
    notes = [e["values"] for e in events if e["kind"] == "note" and e["key"] == "note.stepped_down"]
    assert len(notes) == 2 and notes[0]["before"] == "off" and notes[1]["before"] == notes[0]["now"]
    assert [e["loss"] for e in events if e["kind"] == "step"] == pytest.approx(whole, rel=1e-4)


def test_out_of_memory_without_a_smaller_plan_fails(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(MemoryPlan, "step_down", lambda self: False)
    monkeypatch.setattr(loop, "_accumulate", lambda *args: (_ for _ in ()).throw(RuntimeError("can't allocate memory")))
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path).tune(chosen()))
    assert keys(caught) == ["error.out_of_memory"]


def test_failing_compiler_is_a_note_and_training_goes_on(chosen, tmp_path, monkeypatch):
    from playground.train import checkpointing

    def failing_compile(run, dynamic):
        def fails(*args, **kwargs):
            raise RuntimeError("no C++ compiler")

        return fails

    checkpointing._compiled.cache_clear()
    monkeypatch.setattr(checkpointing.torch, "compile", failing_compile)
    events = list(Workbench(tmp_path).tune(chosen(train={"compile": "on"})))
    checkpointing._compiled.cache_clear()
    assert [e["key"] for e in events if e["kind"] == "note"].count("note.compile_failed") == 1
    assert result_of(events)["steps"] == 3


@pytest.mark.parametrize("bits", [32, 16])
def test_full_fine_tune_trains_and_saves_every_weight(chosen, tmp_path, bits):
    workbench = Workbench(tmp_path)
    settings = chosen(load={"bits": bits, "dtype": "bfloat16"}, train={"method": "full", "max_steps": 6, "lr": 3e-3})
    events = list(workbench.tune(settings))
    result, steps = result_of(events), [e["loss"] for e in events if e["kind"] == "step"]
    assert steps[-1] < steps[0] and "adapter" not in result
    parts, size = result["parts"], bits // 8
    trained = sum(p.numel() for p in make_model("llama").parameters())
    assert parts["adapters"] == 0 and parts["weights"] - trained * size < 4096
    assert 0 <= parts["optimizer"] - 2 * trained * size < 4096
    saved = load_file(tmp_path / result["run"] / "model/model.safetensors")
    before = make_model("llama").state_dict()
    assert all(
        (saved[name].float() - before[name]).abs().max() > 0
        for name in ("lm_head.weight", "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")
    )
    assert runs.history(tmp_path)[0].has_adapter


@pytest.mark.slow
def test_base_and_full_fine_tune_answer_side_by_side(chosen, tmp_path):
    workbench = Workbench(tmp_path)
    settings = chosen(train={"method": "full", "max_steps": 12, "lr": 5e-3})
    turn = [{"instruction": "What is the answer to question 3?", "answer": None}]

    def ask(run, sides):
        return [e for e in workbench.chat(settings, run, sides, Generation(max_new_tokens=6)) if e["kind"] == "answer"][
            -1
        ]

    alone = ask(None, {"base": turn})["base"]
    run = result_of(workbench.tune(settings))["run"]
    both = ask(run, {"base": turn, "tuned": turn})
    assert both["base"] == alone and both["tuned"] != alone


def test_full_fine_tune_of_quantized_weights_is_refused(chosen, tmp_path):
    settings = chosen(load={"bits": 4}, train={"method": "full"}).to_dict()
    with pytest.raises(PlaygroundError) as caught:
        start_job(Workbench(tmp_path), "tune", {"settings": settings})
    assert keys(caught) == ["problem.full_bits"]


@pytest.mark.slow
def test_same_seed_gives_the_same_run(chosen, tmp_path):
    results = [result_of(Workbench(tmp_path).tune(chosen(lora={"dropout": 0.1}))) for _ in range(2)]
    first, second = (weights(tmp_path, result["run"]) for result in results)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.dumps(results[0]["loss"]) == json.dumps(results[1]["loss"])


def test_a_token_without_an_embedding_is_named_with_its_row(chosen, tmp_path, toy):
    folder = tmp_path / "model"
    shutil.copytree(toy(), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra{n}>" for n in range(336 - len(tokenizer))] + ["<extra>"])
    tokenizer.save_pretrained(folder)
    file = tmp_path / "rows.jsonl"
    texts = ["plain", "with <extra> in it", "plain too", "another"]
    file.write_text("".join(json.dumps({"question": f"q{n}", "answer": text}) + "\n" for n, text in enumerate(texts)))
    settings = chosen(load={"model": str(folder)}, data={"source": str(file), "held_out": 0.0})
    with pytest.raises(PlaygroundError) as error:
        list(Workbench(tmp_path / "runs").tune(settings))
    assert keys(error) == ["error.token_in_row"]
    assert error.value.problems[0].values == {"row": 2, "token": "<extra>", "id": 336, "rows": 336}
    turns = {"base": [{"instruction": "what is <extra>?", "answer": None}]}
    with pytest.raises(PlaygroundError) as error:
        list(Workbench(tmp_path / "runs").chat(settings, None, turns, Generation(max_new_tokens=2)))
    assert keys(error) == ["error.token_in_prompt"]


def test_a_run_without_measured_rows_can_be_resumed(chosen, tmp_path):
    workbench = Workbench(tmp_path)
    settings = chosen(train={"max_steps": 6, "eval_rows": 0})
    run = stopped_after(workbench, workbench.tune(settings), 3)["run"]
    result = result_of(workbench.resume(run))
    assert result["steps"] == 6 and result["loss"] == {"before": None, "after": None}
