"""The served page over HTTP: both languages, before the engine is ready; and the live view's polling function."""

import itertools
import json
import signal
import socket
import time
from collections import Counter

import fuzz_calls
import httpx
import psutil
import pytest
from gradio_client import Client
from served_app import ServedApp
from toys import PROJECT

from playground import runs
from playground.i18n import translate
from playground.planning.client import read_stored_answers
from playground.settings import Settings

JSON = {"content-type": "application/json"}


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
    steps = {entry["id"]: entry["answer"] for entry in read_stored_answers()}["waterfall"]
    assert f"{steps[0]['need'] / 2**30:.2f} GiB" in body and body.count('class="opening"') == 1


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


@pytest.mark.slow
def test_malformed_calls_get_an_answer_below_500(address, config):
    """A few hundred of the calls of tests/bench/fuzz.py: no 500, no traceback, and the page still answers."""
    outcome = fuzz_calls.run(address, fuzz_calls.Calls(config, seed=1, mild=True).take(300))
    assert [(call.endpoint, call.body[:300], status, text[:300]) for call, status, text in outcome.wrong] == []
    statuses = Counter(status for counts in outcome.counts.values() for status in counts.elements())
    assert statuses.total() == 300 and statuses[422] > 50 and statuses[200] > 10
    assert httpx.get(address, timeout=30).status_code == 200


@pytest.mark.slow
def test_every_server_function_and_every_listener_of_one_value_takes_any(address, config):
    calls = fuzz_calls.Calls(config, seed=1)
    outcome = fuzz_calls.run(address, itertools.chain(calls.every_server_function(), calls.every_lone_value()))
    assert [(call.endpoint, call.body[:300], status, text[:300]) for call, status, text in outcome.wrong] == []


@pytest.mark.parametrize(
    "path,body,status",
    [
        ("call/plan", {"data": [1]}, 422),
        ("call/none", {"data": []}, 404),
        ("run/predict", {"data": [], "fn_index": 10**9}, 404),
        ("run/predict", {"data": [], "fn_index": "x"}, 422),
        ("queue/join", {"data": [], "fn_index": 0, "session_hash": "x" * 1000}, 422),
        ("component_server", {"data": 0, "component_id": 1, "fn_name": "__init__", "session_hash": "x"}, 404),
        ("component_server", {"data": 0}, 422),
        ("call/plan", [], 422),
    ],
)
def test_a_wrong_call_is_answered_with_a_sentence(address, path, body, status):
    answer = httpx.post(f"{address}/gradio_api/{path}", json=body, timeout=30)
    assert answer.status_code == status and answer.json()["error"] == answer.json()["detail"] != ""


def test_bodies_are_bounded(address):
    url = f"{address}/gradio_api/call/plan"
    assert httpx.post(url, content=b"[" * 200_000, headers=JSON, timeout=30).status_code == 400
    deep = b'{"data": ' + b"[" * 500 + b"]" * 500 + b"}"
    assert httpx.post(url, content=deep, headers=JSON, timeout=30).status_code == 422
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(
            b"POST /gradio_api/call/plan HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n{" % 2**40
        )
        assert b" 413 " in raw.recv(100)


@pytest.mark.slow
def test_half_a_character_in_a_name_harms_nobody(address, config):
    """Not a call, a server function's value, nor a question: each is read with U+FFFD in its place."""
    body = b'{"data": ["\\ud83d", null, null, null, null, 0, 1024, null, "en", null]}'
    event = httpx.post(f"{address}/gradio_api/call/plan", content=body, headers=JSON, timeout=30).json()["event_id"]
    answer = httpx.get(f"{address}/gradio_api/call/plan/{event}", timeout=60).text
    assert "event: error" in answer and "\\ufffd" in answer
    view = next(c for c in config["components"] if "since" in (c["props"].get("server_fns") or ()))
    body = b'{"data": {"follow": "\\ud83d"}, "component_id": %d, "fn_name": "since", "session_hash": "x"}' % view["id"]
    answer = httpx.post(f"{address}/gradio_api/component_server", content=body, headers=JSON, timeout=30)
    assert answer.status_code == 200 and not answer.json()["busy"]


@pytest.mark.slow
def test_page_that_is_ended_keeps_the_training_and_offers_it_again(tmp_path, chosen):
    app = ServedApp(tmp_path)
    app.wait_until_served()
    opened = Client(app.url, verbose=False).predict(chosen(train={"max_steps": 100_000}).to_dict(), api_name="/tune")
    run = runs.find(app.runs, opened["id"])
    while not any(event["kind"] == "step" for event in run.events()):
        assert app.process.poll() is None
        time.sleep(0.1)
    children = psutil.Process(app.process.pid).children(recursive=True)
    app.process.send_signal(signal.SIGHUP)
    assert app.process.wait(60) == 128 + signal.SIGHUP and children
    assert psutil.wait_procs(children, 20)[1] == []
    summary = runs.interrupted(app.runs)
    assert (summary.id, summary.has_checkpoint, summary.result["ended_by"]) == (run.id, True, "SIGHUP")
    assert list(run.events())[-1]["kind"] == "done"
