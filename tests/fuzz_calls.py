"""Malformed calls over every route of a served page: values of wrong types, counts, sizes and encodings, from a seed.

Shared by tests/bench/fuzz.py, which sends tens of thousands, and by tests/api/test_served_page.py, a few hundred.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

PREFIX = "/gradio_api"
NAMED = ("plan", "tune", "compare", "runs", "run", "follow", "stop")
TIMEOUT = httpx.Timeout(60.0)
STREAM_BYTES = 4_000  # that are read of an answer that doesn't end
LONE = "\ud83d"  # half an emoji
FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}, "orig_name": "x.json", "size": -1}
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**53, 2**63, -(2**64), 10**40, 10**400, 0.5, -0.0, 1e308, 1e-320,
    float("nan"), float("inf"), "", " ", "x", "nan", "1e400", "9" * 5000, LONE, f"a{LONE}b", "\x00", "a\x00b",
    "\u202e",
    "../../etc/passwd", "/etc/passwd", "~", "C:\\", "<script>x</script>", "{{7*7}}", "%s%n",
    "smollm2-135m-instruct",
    "helpdesk.en", "x" * 10_000, "あ" * 3_000, [], {}, [None], [[]], [1, "a", None], {"a": 1}, {"": None},
    {LONE: LONE},
    [[[[[[[[[[]]]]]]]]]], {"load": 3}, {"load": {"model": LONE}}, {"train": {"max_steps": 10**30,
    "batch_size": -1}},
    {"lora": {"r": "many"}}, {"run": "..", "cursor": 2**53}, {"run": LONE, "cursor": 0}, {"follow": [], "run": {}},
    {"__type__": "update", "value": 3}, {"do": "remove", "id": "../x"}, {"do": [], "id": {}}, {"do": "again",
    "id": "x"},
    {"step": 0, "value": 10**20}, {"step": -1, "value": "x"}, {"shown": "", "query": {"text": 3},
    "first": {"tunes": 9e99}},
    {"shown": LONE, "query": {"text": LONE, "sort": []}, "first": []}, FILE, [FILE], {"path": None, "meta": {}},
    {"path": 3},
)  # fmt: skip
RAW_BODIES = (
    b"", b"{", b"null", b"[]", b'"x"', b"3", b"\xff\xfe\x00", b'{"data": [' + b"[" * 5_000, b'{"data": [NaN]}',
    b'{"data": {"a": 1}}', b'{"data": null}', b'{"data": "x"}', b'{"data": [], "session_hash": 3}', b"[" * 100_000,
    b'{"data": ["\\ud83d"]}', b'{"data": [1e999]}', b'{"data": [' + b"9" * 10_000 + b"]}", b'{"a": 1, "a": 2}',
    b'{"data": [], "fn_index": "x"}', b'{"data": [], "fn_index": -5}', b'{"data": [],"fn_index": 99999999999999999999}',
)  # fmt: skip
CONTENT_TYPES = (
    "application/json",
    "application/json",
    "text/plain",
    "",
    "multipart/form-data",
    "application/x-x; q=1",
)
PATHS = (
    "/", "/ja", "/en", "/ja/", "/config", "/config/", "/theme.css", "/robots.txt", "/manifest.json", "/favicon.ico",
    "/gradio_api/info", "/gradio_api/info/", "/gradio_api/openapi.json", "/gradio_api/startup-events",
    "/monitoring",
    "/monitoring/x", "/gradio_api/file=/etc/passwd", "/gradio_api/file=%00", "/gradio_api/file=../../etc/passwd",
    "/gradio_api/file=http://127.0.0.1/", "/gradio_api/file=" + "a" * 5_000, "/gradio_api/file/",
    "/static/../app.py",
    "/static/%2e%2e/x", "/assets/%00", "/svelte/..%2f..", "/gradio_api/proxy=http://127.0.0.1/", "/login_check",
    "/user",
    "/gradio_api/custom_component/x/client/component/y.js", "/gradio_api/stream/a/b/c/playlist.m3u8",
    "/pwa_icon/9999",
    "/gradio_api/stream/a/b/c/d.ts", "/gradio_api/stream/a/b/c/playlist-file", "/gradio_api/queue/status",
    "/pwa_icon",
    "/gradio_api/queue/data?session_hash=none", "/gradio_api/queue/data", "/gradio_api/call/plan/none", "/%ff",
    "/\u3042",
    "/gradio_api/upload_progress?upload_id=x", "/gradio_api/deep_link?session_hash=none", "/?deep_link=x",
    "/logout",
    "/gradio_api/app_id", "/gradio_api/token", "/ja?__theme=%00", "/runs", "/gradio_api/runs",
    "/monitoring/summary",
)  # fmt: skip
POSTED = ("cancel", "reset", "stream/none", "stream/none/close", "process_recording", "call/v2/plan", "call/v2/none",
          "vibe-edit", "undo-vibe-edit", "vibe-starter-queries", "api/plan", "api/none", "run/none",
          "call/none")  # fmt: skip

EVENT_FIELDS = ("index", "value", "selected", "run", "runs", "id", "row", "key", "do", "step", "target", "file")


@dataclass(frozen=True)
class Call:
    """One request. endpoint: the name under which its answer is counted."""

    endpoint: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Calls:
    """Random calls for a page with this Gradio config. mild: none that starts a job of the engine or the planner."""

    def __init__(self, config: dict, seed: int, mild: bool = False) -> None:
        self._random = random.Random(seed)
        self._listeners = [listener for listener in config["dependencies"] if listener["backend_fn"]]
        self._servers = [
            (component["id"], name)
            for component in config["components"]
            for name in component["props"].get("server_fns") or ()
        ]
        self._shown = {component["id"]: component["props"].get("value") for component in config["components"]}
        assert self._listeners and self._servers
        self._mild = mild

    def take(self, count: int) -> Iterator[Call]:
        """`count` calls, each kind of endpoint as often as its weight says."""
        kinds = [self._named, self._direct, self._joined, self._server_function, self._raw, self._other, self._upload]
        for _ in range(count):
            yield self._random.choices([*kinds, self._read], [4, 5, 2 if not self._mild else 0, 5, 3, 2, 1, 1])[0]()

    def every_server_function(self) -> Iterator[Call]:
        """Each server function with each of VALUES."""
        for component, name in self._servers:
            for value in VALUES:
                body = {"data": value, "component_id": component, "fn_name": name, "session_hash": "a"}
                yield self._post(f"component_server {name}", "component_server", body)

    def every_lone_value(self) -> Iterator[Call]:
        """Each listener of one component with each of VALUES, but those that start a job."""
        for listener in self._listeners:
            for value in VALUES if len(listener["inputs"]) == 1 else ():
                body = {"data": [value], "fn_index": listener["id"], "session_hash": "a"}
                yield self._post("run/predict", "run/predict", body)

    def near(self, count: int) -> Iterator[Call]:
        """Calls of listeners with what the page would send, but one value, and some with an event that none sends."""
        for _ in range(count):
            listener = self._random.choice(self._listeners)
            data = [self._shown.get(component) for component in listener["inputs"]]
            if data and self._random.random() < 0.8:
                data[self._random.randrange(len(data))] = self._value()
            body = {"data": data, "fn_index": listener["id"], "session_hash": "a"}
            if self._random.random() < 0.4:
                names = self._random.sample(EVENT_FIELDS, 4)
                event = {name: self._random.choice([FILE, self._value()]) for name in names}
                body["event_data"] = self._random.choice([event, FILE])
            yield self._post("run/predict, one wrong", "run/predict", body)

    def _value(self) -> Any:
        return self._random.choice(VALUES)

    def _values(self, count: int) -> list:
        """As many values as expected, most of the time."""
        count = self._random.choice([count, count, count, count + 1, max(0, count - 1), 0, 60])
        return [self._value() for _ in range(count)]

    def _session(self) -> Any:
        return self._random.choice(
            [None, "a", "b", "c", LONE, 3, [], "x" * 100_000, "\x00", f"s{self._random.random()}"]
        )

    def _post(self, endpoint: str, path: str, body: Any) -> Call:
        return Call(endpoint, "POST", f"{PREFIX}/{path}", encoded(body), {"content-type": "application/json"})

    def _named(self) -> Call:
        name = self._random.choice([*NAMED, "plan", "runs", "run", "none"])
        count = {"plan": 9, "tune": 2, "compare": 4, "runs": 3, "follow": 2, "run": 2}.get(name, 2)
        values = self._values(count)
        if name == "tune" and values:
            values[0] = self._random.choice([3, "x", [], {"train": {"lr": LONE}}, {"load": {"bits": 10**30}}, {"x": 1}])
        if name == "tune" and not values:
            values = [3]
        return self._post(f"call/{name}", f"call/{name}", {"data": values})

    def _direct(self) -> Call:
        listener = self._random.choice(self._listeners)
        body = {
            "data": self._values(len(listener["inputs"])),
            "fn_index": listener["id"],
            "session_hash": self._session(),
        }
        if self._random.random() < 0.2:
            body["event_data"] = self._value()
        if self._random.random() < 0.2:
            body |= {self._random.choice(["fn_index", "trigger_id", "batched", "event_id"]): self._value()}
        return self._post("run/predict", "run/predict", body)

    def _joined(self) -> Call:
        call = self._direct()
        return Call("queue/join", call.method, f"{PREFIX}/queue/join", call.body, call.headers)

    def _server_function(self) -> Call:
        component, name = self._random.choice(self._servers)
        body = {"data": self._value(), "component_id": component, "fn_name": name, "session_hash": self._session()}
        if self._random.random() < 0.25:
            body |= {self._random.choice(list(body)): self._value()}
        if self._random.random() < 0.1:
            body |= {"fn_name": self._random.choice(["__class__", "preprocess", "", "get_config", "__init__"])}
        if self._random.random() < 0.05:
            del body[self._random.choice(list(body))]
        return self._post(f"component_server {name}", "component_server", body)

    def _raw(self) -> Call:
        path = self._random.choice(
            ["call/plan", "run/predict", "queue/join", "component_server", "cancel", "call/v2/plan"]
        )
        headers = {"content-type": self._random.choice(CONTENT_TYPES)}
        if self._random.random() < 0.1:
            headers |= self._random.choice(
                [
                    {"host": "x" * 500},
                    {"x-forwarded-host": "a b"},
                    {"x-gradio-server": "http://[", "x-forwarded-proto": "x"},
                ]
            )
        return Call(f"raw {path}", "POST", f"{PREFIX}/{path}", self._random.choice(RAW_BODIES), headers)

    def _other(self) -> Call:
        path = self._random.choice(POSTED)
        body = self._random.choice(
            [
                {"session_hash": self._value(), "fn_index": self._value(), "event_id": self._value()},
                {"data": self._value(), "event_id": "x"},
                {"model": self._value(), "bits": self._value()},
                self._value(),
            ]
        )
        return self._post(path, path, body)

    def _upload(self) -> Call:
        boundary, name = "b", self._random.choice(["x.json", "../../x", "", "a" * 5_000, "\x00", "x.pt", 'q"uote'])
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="files"; filename="{name}"'
        part = f"{head}\r\n\r\n{{}}\r\n--{boundary}--"
        bodies = [part.encode(), part.encode()[:-9], b"", b"--b", (part * 40).encode(), b"\xff" * 500]
        kinds = [
            "multipart/form-data; boundary=b",
            "multipart/form-data",
            "application/json",
            "multipart/form-data; boundary=z",
        ]
        where = self._random.choice(
            ["upload", "upload?upload_id=x", "upload?upload_id=" + "y" * 999, "component_server"]
        )
        kind, body = self._random.choice(kinds), self._random.choice(bodies)
        return Call("upload", "POST", f"{PREFIX}/{where}", body, {"content-type": kind})

    def _read(self) -> Call:
        return Call("GET", self._random.choice(["GET", "GET", "GET", "HEAD", "PUT"]), self._random.choice(PATHS))


def encoded(body: Any) -> bytes:
    """JSON as a hostile client writes it: NaN, integers of any size, halves of characters escaped."""
    return json.dumps(body, ensure_ascii=True).encode("ascii")


def send(client: httpx.Client, call: Call) -> tuple[int, str]:
    """Status and the beginning of the answer; 0 where none came."""
    try:
        request = client.build_request(call.method, call.path, content=call.body or None, headers=call.headers)
        answer = client.send(request, stream=True)
        text = b""
        for block in answer.iter_raw():
            text += block
            if len(text) > STREAM_BYTES or b"heartbeat" in text or b"ALIVE" in text:
                break
        answer.close()
        return answer.status_code, text.decode("utf-8", "replace")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return 0, f"{type(error).__name__}: {error}"


@dataclass
class Outcome:
    """Counts of answers by endpoint and status, and every call that was answered wrongly with its answer."""

    counts: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    wrong: list[tuple[Call, int, str]] = field(default_factory=list)


def run(url: str, calls: Iterator[Call], threads: int = 4) -> Outcome:
    """Send all calls. Wrong are: no answer, a status from 500 on but 503 (a full queue), a traceback."""
    outcome = Outcome()
    with httpx.Client(base_url=url, timeout=TIMEOUT) as client, ThreadPoolExecutor(threads) as pool:
        pairs = pool.map(lambda call: (call, *send(client, call)), calls)
        for call, status, text in pairs:
            outcome.counts[call.endpoint][status] += 1
            if status == 0 or (status >= 500 and status != 503) or "Traceback" in text:
                outcome.wrong.append((call, status, text))
    return outcome
