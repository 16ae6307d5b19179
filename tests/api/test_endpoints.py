"""The endpoints for programs, called by Gradio's client on a served page; the example of playground/README.md runs."""

import re
import time

import pytest
import toys
from gradio_client import Client
from served_app import ServedApp

from playground.i18n import translate


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("endpoints")
    environment = {"TOY_MODEL": str(toys.save(folder / "model", chat=True)), "PYTHONPATH": str(toys.PROJECT)}
    app = ServedApp(folder, environment, "tests/ui/demo_app.py")
    app.wait_until_served()
    yield app
    app.close()


@pytest.fixture(scope="module")
def client(served):
    return Client(served.url, verbose=False)


@pytest.fixture(scope="module")
def run(client):
    """A fine-tune of the toy, followed to its end."""
    opened = client.predict(api_name="/tune")
    assert opened["id"] and opened["job"] == "tune"
    job = client.submit(opened["id"], api_name="/follow")
    last = job.result(timeout=120)
    steps = [state["step"] for state in job.outputs()]
    assert steps == sorted(steps) and len(steps) > 1
    return last


def _error(client, **call) -> str:
    with pytest.raises(ValueError) as caught:
        client.predict(**call)
    return str(caught.value)


@pytest.mark.slow
def test_a_fine_tune_is_started_followed_and_compared(client, run):
    assert run["state"] == "done" and run["step"] == run["steps"] == 4 and run["has_adapter"]
    assert run["loss"]["after"] < run["loss"]["before"] and run["error"] == ""
    assert "adapter" not in run["result"] and run["result"]["steps"] == 4
    assert client.predict(run["id"], api_name="/run") == run
    answers = client.predict(run["id"], "How do I?", {"max_new_tokens": 4}, api_name="/compare")
    assert answers["base"] and set(answers["sides"]) == {"base", "tuned"}
    assert {side["tokens"] for side in answers["sides"].values()} <= {1, 2, 3, 4}


@pytest.mark.slow
def test_runs_are_filtered_and_limited(client, run):
    assert run["id"] in [row["id"] for row in client.predict("TUNE", api_name="/runs")]
    assert client.predict("no such text", api_name="/runs") == []
    assert len(client.predict(limit=1, api_name="/runs")) == 1


@pytest.mark.slow
def test_schemas_name_every_setting_and_what_comes_back(client):
    info = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    parameters = {p["parameter_name"]: p["type"] for p in info["/plan"]["parameters"]}
    groups = parameters["settings"]["oneOf"][1]["properties"]
    assert groups["lora"]["properties"]["r"] == {"type": "integer"} and "required" not in groups["lora"]
    [followed] = info["/follow"]["returns"]
    assert followed["type"]["properties"]["step"] == {"type": "integer"}


@pytest.mark.slow
@pytest.mark.parametrize("lang", ["en", "ja"])
def test_all_problems_of_a_call_are_one_error(client, lang):
    call = {"model": "x", "bits": 5, "gpu_gib": -1, "settings": {"lora": {"rank": 3}, "tran": {}}}
    lines = _error(client, api_name="/plan", lang=lang, **call).splitlines()
    assert len(lines) == 4 and translate(lang, "problem.bits", bits=5) in lines


@pytest.mark.slow
@pytest.mark.parametrize(
    "call,expected",
    [
        ({"api_name": "/run", "run_id": "../x"}, "../x"),
        ({"api_name": "/run", "run_id": 3}, "run_id"),
        ({"api_name": "/follow", "run_id": "absent"}, "absent"),
        ({"api_name": "/stop", "run_id": "absent"}, "absent"),
        ({"api_name": "/plan", "settings": [1]}, "settings"),
        ({"api_name": "/plan", "settings": {"load": 3}}, "load"),
        ({"api_name": "/plan", "bits": 10**30}, "load.bits"),
        ({"api_name": "/tune", "settings": {"train": {"batch_size": 10**400}}}, "train.batch_size"),
        ({"api_name": "/plan", "context": "many"}, "plan.context"),
        ({"api_name": "/plan", "gpus": 0}, "gpus: 0"),
        ({"api_name": "/plan", "gpus": 10**9}, "gpus: 1000000000"),
        ({"api_name": "/plan", "gpus": 3.5}, "plan.gpus"),
        ({"api_name": "/plan", "gpus": "four"}, "plan.gpus"),
        ({"api_name": "/plan", "gpus": 3, "batch_size": 32}, "32"),
        ({"api_name": "/runs", "limit": 0}, "limit"),
        ({"api_name": "/runs", "lang": "fr"}, "fr"),
    ],
)
def test_bad_input_is_a_sentence(client, call, expected):
    text = _error(client, **call)
    assert expected in text and "Traceback" not in text and "unexpected" not in text


@pytest.mark.slow
def test_a_plan_of_several_gpus_says_what_each_needs_by_either_way(client):
    split = {"train": {"parallel": "fsdp2"}}
    small = {"model": "facebook/opt-125m", "bits": 4, "api_name": "/plan"}
    plan = client.predict(batch_size=32, gpus=4, settings=split, **small)
    several = plan["several"]
    assert (several["count"], several["parallel"], several["rows"]) == (4, "fsdp2", 8)
    needs = [plan["phases"][phase]["need"] for phase in ("load", "tune")]
    assert several["ways"]["fsdp2"] == {"need": max(needs)} and {"one", "ddp"} < set(several["ways"])
    assert "several" not in client.predict(**small)


@pytest.mark.slow
def test_a_prompt_of_a_million_characters_is_refused(client, run):
    call = {"api_name": "/compare", "run_id": run["id"]}
    assert "512" in _error(client, prompt="a " * 500_000, **call)
    wrong = _error(client, prompt="a" * 1_000_001, generation={"top_p": 3}, **call)
    assert "1,000,001" in wrong and "top_p" in wrong


@pytest.mark.slow
def test_a_busy_engine_says_so_and_stop_ends_only_the_named_run(client, run):
    long = client.predict({"train": {"max_steps": 100_000}}, api_name="/tune")
    assert translate("en", "error.busy") == _error(client, api_name="/tune")
    assert client.predict(run["id"], api_name="/stop") == {"stopped": False, "run": ""}
    until = time.monotonic() + 60
    while client.predict(long["id"], api_name="/run")["step"] < 1:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert client.predict(long["id"], api_name="/stop") == {"stopped": True, "run": long["id"]}
    assert client.predict(long["id"], api_name="/follow")["state"] == "stopped"


@pytest.mark.slow
def test_the_documented_example_runs(served, capsys):
    text = (toys.PROJECT / "playground/README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(from gradio_client.*?)```", text, re.DOTALL)[1]
    exec(example.replace("http://127.0.0.1:7860", served.url), {})
    assert "done" in capsys.readouterr().out


@pytest.fixture
def public(tmp_path):
    """The endpoints of a page that strangers open."""
    from pages import page_over

    from playground.ui.api import Endpoints

    return Endpoints(page_over(tmp_path))


@pytest.mark.parametrize("endpoint", ["plan", "tune"])
def test_strangers_name_no_path_of_the_machine(public, endpoint):
    import gradio as gr

    settings = {"load": {"model": str(toys.PROJECT)}, "data": {"source": "/etc/passwd"}}
    call = {"model": str(toys.PROJECT)} if endpoint == "plan" else {}
    with pytest.raises(gr.Error) as caught:
        getattr(public, endpoint)(settings=settings, **call)
    assert "/etc/passwd" in caught.value.message and str(toys.PROJECT)[:40] in caught.value.message


def test_strangers_plan_more_gpus_than_they_may_use(public, monkeypatch):
    class Asked(Exception):
        pass

    def ask(self, do: str, **arguments) -> None:
        raise Asked(arguments["settings"]["train"]["num_processes"])

    monkeypatch.setattr(type(public._page), "planner", type("Asking", (), {"ask": ask})())
    with pytest.raises(Exception, match="8"):
        public.plan(gpus=8)


def test_mcp_is_for_private_pages_alone(monkeypatch, tmp_path):
    from playground.ui import api, launch
    from playground.ui.shared_page import SharedPage

    monkeypatch.setattr(api, "has_mcp", lambda: True)
    assert launch.launch_options("en", None)["mcp_server"] is True
    assert launch.launch_options("en", SharedPage(tmp_path))["mcp_server"] is False
    assert launch.launch_options("en", None, has_login=True)["mcp_server"] is False


def test_what_goes_over_a_network_is_compressed_and_the_page_of_a_laptop_is_not(tmp_path):
    from starlette.middleware.gzip import GZipMiddleware

    from playground.ui import launch
    from playground.ui.shared_page import SharedPage

    for shared in (None, SharedPage(tmp_path)):
        middleware = launch.launch_options("en", shared)["app_kwargs"]["middleware"]
        assert [one.cls for one in middleware].count(GZipMiddleware) == (shared is not None)
