"""The job `export` on toys: what is written, refused, stopped or interrupted, and what a hub gets."""

import contextlib
import errno
import json
import os
import re
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import ClassVar

import gradio as gr
import pytest
import torch
from pages import page_over
from peft import PeftModel
from toys import keys
from transformers import AutoModelForCausalLM, AutoTokenizer

from playground import runs
from playground.background import Stopped
from playground.engine import export as export_job
from playground.engine.export_check import check_before_loading
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError, as_playground_error
from playground.export import destination as places
from playground.export import gguf_file, hub, logits
from playground.export.model_card import model_card
from playground.export.order import ExportOrder, estimated_bytes, is_file_name, parse_order, usual_name
from playground.i18n import translate
from playground.model import merged_weights
from playground.settings import Settings
from playground.ui import export_view

TOKEN = "hf_thisTokenIsSecretAndMustStayInMemory"
FORMATS = [{"to": "adapter"}, {"to": "merged"}, {"to": "gguf"}]


@pytest.fixture(scope="module")
def tuned(toy, lesson, tmp_path_factory):
    """(workbench, run) of a fine-tune at 4 bits."""
    from playground.settings import Settings

    values = {
        "load": {"model": str(toy("llama", chat=True)), "bits": 4, "device": "cpu"},
        "data": {"source": str(lesson)},
        "train": {"max_steps": 3, "batch_size": 4, "max_seq_length": 128, "lr": 1e-2, "sample_every": "off"},
    }
    workbench = Workbench(tmp_path_factory.mktemp("export") / "runs")
    result = list(workbench.tune(Settings().with_values(values)))[-1]["result"]
    return workbench, runs.find(workbench.root, result["run"])


@pytest.fixture
def places_left(tuned):
    """The run's export folder, empty before and after."""
    folder = tuned[1].folder / "export"
    yield folder
    for path in folder.glob("*") if folder.is_dir() else ():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)


def order(run, **values):
    return parse_order({"run": run.id, **values})


def export(tuned, **values):
    """The events of an export."""
    return list(tuned[0].export(order(tuned[1], **values), values.pop("token", "")))


def left(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_an_adapter_is_zipped_with_a_card_and_without_paths_of_this_machine(tuned, toy, places_left, tmp_path):
    events = export(tuned, to="adapter")
    size = next(e["values"] for e in events if e.get("key") == "note.export_size")
    assert size["free_bytes"] > size["need_bytes"] > 0 and events[-1]["result"]["to"] == "adapter"
    assert left(places_left) == ["adapter.zip"]
    zipfile.ZipFile(places_left / "adapter.zip").extractall(tmp_path)
    folder = tmp_path / tuned[1].id
    text = (folder / "README.md").read_text() + (folder / "adapter_config.json").read_text()
    assert str(toy("llama", chat=True).parent) not in text and "4 bits (nf4)" in text and "6.0 GiB" not in text
    loss = runs.last_result(tuned[1])["loss"]
    assert f"{loss['before']:.3f} → {loss['after']:.3f}" in text
    base = AutoModelForCausalLM.from_pretrained(toy("llama", chat=True))
    assert PeftModel.from_pretrained(base, folder).peft_config["default"].r == 8


def test_a_merged_model_answers_as_the_tuned_one(tuned, places_left):
    events = export(tuned, to="merged")
    difference = events[-1]["result"]["difference"]
    assert difference["same_next_token"] == difference["prompts"] >= 2 and 0 < difference["mean"] < 0.1
    model = AutoModelForCausalLM.from_pretrained(places_left / "merged")
    tokenizer = AutoTokenizer.from_pretrained(places_left / "merged")
    assert (
        model.dtype == torch.bfloat16 and tokenizer.chat_template and not hasattr(model.config, "quantization_config")
    )
    assert (places_left / "merged" / "generation_config.json").is_file()
    assert f"{difference['mean']}" in (places_left / "merged" / "README.md").read_text()


def test_a_gguf_file_is_read_back_and_compared(tuned, places_left):
    result = export(tuned, to="gguf", type="q8_0")[-1]["result"]
    assert result["difference"]["same_next_token"] == result["difference"]["prompts"]
    assert left(places_left) == [os.path.basename(result["path"])] and result["path"].endswith("-q8_0.gguf")


@pytest.mark.parametrize("same,prompts,much", [(4, 4, False), (3, 4, False), (2, 4, True), (0, 1, True)])
def test_an_export_that_answers_otherwise_says_so_on_the_page(same, prompts, much):
    difference = {"prompts": prompts, "same_next_token": same, "largest": 9.0, "mean": 1.0}
    page = SimpleNamespace(translate=partial(translate, "en"))
    text = export_view._done_text(page, {"path": "/a/x.gguf", "bytes": 3, "difference": difference})
    assert (translate("en", "note.export_differs") in text) == much


def test_a_file_that_is_offered_is_that_of_the_run_that_its_choice_names(tmp_path):
    """An export may end while another run is chosen, which has files of the same names."""
    page = page_over(tmp_path, private=True)
    made = [runs.create(tmp_path, "tune", Settings()) for _ in range(2)]
    for number, run in enumerate(made, 1):
        (run.folder / "export").mkdir()
        (run.folder / "export" / "adapter.zip").write_bytes(b"x" * number)
    for number, run in enumerate(made, 1):
        kept = export_view._kept_update(page, run.id)
        assert [label for label, _ in kept["choices"]] == ["adapter.zip"]
        button, _ = export_view._download(page, kept["value"])
        assert os.path.getsize(button["value"]) == number
    for absent in (None, "", "adapter.zip", f"{made[0].id}/../settings.json", f"../{made[0].id}/adapter.zip"):
        assert export_view._download(page, absent)[0]["value"] is None


def test_after_an_export_the_files_of_the_run_that_is_chosen_then_are_listed(tmp_path):
    page = page_over(tmp_path, private=True)
    with gr.Blocks() as app:
        chosen = gr.Dropdown([])
        view = export_view.build(page)
        export_view.connect(page, view, chosen)
    [start] = [fn for fn in app.fns.values() if (view.start._id, "click") in fn.targets]
    [after] = [fn for fn in app.fns.values() if fn.trigger_after == start._id]
    assert view.kept not in start.outputs and (after.inputs, after.outputs) == ([chosen], [view.kept])


def test_an_export_is_read_back_only_where_its_numbers_fit_as_they_are_computed_in(tuned, places_left, monkeypatch):
    free = []
    monkeypatch.setattr(export_job.logits, "fits_main_memory", lambda nbytes: free.append(nbytes))
    merged, gguf = export(tuned, to="merged"), export(tuned, to="gguf", type="q2_k")
    weights = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(places_left / "merged").parameters())
    assert logits.read_back_bytes(10, torch.float32, False) == 48
    size = round(free[0] / 1.2 / weights)  # bytes of a number, as this machine computes
    assert size in (2, 4) and free == [round(1.2 * size * weights), round(1.2 * (size + 4) * weights)]
    for events, need in zip((merged, gguf), free):
        note = next(event["values"] for event in events if event.get("key") == "note.export_unchecked")
        assert note == {"need_bytes": need} and "difference" not in events[-1]["result"]


def test_an_export_is_a_run_of_its_own(tuned, places_left):
    before = (tuned[1].folder / "events.jsonl").read_bytes()
    summary = runs.summary(tuned[0].root, tuned[1].id)
    events = export(tuned, to="merged")
    assert (tuned[1].folder / "events.jsonl").read_bytes() == before
    assert runs.summary(tuned[0].root, tuned[1].id) == summary
    own = runs.summary(tuned[0].root, events[0]["run"])
    assert (own.job, own.state, own.has_adapter) == ("export", "done", False)
    assert {"export", "check"} <= {e["name"] for e in events if e["kind"] == "phase"}
    assert any(e["kind"] == "progress" for e in events) or events[-1]["result"]["bytes"] < 10**6


def test_a_full_fine_tune_exports_its_model(chosen, toy, tmp_path):
    workbench = Workbench(tmp_path / "runs")
    settings = chosen(load={"model": str(toy("llama", chat=True))}, train={"method": "full", "lr": 1e-3})
    run = runs.find(workbench.root, list(workbench.tune(settings))[-1]["result"]["run"])
    result = export((workbench, run), to="merged", out=str(tmp_path / "out"), name="mine 🎚️ it's")[-1]["result"]
    assert result["path"] == str(tmp_path / "out" / "mine 🎚️ it's")
    trained = AutoModelForCausalLM.from_pretrained(run.model).state_dict()
    exported = AutoModelForCausalLM.from_pretrained(result["path"]).state_dict()
    assert all(torch.equal(trained[name].bfloat16(), exported[name]) for name in trained)
    with pytest.raises(PlaygroundError) as error:
        export((workbench, run), to="adapter")
    assert keys(error) == ["error.export_full"]


@pytest.mark.parametrize("values", FORMATS)
def test_what_is_there_is_only_replaced_on_request(tuned, places_left, values):
    path = export(tuned, **values)[-1]["result"]["path"]
    with pytest.raises(PlaygroundError) as error:
        export(tuned, **values)
    assert keys(error) == ["error.export_exists"]
    assert export(tuned, **values, force=True)[-1]["result"]["path"] == path and len(left(places_left)) == 1


@pytest.mark.parametrize("values", FORMATS)
def test_too_little_space_is_said_with_both_numbers(tuned, places_left, monkeypatch, values):
    monkeypatch.setattr(places, "free_bytes", lambda folder: 1234)
    with pytest.raises(PlaygroundError) as error:
        export(tuned, **values)
    problem = error.value.problems[0]
    assert problem.key == "error.export_space" and problem.values["free_bytes"] == 1234
    assert problem.values["need_bytes"] > 10_000 and left(places_left) == []


def test_what_speaks_against_an_export_is_said_before_the_model_is_loaded(toy, tmp_path, monkeypatch):
    gguf, merged = ExportOrder("r", "gguf"), ExportOrder("r", "merged")
    for refused in ("gpt_neox", "t5"):
        with pytest.raises(PlaygroundError) as error:
            check_before_loading(gguf, str(toy(refused)), tmp_path)
        assert keys(error) == ["error.export_family"]
    for order, model in ((gguf, "llama"), (merged, "gpt_neox")):
        check_before_loading(order, str(toy(model, chat=True)), tmp_path)
    monkeypatch.setattr(places, "free_bytes", lambda folder: 200_000_000)
    with pytest.raises(PlaygroundError) as error:
        check_before_loading(merged, "smollm2-135m-instruct", tmp_path)
    assert error.value.problems[0].values["need_bytes"] == 2 * 134_515_008


def test_too_little_space_is_said_without_loading_the_model(tuned, places_left, monkeypatch):
    monkeypatch.setattr("playground.engine.export_check.estimated_bytes", lambda *_: 10**18)
    job = Workbench(tuned[0].root).export(order(tuned[1], to="merged"), "")
    own = runs.find(tuned[0].root, next(job)["run"])
    with pytest.raises(PlaygroundError) as error:
        list(job)
    assert keys(error) == ["error.export_space"]
    assert "loaded" not in {event["kind"] for event in own.events()}


class FullDisk:
    """Bytes that a fake disk has; the write that goes over it fails as a full disk does."""

    def __init__(self, monkeypatch, most):
        self.most, self.open = most, open
        for module in (merged_weights, gguf_file):
            monkeypatch.setattr(module, "open", self.limited, raising=False)

    @contextlib.contextmanager
    def limited(self, path, mode="r", **options):
        with self.open(path, mode, **options) as stream:
            yield _Limited(stream, self)


class _Limited:
    def __init__(self, stream, disk):
        self._stream, self._disk = stream, disk

    def write(self, data):
        size = memoryview(data).nbytes
        self._stream.write(memoryview(data).cast("B")[: max(0, self._disk.most)])
        self._disk.most -= size
        if self._disk.most < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name):
        return getattr(self._stream, name)


@pytest.mark.parametrize("values", FORMATS[1:])
@pytest.mark.parametrize("most", [0, 5, 1000, 60_000])
def test_a_disk_full_at_any_byte_leaves_nothing(tuned, places_left, monkeypatch, values, most):
    FullDisk(monkeypatch, most)
    with pytest.raises(PlaygroundError) as error:
        export(tuned, **values)
    assert keys(error) == ["error.disk_full"] and left(places_left) == []


@pytest.mark.parametrize("values", FORMATS)
@pytest.mark.parametrize("writes", [1, 3])
def test_stopping_leaves_nothing(tuned, places_left, monkeypatch, values, writes):
    from playground import background

    count = 0

    def counted(call, stop, every=0.2):
        def stopping(on_progress):
            def step(*arguments):
                nonlocal count
                count += 1
                if count >= writes:
                    stop.set()
                on_progress(*arguments)

            return call(step)

        return (yield from background.run_in_background(stopping, stop, every))

    monkeypatch.setattr("playground.engine.export.run_in_background", counted)
    result = export(tuned, **values)[-1]["result"]
    assert result["stopped"] and "path" not in result and left(places_left) == []


@pytest.mark.parametrize("values", FORMATS)
def test_a_stop_that_comes_after_the_last_byte_leaves_nothing(tuned, places_left, monkeypatch, values):
    original = export_job.run_in_background

    def stopping_after(call, stop):
        result = yield from original(call, stop)
        if places_left.is_dir() and list(places_left.glob("*.partial/*")):  # what was written, or compared
            stop.set()
        return result

    monkeypatch.setattr(export_job, "run_in_background", stopping_after)
    result = export(tuned, **values)[-1]["result"]
    assert result["stopped"] and "path" not in result and left(places_left) == []


def test_a_stop_is_obeyed_between_the_prompts_that_are_compared(tuned, places_left):
    job = tuned[0].export(order(tuned[1], to="merged"), "")
    for event in job:
        if event["kind"] == "phase" and event["name"] == "check":
            tuned[0].stop.set()
    assert event["result"]["stopped"] and left(places_left) == []


def test_a_run_is_not_deleted_while_it_is_exported(tuned, places_left):
    for event in tuned[0].export(order(tuned[1], to="adapter"), ""):
        if event["kind"] == "phase" and event["name"] == "export":
            with pytest.raises(PlaygroundError) as error:
                runs.delete(tuned[0].root, tuned[1].id)
            assert keys(error) == ["error.run_held"]
    assert left(places_left) == ["adapter.zip"] and not runs.is_held(tuned[1])


def test_a_stop_after_the_end_does_not_make_an_export_a_stopped_one(tuned, places_left, monkeypatch):
    original = export_job._result

    def stopping(job, *arguments):
        job.context.stop.set()
        return original(job, *arguments)

    monkeypatch.setattr(export_job, "_result", stopping)
    result = export(tuned, to="adapter")[-1]["result"]
    assert not result["stopped"] and left(places_left) == ["adapter.zip"]


KILLED = """
import os, sys
from pathlib import Path
from playground.export.destination import destination
with destination(Path(sys.argv[1]), "model") as path:
    path.mkdir()
    (path / "half").write_bytes(b"x" * 1000)
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_leaves_is_removed_by_the_next_export(tmp_path):
    import subprocess
    import sys

    from toys import PROJECT

    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=PROJECT)
    assert killed.returncode == -9 and [name.rsplit(".")[-1] for name in left(tmp_path)] == ["lock", "partial"]
    with places.destination(tmp_path, "model") as path:
        path.write_bytes(b"whole")
    assert left(tmp_path) == ["model"] and (tmp_path / "model").read_bytes() == b"whole"


def test_what_a_killed_process_was_replacing_gets_its_name_again(tmp_path):
    partial = tmp_path / "model.gguf.999999999.partial"
    partial.mkdir()
    (partial / "model.gguf.old").write_bytes(b"old")
    places.remove_leftovers(tmp_path)
    assert left(tmp_path) == ["model.gguf"] and (tmp_path / "model.gguf").read_bytes() == b"old"


def test_what_would_be_replaced_stays_where_the_renaming_fails(tmp_path, monkeypatch):
    (tmp_path / "model").write_bytes(b"old")

    def failing(new, final, rename=os.replace):
        if str(final) == str(tmp_path / "model") and not str(new).endswith(".old"):
            raise OSError(errno.EACCES, "denied")
        rename(new, final)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError), places.destination(tmp_path, "model", force=True) as path:
        path.write_bytes(b"new")
    assert left(tmp_path) == ["model"] and (tmp_path / "model").read_bytes() == b"old"


def test_another_process_that_is_writing_is_left_alone(tmp_path):
    other = tmp_path / f"model.{os.getppid()}.partial"
    other.mkdir()
    (tmp_path / "my notes.partial").mkdir()
    places.remove_leftovers(tmp_path)
    assert left(tmp_path) == sorted([other.name, "my notes.partial"])


NO_FILE_NAMES = ("a/b", "..", "", ".hidden", "x" * 300, "a\nb", "犬" * 60, "a.partial", " a", 'a"b', "a\\b")
OF_NO_SYSTEM = ("CON", "nul.gguf", "lpt1", "\ud83d", "a\x85", "a\x7f")


@pytest.mark.parametrize("name", [*NO_FILE_NAMES, *OF_NO_SYSTEM])
def test_names_that_are_no_file_names(name):
    assert not is_file_name(name) or name == ""
    if name:
        with pytest.raises(PlaygroundError) as error:
            parse_order({"run": "x", "to": "merged", "name": name})
        assert keys(error) == ["error.export_name"]


def test_all_that_is_wrong_with_an_order_is_said_together():
    with pytest.raises(PlaygroundError) as error:
        parse_order({"run": "x", "to": "hub", "repo": "a/b/c", "type": "q9", "content": "dog", "name": "/"})
    assert keys(error) == ["error.export_choice", "error.export_choice", "error.export_name", "error.export_repo"]


def test_usual_names_and_sizes():
    assert usual_name(ExportOrder("r", "gguf", type="q4_k"), "/home/me/My Model 日本") == "my-model-q4_k.gguf"
    assert usual_name(ExportOrder("r", "merged"), "x") == "merged"
    size = estimated_bytes(ExportOrder("r", "merged"), "smollm2-135m-instruct", 5)
    assert size == 2 * 134_515_008 and estimated_bytes(ExportOrder("r", "adapter"), "x", 5) == 5
    assert estimated_bytes(ExportOrder("r", "gguf"), "/no/catalog/model", 5) is None


@pytest.mark.parametrize("damage", ["no weights", "half weights", "no config", "broken config"])
def test_a_half_copied_adapter_is_an_error_with_the_runs_name(tuned, tmp_path, damage):
    import shutil

    root = tmp_path / "runs"
    shutil.copytree(tuned[1].folder, root / tuned[1].id)
    adapter = root / tuned[1].id / "adapter"
    weights, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    if damage == "no weights":
        weights.unlink()
    elif damage == "half weights":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "no config":
        config.unlink()
    else:
        config.write_text("[")
    for to in ("adapter", "merged"):
        with pytest.raises(PlaygroundError) as error:
            export((Workbench(root), runs.find(root, tuned[1].id)), to=to)
        assert keys(error)[0] in ("error.adapter", "error.cut_off", "error.adapter_config", "error.adapter_no_weights")
        assert tuned[1].id in error.value.text()


@pytest.mark.parametrize("content", ["[" * 5000, "{" * 3, '{"question": 3}', "[]", '"x"'])
def test_answers_that_cannot_be_read_keep_no_export_from_being_compared(tuned, places_left, tmp_path, content):
    copied = _copy(tuned, tmp_path)
    (copied[1].folder / "answers.jsonl").write_text(content + "\n")
    assert export(copied, to="merged")[-1]["result"]["difference"]["prompts"] == 4


def test_a_pipe_in_place_of_the_answers_is_not_waited_for(tuned, tmp_path):
    copied = _copy(tuned, tmp_path)
    (copied[1].folder / "answers.jsonl").unlink(missing_ok=True)
    os.mkfifo(copied[1].folder / "answers.jsonl")
    assert export(copied, to="gguf")[-1]["result"]["difference"]["prompts"] == 4


def test_an_adapter_with_numbers_that_are_not_finite_is_refused(tuned, tmp_path):
    from safetensors.torch import load_file, save_file

    copied = _copy(tuned, tmp_path)
    weights = copied[1].adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {sorted(tensors)[0]: torch.full_like(tensors[sorted(tensors)[0]], torch.nan)}, weights)
    with pytest.raises(PlaygroundError) as error:
        export(copied, to="merged")
    [found] = error.value.problems
    assert found.key == "error.adapter_not_finite" and (found.values["wrong"], found.values["count"]) == (
        1,
        len(tensors),
    )


def test_a_model_that_computes_no_finite_numbers_is_not_exported(tuned, places_left, monkeypatch):
    original = logits.logits_of
    monkeypatch.setattr(logits, "logits_of", lambda *args: [found * torch.nan for found in original(*args)])
    with pytest.raises(PlaygroundError) as error:
        export(tuned, to="gguf")
    assert keys(error) == ["error.export_not_finite"] and left(places_left) == []


def test_settings_that_leave_the_bits_to_the_hardware_export_as_loaded(tuned, tmp_path):
    copied = _copy(tuned, tmp_path)
    file = copied[1].folder / "settings.json"
    values = json.loads(file.read_text())
    values["load"]["bits"] = 0
    file.write_text(json.dumps(values))
    events = export(copied, to="merged")
    assert events[-1]["result"]["path"] and " 0 bits" not in _shown(events)


def test_a_settings_file_without_a_model_makes_no_run_of_the_defaults(tuned, tmp_path):
    copied = _copy(tuned, tmp_path)
    for text in ("{}", '{"load": {}}', '{"load": {"model": ""}}', '{"load": 3}'):
        (copied[1].folder / "settings.json").write_text(text)
        with pytest.raises(PlaygroundError) as error:
            export(copied, to="adapter")
        assert keys(error) == ["error.settings_file"] and copied[1].id in error.value.text()


def _shown(events):
    return " ".join(translate("en", e["key"], **e["values"]) for e in events if e["kind"] == "note")


def _copy(tuned, tmp_path):
    """(workbench, run) of a copy that a test may damage."""
    import shutil

    root = tmp_path / "runs"
    shutil.copytree(tuned[1].folder, root / tuned[1].id)
    return Workbench(root), runs.find(root, tuned[1].id)


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\x0bb", "a|b", "a\u2028b", "🎚️ emoji"])
def test_a_model_card_has_one_line_for_each_name(tuned, tmp_path, name):
    copied = _copy(tuned, tmp_path)
    file = copied[1].folder / "settings.json"
    values = json.loads(file.read_text())
    values["load"]["model"], values["data"]["source"] = f"/m/{name}", f"/d/{name}.jsonl"
    file.write_text(json.dumps(values))
    text = model_card(copied[1], "adapter", "en")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) >= 8 and all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    assert [line for line in text.splitlines() if line.startswith("# ")] and "/m/" not in text


class FakeHub(BaseHTTPRequestHandler):
    """A hub that is FAKE: it takes repos and commits, keeps them in memory and says so in its answers.

    mode: "lfs" has files uploaded one by one before the commit, as those that are large are; put: its answer to these.
    """

    files: ClassVar[dict[str, bytes]] = {}
    mode: ClassVar[str] = "regular"
    put: ClassVar[int] = 200
    tokens: ClassVar[list[str]] = []
    status: ClassVar[int] = 200

    def do_POST(self):
        import base64

        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        type(self).tokens.append(self.headers.get("Authorization", ""))
        if self.status != 200:
            return self.answer({"error": f"fake hub refuses {self.headers.get('Authorization')}"}, self.status)
        if self.path.endswith("/repos/create"):
            return self.answer({"url": f"http://{self.headers['Host']}/me/toy", "name": "me/toy", "fake": True})
        if self.path.endswith("/validate-yaml"):
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": self.mode} for f in json.loads(body)["files"]]
            return self.answer({"files": [{**f, "shouldIgnore": False} for f in files]})
        if self.path.endswith("/info/lfs/objects/batch"):
            upload = {"href": f"http://{self.headers['Host']}/lfs/upload"}
            objects = [{**o, "actions": {"upload": upload}} for o in json.loads(body)["objects"]]
            return self.answer({"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    type(self).files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    type(self).files[line["value"]["path"]] = b""
            return self.answer(
                {"commitUrl": f"http://{self.headers['Host']}/me/toy/commit/1", "commitOid": "fake", "success": True}
            )
        return self.answer({}, 404)

    def do_PUT(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer({}, self.put)

    def answer(self, value, status=200):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def fake_hub(monkeypatch):
    import huggingface_hub

    FakeHub.files, FakeHub.tokens, FakeHub.status, FakeHub.mode, FakeHub.put = {}, [], 200, "regular", 200
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    real = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: real(endpoint=address, token=token))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield FakeHub
    server.shutdown()
    server.server_close()


def push(tuned, token=TOKEN, **values):
    return list(tuned[0].export(order(tuned[1], to="hub", repo="me/toy", **values), token))


def test_a_hub_gets_the_adapter_and_its_card_and_the_token_stays_nowhere(tuned, fake_hub, places_left, capfd):
    result = push(tuned)[-1]["result"]
    assert result["url"].endswith("/me/toy") and left(places_left) == []
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(fake_hub.files)
    assert b"4 bits" in fake_hub.files["README.md"] and set(fake_hub.tokens) == {f"Bearer {TOKEN}"}
    _token_is_nowhere(tuned, capfd)


def test_what_is_pushed_lies_where_the_next_export_removes_it_after_a_kill(tuned, places_left, monkeypatch):
    seen = []

    def pushed(folder, *arguments):
        seen.extend([folder.name, *left(places_left)])
        return {"url": "http://hub/me/toy"}

    monkeypatch.setattr(hub, "push_folder", pushed)
    assert push(tuned, content="merged")[-1]["result"]["url"]
    assert (
        seen[0] == "merged"
        and any(name.endswith(f"-{os.getpid()}.partial") for name in seen)
        and left(places_left) == []
    )


def _token_is_nowhere(tuned, capfd):
    for path in tuned[0].root.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    assert TOKEN not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "status,key", [(401, "error.export_hub_refused"), (403, "error.export_hub_refused"), (400, "error.export_hub")]
)
def test_a_refusal_names_the_repo_and_never_the_token(tuned, fake_hub, places_left, capfd, status, key):
    fake_hub.status = status
    with pytest.raises(PlaygroundError) as error:
        push(tuned)
    assert keys(error) == [key] and "me/toy" in error.value.text() and TOKEN not in error.value.text()
    assert fake_hub.files == {} and left(places_left) == []
    _token_is_nowhere(tuned, capfd)


def test_a_stopped_upload_publishes_nothing(tuned, fake_hub, tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 100_000)

    def stop(done, total):
        raise Stopped

    with pytest.raises(Stopped):
        hub.push_folder(tmp_path, "me/toy", TOKEN, True, "message", stop)
    assert fake_hub.files == {}


def test_a_large_file_is_uploaded_before_the_commit_refused_or_stopped(tuned, fake_hub, tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 10_000)
    fake_hub.mode = "lfs"

    def pushed(on_progress=lambda *step: None):
        return hub.push_folder(tmp_path, "me/toy", TOKEN, True, "message", on_progress)

    assert pushed()["url"] and fake_hub.files == {"big": b""}
    fake_hub.files, fake_hub.put = {}, 403
    with pytest.raises(PlaygroundError) as error:
        pushed()
    assert keys(error) == ["error.export_hub_refused"]

    def broken(done, total):
        if done > 10_000:
            raise ConnectionResetError("the connection broke")

    with pytest.raises(PlaygroundError, match="the connection broke") as error:
        pushed(broken)
    assert keys(error) == ["error.export_hub"]

    def stop(done, total):
        if done > 10_000:  # the first reading is for the checksum
            raise Stopped

    with pytest.raises(Stopped):
        pushed(stop)
    assert fake_hub.files == {}


def test_without_a_token_nothing_is_sent(tuned, fake_hub):
    with pytest.raises(PlaygroundError) as error:
        push(tuned, token="")
    assert keys(error) == ["error.export_token"] and fake_hub.tokens == []


def test_a_full_disk_reads_as_one():
    assert as_playground_error(OSError(errno.ENOSPC, "full", "file")).problems[0].key == "error.disk_full"
