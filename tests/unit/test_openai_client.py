"""The client of OpenAI-compatible services, against a real HTTP server in this process."""

import contextlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from toys import keys

from playground.chat import openai_client
from playground.chat.openai_client import PendingAnswer, Service, service_problems, stream_answer
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES, translate
from playground.settings import Generation


@pytest.fixture
def server():
    """A server that answers every request with `status` and `lines`; the requests are in `requests`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.server.requests.append(
                (self.path, dict(self.headers), json.loads(self.rfile.read(int(self.headers["content-length"]))))
            )
            self.send_response(self.server.status)
            self.end_headers()
            try:
                for line in self.server.lines:
                    self.wfile.write(line.encode() + b"\n\n")
                    self.wfile.flush()
                    time.sleep(self.server.pause)
            except OSError:
                self.server.hung_up.set()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests, server.status, server.lines, server.pause = [], 200, [], 0
        server.hung_up = threading.Event()
        server.service = Service(f"http://127.0.0.1:{server.server_port}/v1/", "some-model", "sk-secret")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def delta(text: str) -> str:
    return "data: " + json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False)


def service_error(service: Service) -> tuple[list[str], str]:
    """The words keys and the text of the error that a question raises."""
    with pytest.raises(PlaygroundError) as caught:
        list(stream_answer(service, [{"role": "user", "content": "?"}], Generation(), threading.Event()))
    return keys(caught), str(caught.value)


def test_an_answer_streams_and_the_request_is_a_chat_completion(server):
    server.lines = [
        ": hello",
        'data: {"choices": [{"delta": {"role": "assistant"}}]}',
        delta("青い"),
        delta("です"),
        'data: {"choices": []}',
        "data: [DONE]",
    ]
    messages = [{"role": "user", "content": "何色？"}]
    generation = Generation(max_new_tokens=7, temperature=0.5)
    answers = stream_answer(server.service, messages, generation, threading.Event())
    assert list(answers) == ["青い", "青いです"]
    [(path, headers, body)] = server.requests
    assert path == "/v1/chat/completions" and headers["authorization"] == "Bearer sk-secret"
    assert body["messages"] == messages and body["model"] == "some-model"
    assert (body["max_tokens"], body["temperature"], body["stream"]) == (7, 0.5, True)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_line_separators_inside_json_do_not_end_a_line(server, separator):
    """JSON may contain them unescaped, and str.splitlines splits there; server-sent events end lines at CR and LF."""
    server.lines = [delta(f"one{separator}two")]
    answers = stream_answer(server.service, [], Generation(), threading.Event())
    assert list(answers) == [f"one{separator}two"]


def test_lines_may_end_with_a_carriage_return(server):
    server.lines = [delta("青い") + "\r" + delta("です") + "\r"]
    answers = stream_answer(server.service, [], Generation(), threading.Event())
    assert list(answers) == ["青い", "青いです"]


def test_a_service_that_does_not_stream_is_supported(server):
    server.lines = [json.dumps({"choices": [{"message": {"content": "whole"}}]})]
    assert list(stream_answer(server.service, [], Generation(), threading.Event())) == ["whole"]


@pytest.mark.parametrize(
    "status,body,key,seen",
    [
        (401, "{}", "error.service_key", "401"),
        (403, "no", "error.service_key", "403"),
        (429, "{}", "error.service_busy", "quota"),
        (404, '{"error": {"message": "no such model"}}', "error.service_absent", "no such model"),
        (500, "<html>oops", "error.service_said", "<html>oops"),
        (400, '{"error": "bad"}', "error.service_said", "bad"),
        (200, 'data: {"error": {"message": "overloaded"}}', "error.service_said", "overloaded"),
        (200, "data: {broken", "error.service_said", "{broken"),
        (200, 'data: {"choices": [3]}', "error.service_said", "choices"),
    ],
)
def test_errors_of_a_service_are_reported_without_the_key(server, status, body, key, seen):
    server.status, server.lines = status, [body]
    error_keys, text = service_error(server.service)
    assert error_keys == [key] and seen in text and "sk-secret" not in text


@pytest.mark.parametrize(
    "status,body",
    [
        (500, "your request: Bearer sk-secret"),
        (400, '{"error": {"message": "wrong key sk-secret"}}'),
        (404, '{"error": "sk-secret may not use this model"}'),
        (200, 'data: {"error": {"message": "sk-secret has expired"}}'),
        (200, 'data: {"choices": "sk-secret"}'),
        (500, "x" * 235 + "sk-secret"),  # cut in the middle of the key
    ],
)
def test_a_key_that_a_service_echoes_is_hidden(server, status, body):
    server.status, server.lines = status, [body]
    _, text = service_error(server.service)
    assert "sk-s" not in text and "•••" in text


@pytest.mark.parametrize("nothing", [None, "", {}])
def test_a_piece_that_says_it_has_no_error_is_none(server, nothing):
    server.lines = ["data: " + json.dumps({"choices": [{"delta": {"content": "blue"}}], "error": nothing})]
    assert list(stream_answer(server.service, [], Generation(), threading.Event())) == ["blue"]


def test_an_unreachable_service_is_an_error():
    assert service_error(Service("http://127.0.0.1:9/v1", "m"))[0] == ["error.service_unreachable"]


def test_stopping_an_answer_closes_the_connection(server):
    server.lines, server.pause = [delta("word ")] * 2000, 0.01
    answer = PendingAnswer(server.service, [], Generation())
    while not answer.text and not answer.ended:
        time.sleep(0.01)
    answer.stop()
    answer.wait(10)
    assert answer.ended and answer.error is None and answer.text.startswith("word ")
    assert server.hung_up.wait(10)


def test_an_endless_answer_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(openai_client, "MAX_CHARACTERS", 50)
    server.lines = [delta("0123456789")] * 1000
    *_, last = stream_answer(server.service, [], Generation(), threading.Event())
    assert 50 < len(last) < 100


def test_an_endless_line_and_an_endless_error_are_cut_off(server, monkeypatch):
    monkeypatch.setattr(openai_client, "MAX_LINE", 50_000)
    server.lines = [" " + "x" * 10_000_000]
    assert list(stream_answer(server.service, [], Generation(), threading.Event())) == []
    server.status = 500
    found, text = service_error(server.service)
    assert found == ["error.service_said"] and len(text) < 500
    assert server.hung_up.wait(5)


@pytest.mark.parametrize(
    "url", ["", "api.openai.com/v1", "file:///etc/passwd", "http://", "https://user:word@host/v1", "http://[broken"]
)
def test_only_web_addresses_are_accepted(url):
    assert [p.key for p in service_problems(Service(url, "m"))] == ["problem.service_url"]


def test_all_problems_are_returned_at_once_and_a_key_is_never_printed():
    service = Service("ftp://x", " ", "sk with space")
    assert [p.key for p in service_problems(service)] == [
        "problem.service_url",
        "problem.service_model",
        "problem.service_key",
    ]
    assert "sk" not in repr(service) and all("sk" not in p.text() for p in service_problems(service))
    assert service_problems(Service("http://127.0.0.1:11434/v1", "m")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "space, flags, offered", [(None, [], True), ("someone/playground", [], False), (None, ["--share"], False)]
)
def test_a_public_page_offers_no_service(monkeypatch, tmp_path, space, flags, offered):
    import gradio as gr

    import app as program

    launched = []
    ended = threading.Event()
    ended.set()
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **options: launched.append(self))
    monkeypatch.setattr(program, "ending_in_order", lambda page: contextlib.nullcontext(ended))
    monkeypatch.setattr(sys, "argv", ["app.py", "--runs", str(tmp_path / "runs"), *flags])
    monkeypatch.delenv("SPACE_ID", raising=False)
    if space:
        monkeypatch.setenv("SPACE_ID", space)
    program.main()
    [page] = launched
    page.engine.close()
    named = [translate(lang, "chat.service_title") for lang in LANGUAGES]
    folds = [block for block in page.blocks.values() if isinstance(block, gr.Accordion) and block.label in named]
    assert len(folds) == 2 and {fold.visible for fold in folds} == {offered}
    switches = [
        block
        for block in page.blocks.values()
        if isinstance(block, gr.Checkbox) and block.label in [translate(lang, "chat.service_on") for lang in LANGUAGES]
    ]
    assert [switch.value for switch in switches] == [False, False]
