"""The page as it is deployed: its own folder read-only, nothing on standard error, and nothing sent unasked."""

import os
import shutil
import subprocess
import sys

import pytest
import toys
from gradio_client import Client
from network_recorder import NetworkRecorder
from served_app import ServedApp

PARTS = ("app.py", "playground", "assets")  # of the project, all that running it needs
OWN_LINES = ("* Running on local URL:", "* To create a public link,", "Programs can use this page")
# The superuser may write everywhere unless this capability is taken away.
AS_ANYBODY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


@pytest.fixture(scope="module")
def read_only_project(tmp_path_factory):
    """A copy of the program that the app may not write to."""
    if AS_ANYBODY and shutil.which(AS_ANYBODY[0]) is None:
        pytest.skip("the superuser can write everywhere, and there is no setpriv")
    project = tmp_path_factory.mktemp("deployed") / "project"
    project.mkdir()
    for part in PARTS:
        source = toys.PROJECT / part
        if source.is_dir():
            shutil.copytree(source, project / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, project / part)
    subprocess.run(["chmod", "-R", "a-w", str(project)], check=True)
    yield project
    subprocess.run(["chmod", "-R", "u+w", str(project)], check=True)


@pytest.mark.slow
def test_a_page_in_a_read_only_folder_fine_tunes_quietly_and_sends_nothing(read_only_project, tmp_path):
    recorder, model = NetworkRecorder(tmp_path / "network"), toys.save(tmp_path / "model", chat=True)
    environment = recorder.changes | {
        "PLAYGROUND_CACHE": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "hf"),
        "HOME": "/nonexistent",
    }
    app = ServedApp(tmp_path, environment, project=read_only_project, prefix=AS_ANYBODY)
    try:
        app.wait_until_served()
        client = Client(app.url, verbose=False)
        settings = {
            "load": {"model": str(model), "bits": 4, "device": "cpu"},
            "data": {"source": "helpdesk.en"},
            "train": {"max_steps": 2, "batch_size": 4, "eval_rows": 2, "max_seq_length": 128},
        }
        run = client.predict(client.predict(settings, api_name="/tune")["id"], api_name="/follow")
    finally:
        app.process.terminate()
        app.process.wait(20)
    assert run["state"] == "done" and run["has_adapter"], run
    assert [line for line in app.output().splitlines() if not line.startswith(OWN_LINES) and line] == []
    assert (app.runs / "engine.log").read_text(encoding="utf-8") == ""
    assert recorder.attempts == []
    app.close()


@pytest.mark.slow
def test_runs_that_cannot_be_written_are_a_sentence(read_only_project):
    command = [*AS_ANYBODY, sys.executable, "app.py"]
    done = subprocess.run(command, cwd=read_only_project, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "runs" in done.stderr.splitlines()[-1]
