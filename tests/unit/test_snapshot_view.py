"""Memory snapshots on the page and in a run: which are offered, where files go, and what strangers may get."""

import pickle
from types import SimpleNamespace

import gradio as gr
import pytest
from pages import page_over
from toys import keys

from playground import compat, runs
from playground.engine.memory_snapshot import with_snapshot
from playground.engine.process import start_job
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError, problem
from playground.i18n import format_bytes, translate
from playground.memory import cuda_snapshot
from playground.planning.process import answer
from playground.settings import Settings, parse
from playground.ui import downloads, snapshot_view

HARDWARE = {"cpu": {"device": "cpu", "capacity": 2**33}, "cuda": {"device": "cuda", "capacity": 24 * 2**30}}
FRAMES = [
    {"name": "forward", "filename": "/home/somebody/env/lib/python3.11/site-packages/torch/nn/linear.py", "line": 1},
    {"name": "step", "filename": str(runs.__file__), "line": 2},
    {"name": "run", "filename": "/usr/lib/python3.11/threading.py", "line": 3},
]


class InThisProcess:
    """A planner that answers here."""

    def ask(self, do, **arguments):
        return answer(do, arguments, lambda event: None)


@pytest.fixture(autouse=True)
def own_downloads(tmp_path, monkeypatch):
    (tmp_path / "downloads").mkdir()
    monkeypatch.setattr(downloads, "folder", lambda: tmp_path / "downloads")


@pytest.fixture
def page(tmp_path):
    return page_over(tmp_path / "runs", private=True, planner=InThisProcess())


def _run(page, job="tune", device="cuda", **values):
    return runs.create(page.root, job, Settings().with_values(values), hardware=HARDWARE[device])


def _shown(page, run_id):
    """The sentence about a run, its button, and whether its step can be predicted."""
    state, measured, write, *_ = snapshot_view._run_updates(page, run_id)
    return state, measured, write["interactive"]


def test_the_predicted_step_lies_in_the_downloads_under_a_name_of_its_settings(page, toy):
    folder = str(toy())
    settings = parse({"load": {"model": folder, "bits": 16}, "train": {"max_seq_length": 64, "batch_size": 2}})
    made = {
        bits: snapshot_view.write_predicted(
            page,
            {"settings": settings.with_values({"load": {"bits": bits}}).to_dict(), "capacity": 0, "device": "cuda"},
        )
        for bits in (16, 32)
    }
    assert made[16].is_relative_to(downloads.folder()) and made[16].name.startswith("predicted-")
    assert "16-bit" in made[16].name and "32-bit" in made[32].name
    assert pickle.loads(made[16].read_bytes())["device_traces"][0]
    names = [file.name for file in made[16].parent.iterdir()]
    assert sorted(names) == sorted(path.name for path in made.values())  # no part of a file is left


def test_only_the_last_predictions_are_kept(page, monkeypatch):
    monkeypatch.setattr(snapshot_view, "MAX_KEPT", 2)
    monkeypatch.setattr(InThisProcess, "ask", lambda self, do, path, **values: open(path, "wb").close())
    settings = Settings().to_dict()
    made = [
        snapshot_view.write_predicted(page, {"settings": settings, "capacity": n, "device": "cpu"}) for n in range(4)
    ]
    assert sum(path.exists() for path in made) == 2 and made[-1].exists()


def test_a_recorded_run_offers_its_own_file_and_its_prediction(page):
    run = _run(page)
    run.snapshot.write_bytes(b"1" * 2**20)
    state, button, predicts = _shown(page, run.id)
    assert translate("en", "snapshot.recorded") == state and predicts
    link = button["value"]
    assert open(link, "rb").read() == run.snapshot.read_bytes() and link.startswith(str(downloads.folder()))
    assert format_bytes(2**20) in button["label"] and button["interactive"]


def test_a_run_without_a_measured_snapshot_says_why(page, monkeypatch):
    asked = {"train": {"memory_snapshot": True}}
    expected = [
        (_run(page).id, "not_recorded", True),
        (_run(page, **asked).id, "at_the_end", True),
        (_run(page, device="cpu", **asked).id, "run_cpu", True),
        (_run(page, job="chat").id, "no_tune", False),
        ("", "no_tune", False),
        ("../../etc", "no_tune", False),
    ]
    for run_id, key, predicts in expected:
        state, button, can_predict = _shown(page, run_id)
        assert translate("en", f"snapshot.{key}") == state, key
        assert button["value"] is None and not button["interactive"] and can_predict == predicts


def test_a_file_too_large_for_a_download_is_named_and_strangers_learn_no_folder(page, monkeypatch):
    run = _run(page)
    run.snapshot.write_bytes(b"12")
    monkeypatch.setattr(downloads, "MAX_DOWNLOAD_BYTES", 1)
    assert str(run.snapshot) in _shown(page, run.id)[0]
    page.private = False
    state, button, _ = _shown(page, run.id)
    assert f"{run.id}/snapshot.pickle" in state and str(page.root) not in state and button["value"] is None


def test_a_measured_file_is_only_offered_while_its_accordion_is_open(page, monkeypatch):
    run = _run(page)
    run.snapshot.write_bytes(b"12")
    with gr.Blocks() as blocks:
        live = gr.HTML()
        view = snapshot_view.build_for_run(page)
        snapshot_view.connect_run(page, view, live)
    handlers = {event[1]: one for one in blocks.fns.values() for event in one.targets}
    monkeypatch.setattr(snapshot_view, "shown_run", lambda value: value)
    change, is_open = handlers["change"].fn, handlers["change"].inputs[1]
    assert change(run.id, False)[1]["value"] is None
    opened, closed = handlers["expand"].fn(run.id), handlers["collapse"].fn()
    assert opened[0] is True and opened[2]["value"].endswith("snapshot.pickle")
    assert closed[0] is False and closed[1]["value"] is None and change(run.id, True)[1]["value"] == opened[2]["value"]
    for name in ("expand", "collapse"):
        assert handlers[name].outputs[0] is is_open and view.measured in handlers[name].outputs


def test_strangers_get_no_prediction_of_a_run_on_a_folder_of_the_machine(page, tmp_path):
    (tmp_path / "model").mkdir()
    run = _run(page, load={"model": str(tmp_path / "model")})
    assert snapshot_view.run_question(page, run.id)["capacity"] == 24 * 2**30
    page.private = False
    with pytest.raises(PlaygroundError) as caught:
        snapshot_view.run_question(page, run.id)
    assert keys(caught) == ["problem.not_here"]


def test_a_fine_tune_on_a_cpu_says_that_only_the_prediction_exists(chosen, tmp_path):
    settings = chosen(train={"memory_snapshot": True, "max_steps": 1}).to_dict()
    events = list(start_job(Workbench(tmp_path), "tune", {"settings": settings, "exact": False}))
    assert [e["key"] for e in events if e["kind"] == "note"].count("note.snapshot_cpu") == 1
    assert events[-1]["kind"] == "done" and not runs.find(tmp_path, events[-1]["result"]["run"]).snapshot.exists()


@pytest.fixture
def fake_cuda(monkeypatch):
    """A fake of CUDA's recorder, since there is none on a CPU; tests/gpu/test_cuda_snapshot.py has the real one."""
    calls = []
    taken = {"segments": [{"blocks": [{"frames": FRAMES}]}], "device_traces": [[{"action": "alloc", "frames": FRAMES}]]}
    taken = pickle.loads(pickle.dumps(taken))
    monkeypatch.setattr(cuda_snapshot.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(compat, "keeps_cuda_memory", lambda: calls[-1:] == ["record"])
    monkeypatch.setattr(compat, "record_cuda_memory", lambda most: calls.append("record"))
    monkeypatch.setattr(compat, "forget_cuda_memory", lambda: calls.append("forget"))
    monkeypatch.setattr(compat, "cuda_memory_snapshot", lambda: taken)
    return calls


def _context(run, device="cuda", main=True):
    return SimpleNamespace(run=run, team=SimpleNamespace(device=device, main=main))


def _work(error=None):
    yield {"kind": "step"}
    if error:
        raise error
    return "result"


def _drained(generator):
    events = []
    while True:
        try:
            events.append(next(generator))
        except StopIteration as end:
            return events, end.value


RECORDS = Settings().with_values({"train": {"memory_snapshot": True}})


def test_a_snapshot_is_recorded_only_where_the_settings_ask_and_by_the_main_process(fake_cuda, page):
    run = _run(page)
    for context, settings in ((_context(run), Settings()), (_context(run, main=False), RECORDS)):
        assert _drained(with_snapshot(context, settings, _work())) == ([{"kind": "step"}], "result")
    assert fake_cuda == [] and not run.snapshot.exists()
    events, result = _drained(with_snapshot(_context(run), RECORDS, _work()))
    assert result == "result" and fake_cuda == ["record", "forget"]
    assert events[-1] == {
        "kind": "note",
        "key": "note.snapshot",
        "values": {"size_bytes": run.snapshot.stat().st_size},
    }


def test_a_snapshot_is_written_after_an_error_and_names_no_folder_of_the_machine(fake_cuda, page):
    run = _run(page)
    with pytest.raises(PlaygroundError) as caught:
        _drained(with_snapshot(_context(run), RECORDS, _work(problem("error.busy"))))
    assert keys(caught) == ["error.busy"] and fake_cuda == ["record", "forget"]
    taken = pickle.loads(run.snapshot.read_bytes())
    named = [frame["filename"] for frame in taken["device_traces"][0][0]["frames"]]
    assert named == ["torch/nn/linear.py", "playground/runs/__init__.py", "threading.py"]
    assert [frame["filename"] for frame in taken["segments"][0]["blocks"][0]["frames"]] == named


def test_a_snapshot_that_cannot_be_written_costs_no_fine_tune(fake_cuda, page):
    run = _run(page)
    run.snapshot.mkdir()
    events, result = _drained(with_snapshot(_context(run), RECORDS, _work()))
    assert result == "result" and events[-1]["key"] == "error.recording_file" and fake_cuda[-1] == "forget"
    assert {path.name for path in run.folder.iterdir()} == {"settings.json", "events.jsonl", "snapshot.pickle"}


def test_a_snapshot_within_another_leaves_the_outer_one_recording(fake_cuda, tmp_path):
    outer, inner = tmp_path / "outer.pickle", tmp_path / "inner.pickle"
    with cuda_snapshot.cuda_snapshot(outer):
        with cuda_snapshot.cuda_snapshot(inner):
            pass
        assert fake_cuda == ["record"] and inner.exists()
    assert fake_cuda == ["record", "forget"] and outer.exists()
