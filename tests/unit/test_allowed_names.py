"""The settings of a run are a file's: no process of a shared page reads what a form couldn't have named."""

import json
import threading
from types import SimpleNamespace

import pytest
from pages import page_over
from toys import keys

from playground import runs
from playground.data.allowed_names import checked_settings
from playground.engine.workbench import Workbench, find_tuned
from playground.errors import PlaygroundError
from playground.model import hub
from playground.model.adapter_folder import base_model
from playground.planning import preview, process
from playground.settings import Generation, Settings
from playground.settings.limits import SHARED
from playground.ui import compare_tab, export_view, repeat_view, snapshot_view

TURN = [{"instruction": "a", "answer": None}]


@pytest.fixture
def secret(tmp_path) -> str:
    (tmp_path / "secret.jsonl").write_text('{"instruction": "key", "output": "1234"}\n')
    return str(tmp_path / "secret.jsonl")


@pytest.fixture
def run(tmp_path, secret) -> runs.Run:
    """A fine-tune's run whose settings name a file of the machine, as an imported one's may."""
    settings = Settings().with_values({"data": {"source": secret}})
    return runs.create(tmp_path / "runs", "tune", settings, hardware={"device": "cpu"})


def refusal(call) -> list[str]:
    with pytest.raises(PlaygroundError) as refused:
        call()
    return keys(refused)


def test_processes_of_a_shared_page_refuse_a_file_of_the_machine_whoever_names_it(run, secret, monkeypatch, tmp_path):
    settings, root = run.settings(), tmp_path / "runs"
    bench = Workbench(root)
    assert checked_settings(settings) == settings  # one's own page reads whatever is named
    monkeypatch.setenv(SHARED, "1")
    asked = {"settings": settings.to_dict()}
    calls = [
        lambda: list(bench.tune(settings)),
        lambda: list(bench.chat(settings, None, {"base": TURN}, Generation())),
        lambda: list(bench.load(settings.with_values({"load": {"model": str(tmp_path)}}))),
        lambda: preview.answer("preview", asked | {"rows": 3}, print),
        lambda: process.answer("count_rows", asked, print),
        lambda: process.answer("weight_picture", {"model": str(tmp_path), "layer": "", "format": "nf4"}, print),
    ]
    for call in calls:
        assert set(refusal(call)) == {"problem.not_here"}
    assert refusal(lambda: find_tuned(root, str(tmp_path))) == ["problem.adapter_not_here"]
    assert refusal(lambda: checked_settings(Settings().with_values({"lora": {"start_from": "../x"}}))) == [
        "problem.not_here"
    ]
    assert [found.id for found in runs.history(root)] == [run.id]


def test_a_shared_page_works_with_no_run_that_names_a_file_of_the_machine(run, tmp_path):
    page, owner = page_over(tmp_path / "runs"), page_over(tmp_path / "runs", private=True)
    assert refusal(lambda: page.run_settings(run.id)) == ["problem.not_here"]
    assert owner.run_settings(run.id) == run.settings()
    assert refusal(lambda: compare_tab._turn(page, "q", run.id)) == ["problem.not_here"]
    assert refusal(lambda: export_view._order(page, run.id, ["adapter", "", "", "", "", False])) == ["problem.not_here"]
    for shown in (repeat_view._files(page, run.id), repeat_view._lines(page, run.id)):
        assert "secret.jsonl is a path" in shown[-1]["value"]


def test_a_run_that_continued_a_deleted_one_is_still_worked_with_but_a_new_job_needs_that_run(tmp_path):
    page = page_over(tmp_path / "runs", visitor="ada")
    first = runs.create(page.root, "tune", Settings())
    settings = Settings().with_values({"lora": {"start_from": first.id}})
    second = runs.create(page.root, "tune", settings)
    page.raise_if_forbidden(settings)
    runs.delete(page.root, first.id)
    assert page.run_settings(second.id) == settings
    page.raise_if_forbidden(settings, of_run=True)
    assert snapshot_view.run_question(page, second.id)["settings"] == settings.to_dict()
    assert refusal(lambda: page.raise_if_forbidden(settings)) == ["problem.not_here"]
    for path in ("../ada/x", "/etc/x", ".x"):
        other = runs.create(page.root, "tune", Settings().with_values({"lora": {"start_from": path}}))
        assert refusal(lambda run=other: page.run_settings(run.id)) == ["problem.not_here"]


def test_the_engine_of_a_shared_page_holds_a_run_to_the_limits_and_never_forces(monkeypatch):
    beyond = Settings().with_values({"train": {"max_seq_length": 4096}, "load": {"force": True}})
    assert checked_settings(beyond, fine_tunes=True) == beyond
    monkeypatch.setenv(SHARED, "1")
    assert refusal(lambda: checked_settings(beyond, fine_tunes=True)) == ["shared.length"]
    assert not checked_settings(beyond).load.force


def test_an_adapter_tells_a_shared_page_of_no_folder(monkeypatch, tmp_path):
    (tmp_path / "base").mkdir()
    for named in (str(tmp_path / "base"), str(tmp_path / "gone"), "~", "../base"):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named}))
        monkeypatch.delenv(SHARED, raising=False)
        if named.endswith("/base") and not named.startswith("."):
            assert base_model(tmp_path) == named
        monkeypatch.setenv(SHARED, "1")
        assert refusal(lambda: base_model(tmp_path)) == ["error.adapter_base"]


@pytest.mark.parametrize("kind", ["files", "gguf"])
def test_a_shared_page_downloads_no_more_than_its_largest_model(monkeypatch, tmp_path, kind):
    import huggingface_hub

    size, asked = {"of": 200}, []
    files = [SimpleNamespace(rfilename=name, size=of) for name, of in (("a.safetensors", 0), ("b.onnx", 10**15))]

    def model_info(api, repo, **named):
        files[0].size = size["of"]
        return SimpleNamespace(siblings=files)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: SimpleNamespace(size=size["of"]))
    for name in ("snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(huggingface_hub, name, lambda *_, **__: asked.append(1) or str(tmp_path))
    monkeypatch.setattr(hub, "check_access", lambda *_: None)

    def fetch():
        if kind == "files":
            hub.download_files("a/b", hub.MODEL_FILES, hub.IGNORED_FILES, print)
        else:
            list(hub.download_file("a/b", "x.gguf", threading.Event()))

    monkeypatch.setenv(SHARED, "1")
    monkeypatch.setenv("PLAYGROUND_MAX_PARAMETERS", "100")
    fetch()
    size["of"] = 2**30 + 401
    assert refusal(fetch) == ["shared.download"] and len(asked) == 1
    size["of"] = 400
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda folder: SimpleNamespace(free=799))
    assert refusal(fetch) == ["shared.download_disk"] and len(asked) == 1
    with monkeypatch.context() as patch:
        patch.setattr(hub, "cached_file", lambda repo, name: tmp_path)  # takes no more of the disk
        fetch()
    asked.pop()
    size["of"] = 2**30 + 401
    monkeypatch.delenv(SHARED)
    fetch()
    assert len(asked) == 2
