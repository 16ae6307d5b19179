"""The served page over HTTP: both languages, before the engine is ready; and what the chart may ask for."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress

import httpx
import pytest
from toys import PROJECT

from playground import runs
from playground.i18n import translate
from playground.settings import Settings


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port), "--runs", str(tmp_path_factory.mktemp("served"))]
    log = open(tmp_path_factory.mktemp("log") / "log", "w+")
    process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT, env=os.environ)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx.HTTPError):
            httpx.get(url, timeout=5)
            break
        time.sleep(0.1)
    else:
        log.seek(0)
        pytest.fail(log.read()[-2000:])
    yield url
    process.terminate()
    process.wait(20)


@pytest.mark.parametrize("path,lang,other", [("/", "en", "ja"), ("/ja", "ja", "en")])
def test_each_language_has_its_page(address, path, lang, other):
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


def test_no_job_is_open_to_other_programs(address):
    info = httpx.get(address + "/gradio_api/info", timeout=30).json()
    assert info["named_endpoints"] == {} and info["unnamed_endpoints"] == {}


@pytest.mark.parametrize("path", ["/etc/passwd", f"{PROJECT}/app.py", f"{PROJECT}/playground/jobs.py"])
def test_files_of_the_machine_are_not_served(address, path):
    assert httpx.get(f"{address}/gradio_api/file={path}", timeout=30).status_code in (403, 404)


@pytest.fixture
def since(tmp_path):
    import gradio as gr

    from playground.ui.live_view import live_chart

    now = {"run": None, "busy": False, "engine": "ready"}
    with gr.Blocks():
        chart = live_chart("ja", tmp_path, lambda: now)
    return chart.since, now, tmp_path


def test_the_chart_follows_the_run_that_goes_on(since):
    ask, now, root = since
    assert ask({})["events"] == [] and ask({})["run"] == ""
    run = runs.create(root, "tune", Settings())
    now.update(run=run.id, busy=True)
    first = ask({"follow": "", "run": "", "cursor": 0})
    assert first["run"] == run.id and [e["kind"] for e in first["events"]] == ["run"] and first["live"]
    assert ask({"run": run.id, "cursor": first["cursor"]})["events"] == []
    run.append("error", problems=[{"key": "error.no_cuda", "values": {}}])
    [failure] = ask({"run": run.id, "cursor": first["cursor"]})["events"]
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
def test_the_chart_answers_nothing_to_what_is_no_question(since, request_):
    ask, now, root = since
    now["run"] = runs.create(root, "tune", Settings()).id
    assert ask(request_)["events"] == []


@pytest.mark.parametrize("name", ["../secret", "..", "/etc", "absent", "a\x00b", "."])
def test_the_chart_reads_nothing_outside_the_runs(since, name):
    ask, _, root = since
    (root.parent / "secret").mkdir(exist_ok=True)
    (root.parent / "secret" / "events.jsonl").write_text('{"t": 0, "kind": "run_started"}\n')
    assert ask({"follow": name, "run": name, "cursor": 0})["events"] == []


def test_notes_and_failures_of_another_version_do_not_break_the_chart(since):
    ask, now, root = since
    run = runs.create(root, "tune", Settings())
    run.append("note", key="from.the.future", values={})
    run.append("error", problems="?")
    run.append("error", problems=[3, {"key": "error.no_run"}])
    now["run"] = run.id
    assert [e.get("text") for e in ask({})["events"]][1:] == ["from.the.future", "", "error.no_run"]
