"""Access checks of a hub, played by a real HTTP server in this process."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from playground.catalog import hub_status


@pytest.fixture
def use_hub(monkeypatch):
    """`use_hub(port)`: the hub is at that port of this machine, and not offline."""

    def use(port: int) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        template = f"http://127.0.0.1:{port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    return use


@pytest.fixture
def hub(use_hub):
    """A hub that answers every request with `status` and `headers`; the paths it was asked for are in `paths`."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.server.paths.append(self.path)
            self.send_response(self.server.status)
            for name, value in self.server.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.status, server.headers, server.paths = 200, {}, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        use_hub(server.server_port)
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    "status,headers,reason",
    [
        (200, {}, None),
        (401, {}, "absent"),
        (403, {}, "gated"),
        (404, {}, "absent"),
        (404, {"x-error-code": "EntryNotFound"}, None),
        (401, {"x-error-code": "RepoNotFound"}, "absent"),
        (401, {"x-error-code": "GatedRepo"}, "gated"),  # what the hub answers to a person who isn't logged in
        (503, {}, "unreachable"),
    ],
)
def test_each_answer_of_a_hub_gives_its_reason(hub, status, headers, reason):
    hub.status, hub.headers = status, headers
    assert hub_status.access_problem("a/b") == reason
    assert hub.paths == ["/a/b/resolve/main/config.json"]


def test_a_needed_file_that_a_repo_lacks_is_absent(hub):
    hub.status, hub.headers = 404, {"x-error-code": "EntryNotFound"}
    assert hub_status.access_problem("a/b", file="model.gguf") == "absent"
    assert hub.paths == ["/a/b/resolve/main/model.gguf"]


def test_a_data_set_is_looked_up_among_data_sets(hub):
    assert hub_status.access_problem("a/b", "dataset") is None
    assert hub.paths == ["/datasets/a/b/resolve/main/README.md"]


def test_an_unknown_kind_of_repo_is_a_programming_error(hub):
    with pytest.raises(ValueError):
        hub_status.access_problem("a/b", "datasets/")


def test_a_name_that_no_repo_can_have_is_absent_without_a_request(hub):
    assert hub_status.access_problem("a--b/c") == "absent" and hub.paths == []


@pytest.mark.slow
def test_a_hub_that_never_answers_is_unreachable_within_ten_seconds(use_hub):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_hub(silent.getsockname()[1])
        started = time.monotonic()
        assert hub_status.access_problem("a/b") == "unreachable"
        assert time.monotonic() - started < 10


@pytest.mark.slow
def test_a_request_that_no_client_timeout_covers_is_given_up(use_hub, monkeypatch):
    """A name lookup on a dead network can hang for minutes: the deadline covers it."""
    use_hub(9)
    monkeypatch.setattr(hub_status, "TIMEOUT", 0.1)
    hang = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: hang.wait(20) and [])
    started = time.monotonic()
    assert hub_status.access_problem("a/b") == "unreachable"
    assert time.monotonic() - started < 10
    hang.set()


def test_offline_mode_is_unreachable_at_once(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_status.access_problem("a/b") == "unreachable" and hub.paths == []
