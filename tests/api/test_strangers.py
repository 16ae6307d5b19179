"""Two visitors of a page that strangers open: nothing of the one is seen, fetched or changed by the other.

Every listener, endpoint and server function that the page has is called by B with the names of A's things.
"""

import hashlib
import io
import json
import os
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import fuzz_calls
import httpx
import pytest

from playground import runs
from playground.data import uploads
from playground.errors import PlaygroundError, problem
from playground.job import Job
from playground.jobs import store
from playground.planning.client import MAX_PREVIEW_SECONDS
from playground.settings import Settings
from playground.ui.comparison import Answer, Turn
from playground.ui.visitor_sessions import KEY
from playground.ui.visitors import COOKIE, visitor_id

MARK = "kiwi-7351"  # stands in everything that A has


class Visitor:
    """One browser: its cookie, its session, and its folder on the machine."""

    def __init__(self, address: str, session: str) -> None:
        self.http = httpx.Client(base_url=address, timeout=60)
        self.session = session
        self.http.get("/gradio_api/startup-events")
        self.id = visitor_id("cookie", self.http.cookies[COOKIE].partition(".")[0])

    def call(self, fn_index: int, data: list, event_data: dict | None = None) -> str:
        """The text of what a listener answers, whether the page calls it through the queue or not."""
        body = {"data": data, "fn_index": fn_index, "session_hash": self.session, "event_data": event_data}
        return self.http.post("/gradio_api/run/predict", json=body).text

    def ask(self, component: int, name: str, data: object) -> httpx.Response:
        body = {"data": data, "component_id": component, "fn_name": name, "session_hash": self.session}
        return self.http.post("/gradio_api/component_server", json=body)


class NoEngine:
    """What replaces the engine's process: every job is refused, which is recorded."""

    def __init__(self) -> None:
        self.asked: list = []

    def submit(self, engine, job, do, root, arguments):
        self.asked.append((do, str(root), json.dumps(arguments)))
        raise problem("error.engine_closed")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A shared page without its processes, and its address."""
    from playground.engine.client import Engine
    from playground.planning.client import Planner
    from playground.ui import build, launch

    folder, patch, engine = tmp_path_factory.mktemp("strangers"), pytest.MonkeyPatch(), NoEngine()
    for name in ("PLAYGROUND_CACHE", "GRADIO_TEMP_DIR"):
        patch.setenv(name, str(folder / name.lower()))
    patch.setenv("PLAYGROUND_MAX_CALLS", "1000000")  # a call that is refused for its number shows nothing
    patch.setattr(Engine, "start", lambda self: None)
    patch.setattr(Engine, "submit", lambda *arguments: engine.submit(*arguments))
    patch.setattr(Planner, "ask", lambda self, do, *rest, **arguments: _refused())
    app = build.build_app(folder / "runs")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    app.launch(server_port=port, prevent_thread_lock=True, quiet=True, **launch.launch_options("en", app.shared))
    yield app, f"http://127.0.0.1:{port}", folder
    app.close()
    patch.undo()


def _refused():
    raise PlaygroundError(problem("error.planner_died", code=1).problems[0])


@pytest.fixture(scope="module")
def visitors(page):
    _, address, _ = page
    return Visitor(address, "aaaa1111"), Visitor(address, "bbbb2222")


@pytest.fixture(scope="module")
def things(page, visitors):
    """A's runs, a deleted one, a waiting job, an upload, a download and a chat, all with MARK in them."""
    app, _, folder = page
    workspace = app.shared.spaces.of(visitors[0].id)
    settings = Settings().with_values({"data": {"contains": MARK}})
    run = runs.create(workspace.root, "tune", settings, hardware={"name": MARK})
    run.append("step", loss=1.0, tokens=5, lr=0.1, step=1, steps=2, tokens_per_s=3.0)
    run.append("sample", question=MARK, answer=MARK)
    run.append("done", job="tune", result={"loss": {"before": 2.0, "after": 1.0}, "mark": MARK})
    runs.write_label(workspace.root, run.id, MARK, MARK)
    run.adapter.mkdir()
    (run.adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": MARK}))
    (run.folder / "answers.jsonl").write_text(json.dumps({"question": MARK, "reference": MARK}) + "\n")
    (run.folder / "export").mkdir()
    (run.folder / "export" / "adapter.zip").write_text(MARK)
    (run.folder / "checkpoint.pt").write_text(MARK)
    deleted = runs.create(workspace.root, "tune", settings)
    runs.write_label(workspace.root, deleted.id, MARK, "")
    runs.delete(workspace.root, deleted.id)
    queued = store.add(workspace.root, [store.QueuedJob("compare", options={"question": MARK}, uses=run.id)])[0]
    file = folder / "rows.csv"
    file.write_text(f"question,answer\n{MARK},{MARK}\n")
    upload = uploads.keep(file, visitors[0].id)
    job = Job("tune")
    job.root = workspace.root
    job.add({"kind": "opened", "run": run.id})
    workspace.engine.last = workspace.engine.last_tune = job
    workspace.story.turns, workspace.story.adapter = [Turn(MARK, {"base": Answer(MARK)}, run.id, MARK)], run.id
    return {"run": run.id, "deleted": deleted.id, "job": queued.id, "upload": upload, "root": workspace.root}


def tree(folder: Path) -> dict[str, str]:
    """Every file under a folder with its content's digest; the index is rewritten by reading."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".index"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def named(component: dict, name: str) -> object:
    """A component's value with a name of A's in the place of any text and any file."""
    properties = component["props"]
    value, choices = properties.get("value"), [choice[1] for choice in properties.get("choices") or []]
    if component["type"] in ("uploadbutton", "file", "downloadbutton"):
        return {"path": name, "meta": {"_type": "gradio.FileData"}}
    if choices and not properties.get("allow_custom_value"):
        return value if component["type"] == "checkboxgroup" else value or choices[0]
    if isinstance(value, str) or value is None:
        return name
    return [name] if isinstance(value, list) else value


def test_no_listener_shows_or_changes_anothers_things(page, visitors, things):
    app, b = page[0], visitors[1]
    config = b.http.get("/config").json()
    components = {component["id"]: component for component in config["components"]}
    calls = [listener for listener in config["dependencies"] if listener["backend_fn"]]
    assert len(calls) > 150
    before, waiting = tree(things["root"]), app.shared.spaces.of(visitors[0].id).engine.job
    for listener in calls:
        for name in (things["run"], things["upload"]):
            data = [named(components[component], name) for component in listener["inputs"]]
            event = dict.fromkeys(("run", "id", "value", "row"), name) | {"selected": True, "runs": [name]}
            answer = b.call(listener["id"], data, event)
            assert MARK not in answer, (listener["id"], listener["targets"], answer[:500])
    assert tree(things["root"]) == before
    assert uploads.path_of(things["upload"]).is_file()
    engine = app.shared.spaces.of(visitors[0].id).engine
    assert engine.job is waiting and not engine.stopping


def test_no_server_function_shows_or_changes_anothers_things(page, visitors, things):
    b = visitors[1]
    config = b.http.get("/config").json()
    asked, before = 0, tree(things["root"])
    for component in config["components"]:
        for name in component["props"].get("server_fns") or []:
            for run in (things["run"], things["deleted"], things["job"]):
                for request in (
                    {"run": run, "follow": run, "cursor": 0, "shown": run},
                    *({"do": do, "id": run} for do in ("stop", "remove", "up", "again", "resume", "clear", "stop_all")),
                    run,
                ):
                    answer = b.ask(component["id"], name, request)
                    asked += 1
                    assert answer.status_code in (200, 500) and MARK not in answer.text, (name, answer.text[:300])
    assert asked >= 100 and tree(things["root"]) == before


def test_calls_with_one_wrong_value_get_an_answer_and_log_no_traceback(page, visitors, capfd):
    b, wrong = visitors[1], []
    for call in fuzz_calls.Calls(b.http.get("/config").json(), seed=5).near(800):
        body = json.loads(call.body) | {"session_hash": b.session}
        answer = b.http.post(call.path, content=fuzz_calls.encoded(body), headers=call.headers)
        if answer.status_code not in (200, 422) or "Traceback" in answer.text:
            wrong.append((body, answer.status_code, answer.text[:300]))
    assert wrong == [] and "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("name,values", [
    ("runs", ["", 50]), ("runs", [MARK, 50]), ("run", ["{run}"]), ("follow", ["{run}"]), ("stop", ["{run}"]),
    ("stop", [""]), ("compare", ["{run}", "hello", {}]),
    ("tune", [{"lora": {"start_from": "{run}"}}]), ("tune", [{"data": {"source": "{upload}"}}]),
])  # fmt: skip
def test_no_endpoint_for_programs_reaches_anothers_things(visitors, things, name, values):
    texts = json.dumps([*values, "en"]).replace("{run}", things["run"]).replace("{upload}", things["upload"])
    joined = visitors[1].http.post(f"/gradio_api/call/{name}", json={"data": json.loads(texts)})
    answer = visitors[1].http.get(f"/gradio_api/call/{name}/{joined.json()['event_id']}").text
    assert MARK not in answer
    assert "event: error" in answer or name in ("runs", "stop")
    if name == "runs":
        assert "[[]]" in answer


def test_a_visitors_question_to_the_planner_has_a_limit_of_seconds(page):
    app = page[0]
    seconds = {worker._most_seconds for worker in app.planner._workers.values()}
    assert max(seconds) == app.shared.limits.question == 120 and min(seconds) == MAX_PREVIEW_SECONDS


def test_the_owner_of_the_things_sees_them(page, visitors, things):
    """The same calls by A: the tests above would pass on a page that shows nobody anything."""
    a = visitors[0]
    joined = a.http.post("/gradio_api/call/runs", json={"data": ["", 50, "en"]}).json()
    assert things["run"] in a.http.get(f"/gradio_api/call/runs/{joined['event_id']}").text
    components = a.http.get("/config").json()["components"]
    since = next(part["id"] for part in components if "since" in (part["props"].get("server_fns") or []))
    assert MARK in a.ask(since, "since", {"follow": things["run"], "run": "", "cursor": 0}).text
    listed = next(part["id"] for part in components if "queue_state" in (part["props"].get("server_fns") or []))
    assert MARK in a.ask(listed, "queue_state", {}).text


def test_an_upload_is_fetched_by_its_visitor_alone_and_only_while_it_lies_there(visitors):
    a, b = visitors
    files = {"files": ("rows.csv", io.BytesIO(b"q,a\n1,2\n"), "text/csv")}
    path = a.http.post("/gradio_api/upload", files=files).json()[0]
    for route in (f"/gradio_api/file={path}", f"/gradio_api/file/{path.lstrip('/')}"):
        assert b.http.get(route).status_code == 404
    assert a.http.get(f"/gradio_api/file={path}").text == "q,a\n1,2\n"
    os.remove(path)
    assert a.http.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_a_session_belongs_to_the_first_visitor_who_names_it(visitors):
    a, b = visitors
    a.call(0, [])  # the first call that names it, even one that is refused
    assert b.http.get("/gradio_api/queue/data", params={"session_hash": a.session}).status_code == 403
    assert b.http.get(f"/gradio_api/heartbeat/{a.session}").status_code == 403
    for route in ("queue/join", "run/predict", "component_server", "cancel", "reset"):
        body = {"session_hash": a.session, "fn_index": 0, "data": [], "event_id": "x", "component_id": 0, "fn_name": ""}
        answer = b.http.post(f"/gradio_api/{route}", json=body)
        assert answer.status_code == 403 and "another visitor" in answer.json()["error"], route


@pytest.mark.parametrize("where", ["queued", "pending"])
def test_an_event_is_cancelled_and_gone_on_with_by_its_visitor_alone(page, visitors, where):
    """By routes whose body names a session of one's own, and another's event."""
    app, (a, b), event = page[0], visitors, "e" * 32
    queue = app._queue
    a.call(0, [])
    if where == "queued":
        queue.event_ids_to_events[event] = SimpleNamespace(request=SimpleNamespace(scope={KEY: a.id}))
    else:
        queue.pending_event_ids_session[a.session] = {event}
    try:
        for route in ("cancel", "run/predict", "reset"):
            body = {"session_hash": b.session, "fn_index": 0, "data": [], "event_id": event}
            answer = b.http.post(f"/gradio_api/{route}", json=body)
            assert answer.status_code == 403 and "another visitor" in answer.json()["error"], route
            assert a.http.post(f"/gradio_api/{route}", json=body | {"session_hash": a.session}).status_code != 403
    finally:
        queue.event_ids_to_events.pop(event, None)
        queue.pending_event_ids_session.pop(a.session, None)


@pytest.mark.parametrize("forge", ["", "0" * 32, "{made}.", "{made}.{other}", "\u00e9.\u00e9"])
def test_a_cookie_that_the_page_has_not_signed_makes_a_new_visitor(page, visitors, forge):
    made, signature = visitors[0].http.cookies[COOKIE].split(".")
    value = forge.format(made=made, other=signature[::-1]).encode("latin-1")
    answer = httpx.get(page[1] + "/gradio_api/startup-events", headers={"cookie": COOKIE.encode() + b"=" + value})
    given = answer.cookies[COOKIE].partition(".")[0]
    assert given not in (made, "0" * 32)
    assert re.search("HttpOnly; SameSite=Lax", answer.headers["set-cookie"])


def test_a_cookie_is_kept_and_works_in_the_frame_of_a_space(page, visitors):
    cookies = dict(visitors[0].http.cookies)
    assert "set-cookie" not in httpx.get(page[1] + "/gradio_api/startup-events", cookies=cookies).headers
    encrypted = httpx.get(page[1] + "/gradio_api/startup-events", headers={"x-forwarded-proto": "https"})
    assert "SameSite=None; Secure; Partitioned" in encrypted.headers["set-cookie"]


@pytest.mark.parametrize(
    "route",
    [
        *("monitoring", "gradio_api/deep_link?session_hash=aaaa1111", "gradio_api/proxy=http://x"),
        "gradio_api/custom_component/x/client/component/y.js",
    ],
)
def test_routes_that_tell_about_others_are_closed(visitors, route):
    assert visitors[1].http.get(f"/{route}").status_code == 404
