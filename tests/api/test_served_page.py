"""The served page over HTTP: both languages, before the engine is ready; and the live view's polling function."""

import json
from collections import Counter

import httpx
import pytest
from served_app import ServedApp
from toys import PROJECT

from playground import runs
from playground.i18n import translate
from playground.settings import Settings


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    app = ServedApp(tmp_path_factory.mktemp("served"))
    app.wait_until_served()
    yield app.url
    app.close()


@pytest.mark.slow
@pytest.mark.parametrize("path,lang,other", [("/", "en", "ja"), ("/ja", "ja", "en")])
def test_each_language_has_a_page(address, path, lang, other):
    answer = httpx.get(address + path, timeout=30, follow_redirects=True)
    assert answer.status_code == 200
    for key in (
        "tune.go",
        "chat.ask",
    ):  # Gradio puts the whole page into a script as JSON, other letters escaped or not
        written = (translate(lang, key), json.dumps(translate(lang, key))[1:-1])
        assert any(form in answer.text for form in written)
    assert not any(
        form in answer.text for form in (translate(other, "tune.go"), json.dumps(translate(other, "tune.go"))[1:-1])
    )


@pytest.mark.parametrize("path,lang", [("/", "en"), ("/?__theme=dark", "en"), ("/ja", "ja"), ("/ja/", "ja")])
def test_the_document_begins_with_the_opening_picture(address, path, lang):
    answer = httpx.get(address + path, timeout=30, follow_redirects=True)
    assert int(answer.headers["content-length"]) == answer.num_bytes_downloaded
    body = answer.text[answer.text.rindex("<body") :]
    assert body.index(translate(lang, "opening.wait")) < body.index("</div>")
    assert "113.39 GiB" in body and body.count('class="opening"') == 1


def test_other_answers_have_no_opening_picture(address):
    for path in ("/config", "/gradio_api/info", "/theme.css"):
        assert 'class="opening"' not in httpx.get(address + path, timeout=30).text


def test_only_the_endpoints_for_programs_are_public(address):
    """No listener of the page is; tests/api/test_endpoints.py calls those that are."""
    info = httpx.get(address + "/gradio_api/info", timeout=30).json()
    names = ["/plan", "/tune", "/compare", "/runs", "/run", "/follow", "/stop"]
    assert list(info["named_endpoints"]) == names and info["unnamed_endpoints"] == {}


@pytest.fixture(scope="module")
def config(address):
    return httpx.get(address + "/config", timeout=30).json()


def test_no_two_listeners_that_keep_the_last_call_share_an_event(config):
    """They would wake each other for ever (playground/ui/separate_events.py)."""
    callers = Counter(
        tuple(target)
        for listener in config["dependencies"]
        if listener["backend_fn"] and listener["trigger_mode"] == "always_last"
        for target in listener["targets"]
    )
    assert callers and max(callers.values()) == 1


def test_no_handler_outputs_a_container(config):
    """Gradio copies the state of all that is in one at each call of any handler (page.select_tab)."""
    types = {component["id"]: component["type"] for component in config["components"]}
    outputs = {types[n] for listener in config["dependencies"] if listener["backend_fn"] for n in listener["outputs"]}
    assert "html" in outputs
    assert outputs.isdisjoint({"tabs", "tabitem", "row", "column", "group", "accordion", "form", "sidebar"})


@pytest.mark.parametrize("path", ["/etc/passwd", f"{PROJECT}/app.py", f"{PROJECT}/playground/engine/workbench.py"])
def test_files_of_the_machine_are_not_served(address, path):
    assert httpx.get(f"{address}/gradio_api/file={path}", timeout=30).status_code in (403, 404)


@pytest.fixture
def since(tmp_path):
    import gradio as gr

    from playground.ui.live_view import live_view

    now = {"run": None, "busy": False, "engine": "ready", "loaded": None, "memory": None}
    with gr.Blocks():
        view = live_view("ja", lambda: tmp_path, lambda: now)
    return view.since, now, tmp_path


def test_since_follows_the_current_run(since):
    poll, now, root = since
    assert poll({})["events"] == [] and poll({})["run"] == ""
    run = runs.create(root, "tune", Settings())
    now.update(run=run.id, busy=True)
    first = poll({"follow": "", "run": "", "cursor": 0})
    assert first["run"] == run.id and [e["kind"] for e in first["events"]] == ["run_started"] and first["live"]
    assert poll({"run": run.id, "cursor": first["cursor"]})["events"] == []
    run.append("error", problems=[{"key": "error.no_cuda", "values": {}}])
    [failure] = poll({"run": run.id, "cursor": first["cursor"]})["events"]
    assert failure["text"] == translate("ja", "error.no_cuda")


@pytest.mark.parametrize(
    "request_",
    [
        None,
        [],
        "x",
        3,
        {"follow": 3},
        {"run": None},
        {"cursor": -1},
        {"cursor": 1.5},
        {"cursor": "0"},
        {"cursor": True},
        {"cursor": 2**60},
        {"follow": ["a"]},
    ],
)
def test_since_returns_nothing_to_invalid_requests(since, request_):
    poll, now, root = since
    now["run"] = runs.create(root, "tune", Settings()).id
    assert poll(request_)["events"] == []


@pytest.mark.parametrize("name", ["../secret", "..", "/etc", "absent", "a\x00b", "."])
def test_since_reads_nothing_outside_the_runs_folder(since, name):
    poll, _, root = since
    (root.parent / "secret").mkdir(exist_ok=True)
    (root.parent / "secret" / "events.jsonl").write_text('{"t": 0, "kind": "run_started"}\n')
    assert poll({"follow": name, "run": name, "cursor": 0})["events"] == []


def test_since_passes_notes_and_errors_of_another_version(since):
    poll, now, root = since
    run = runs.create(root, "tune", Settings())
    run.append("note", key="from.the.future", values={})
    run.append("error", problems="?")
    run.append("error", problems=[3, {"key": "error.no_run"}])
    now["run"] = run.id
    assert [e.get("text") for e in poll({})["events"]][1:] == ["from.the.future", "", "error.no_run"]
