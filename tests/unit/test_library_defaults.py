"""Libraries keep quiet and to themselves: no warning on standard error, no telemetry, no code from a hub."""

import json
import logging
import os
import platform
import subprocess
import sys

import pytest
from network_recorder import NetworkRecorder
from toys import PROJECT

from playground import library_defaults, runs
from playground.cli.output import print_event
from playground.library_defaults import WAITING_VARIABLES


@pytest.fixture
def recorder(tmp_path):
    return NetworkRecorder(tmp_path / "network")


def _python(*arguments, environment):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300, env=environment)


def test_telemetry_is_off_unless_a_person_turned_it_on(recorder):
    code = (
        "import os, playground; print(os.environ['HF_HUB_DISABLE_TELEMETRY'], os.environ['GRADIO_ANALYTICS_ENABLED'])"
    )
    assert _python("-c", code, environment=recorder.environment).stdout.split() == ["1", "False"]
    asked = recorder.environment | {"GRADIO_ANALYTICS_ENABLED": "True"}
    assert _python("-c", code, environment=asked).stdout.split() == ["1", "True"]


def test_the_recorder_sees_what_is_sent(recorder):
    code = "import httpx; httpx.get('https://huggingface.co')"
    assert _python("-c", code, environment=recorder.environment).returncode == 1
    assert "huggingface.co" in recorder.attempts[0]


@pytest.mark.slow
@pytest.mark.skipif(not library_defaults.spins_are_known(sys.platform, platform.machine()), reason="another OpenMP")
@pytest.mark.parametrize(
    "set_by_person,expected",
    [({}, library_defaults.SPINS), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_threads_that_wait_soon_sleep_unless_a_person_decided_otherwise(set_by_person, expected, recorder):
    environment = {name: value for name, value in recorder.environment.items() if name not in WAITING_VARIABLES}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE"} | set_by_person
    done = _python("-c", "import playground, torch", environment=environment)
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr  # as torch's OpenMP has read it


@pytest.mark.parametrize("system,processor", [("win32", "AMD64"), ("darwin", "x86_64"), ("linux", "aarch64")])
def test_where_waiting_was_not_measured_nothing_is_set(system, processor, monkeypatch):
    for name in WAITING_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(library_defaults.sys, "platform", system)
    monkeypatch.setattr(library_defaults.platform, "machine", lambda: processor)
    monkeypatch.setattr(library_defaults, "DROPPED_MESSAGES", {})
    library_defaults.apply()
    assert not any(name in os.environ for name in WAITING_VARIABLES)
    monkeypatch.setattr(library_defaults.sys, "platform", "linux")
    monkeypatch.setattr(library_defaults.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv(library_defaults.SPINS_VARIABLE, "")  # so that it is as before after the test
    library_defaults.apply()
    assert os.environ[library_defaults.SPINS_VARIABLE] == library_defaults.SPINS


@pytest.mark.slow
def test_no_compiled_code_is_fetched_from_a_hub(recorder, tmp_path):
    (tmp_path / "network" / "site" / "kernels.py").write_text(
        "def get_kernel(*arguments, **options):\n    raise SystemExit(f'fetched {arguments}')\n"
    )
    code = "import playground, bitsandbytes.backends.cpu.ops, transformers; print(transformers.is_torch_available())"
    done = _python("-c", code, environment=recorder.environment)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True", "")


@pytest.mark.parametrize("name,texts", library_defaults.DROPPED_MESSAGES.items())
def test_only_the_named_messages_are_dropped(name, texts, caplog):
    logger = logging.getLogger(name)
    logger.warning("%s: and so on", texts[0])
    assert caplog.records == []
    if texts[0]:
        logger.warning("something else")
        assert [record.message for record in caplog.records] == ["something else"]


@pytest.mark.slow
@pytest.mark.parametrize("bits", [pytest.param(4, marks=pytest.mark.exhaustive), 8])  # at 8 there is more to drop
def test_a_fine_tune_prints_its_events_alone_and_sends_nothing(bits, chosen, recorder, tmp_path, capsys):
    settings, root = tmp_path / "s.json", tmp_path / "runs"
    settings.write_text(json.dumps(chosen(load={"bits": bits}, train={"max_steps": 2}).to_dict()))
    command = ("-m", "playground", "tune", "--settings", settings, "--runs", root)
    done = _python(*command, environment=recorder.environment)
    assert done.returncode == 0, done.stderr
    for event in runs.find(root, json.loads(done.stdout)["run"]).events():
        print_event(event, "en")
    expected = capsys.readouterr().err
    assert [line for line in done.stderr.splitlines() if line not in expected.splitlines()] == []
    assert recorder.attempts == []


def test_code_for_shapes_of_products_is_kept_for_few_of_them():
    script = """import playground, psutil, torch
process, weight = psutil.Process(), torch.randn(64, 128, dtype=torch.bfloat16)
(torch.randn(7, 64, dtype=torch.bfloat16) @ weight).sum()
before = process.memory_info().rss
for tokens in range(1, 401):
    torch.randn(tokens, 64, dtype=torch.bfloat16) @ weight
print(process.memory_info().rss - before)"""
    environment = {name: value for name, value in os.environ.items() if name not in library_defaults.VARIABLES}
    kept = int(_python("-c", script, environment=environment).stdout)
    assert kept < 80 * 2**20  # with torch's own defaults 170 to 270 MiB, where the CPU has bfloat16's instructions
