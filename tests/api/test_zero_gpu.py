"""A ZeroGPU Space, emulated: the real package `spaces` forks each job; the service that lends GPUs is a stand-in.

What only a real Space can show: the GPU itself, the seconds that it lends, and who pays for them.
"""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
import toys
from gradio_client import Client
from served_app import ServedApp

pytest.importorskip("spaces", reason="pip install -r tests/requirements.txt")


TOKEN = "e30.eyJ1c2VyIjoiYSJ9.e30"  # the hub's proxy adds one to each visitor's requests


class LendingService(ThreadingHTTPServer):
    """Stands in for the service of ZeroGPU: `asked` has every request, `lends` says whether there is a GPU."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.lends = True
        super().__init__(("127.0.0.1", 0), _Answer)

    def named(self, path: str) -> list[dict[str, str]]:
        return [values for asked, values in self.asked if asked == path]


class _Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        service, parts = self.server, urlsplit(self.path)
        assert isinstance(service, LendingService)
        service.asked.append((parts.path, {name: value[0] for name, value in parse_qs(parts.query).items()}))
        lent = {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": str(len(service.asked))}
        status, body = (200, lent) if service.lends or parts.path != "/schedule" else (503, {})
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def service():
    with LendingService() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def served(service, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero")
    app = ServedApp(
        folder,
        {
            "SPACES_ZERO_GPU": "true",
            "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{service.server_port}",
            "PLAYGROUND_CACHE": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(folder),
        },
        "tests/api/zero_gpu_app.py",
    )
    app.wait_until_served()
    yield app
    started = psutil.Process(app.process.pid).children(recursive=True)
    app.close()
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()  # the package spaces forks processes for the GPU, which outlive the app


@pytest.fixture(scope="module")
def client(served):
    return Client(served.url, headers={"X-IP-Token": TOKEN}, verbose=False)


@pytest.fixture
def settings(toy_model):
    return {
        "load": {"model": str(toy_model), "bits": 4, "device": "cpu"},
        "data": {"source": "helpdesk.en"},
        "train": {"max_steps": 2, "batch_size": 4, "eval_rows": 2, "max_seq_length": 128, "compile": "on"},
    }


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory):
    return toys.save(tmp_path_factory.mktemp("model") / "toy", chat=True)


@pytest.mark.slow
def test_a_fine_tune_is_one_call_and_its_adapter_answers_in_the_next(client, served, service, settings):
    started = len(service.named("/schedule"))
    run = client.predict(client.predict(settings, api_name="/tune")["id"], api_name="/follow")
    assert run["state"] == "done" and run["has_adapter"], run
    answers = client.predict(run["id"], "How do I?", {"max_new_tokens": 4}, api_name="/compare")
    assert answers["base"] and set(answers["sides"]) == {"base", "tuned"}
    calls = service.named("/schedule")[started:]
    assert len(calls) == 2 and all(int(call["durationSeconds"]) >= 60 for call in calls)
    assert {call["token"] for call in calls} == {TOKEN}  # it is the visitor's share of GPU time
    assert "/startup-report" in dict(service.asked) and len(service.named("/release")) >= 2
    assert not list(served.runs.parent.glob("zero-gpu-*/*"))  # the files that would have stopped the jobs
    assert "Traceback" not in served.output()


@pytest.mark.slow
def test_a_fine_tune_is_stopped_and_keeps_what_it_learned(client, settings):
    settings["train"] |= {"max_steps": 10**5}
    run = client.predict(settings, api_name="/tune")
    while client.predict(run["id"], api_name="/run")["step"] < 2:
        pass
    assert client.predict(run["id"], api_name="/stop")["stopped"]
    ended = client.predict(run["id"], api_name="/follow")
    assert ended["has_adapter"] and 2 <= ended["step"] < 10**5


@pytest.mark.slow
def test_no_gpu_is_a_sentence_and_the_next_job_has_its_turn(client, service, settings):
    service.lends = False
    with pytest.raises(ValueError, match="No GPU was available"):
        client.predict(settings, api_name="/tune")
    service.lends = True
    run = client.predict(client.predict(settings, api_name="/tune")["id"], api_name="/follow")
    assert run["state"] == "done"


@pytest.mark.slow
def test_plans_need_no_gpu(client, service):
    started = len(service.asked)
    plan = client.predict("smollm2-135m-instruct", bits=4, api_name="/plan")
    assert {"load", "tune"} <= set(plan["phases"]) and len(service.asked) == started
