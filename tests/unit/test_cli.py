"""The same jobs without a page."""

import json
import os
import subprocess
import sys

import pytest
from toys import PROJECT

from playground import __main__ as cli
from playground import catalog


def _call(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "playground", *map(str, arguments)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ,
    )


def _main(capsys, *arguments) -> tuple[int, dict, str]:
    status = cli.main([str(a) for a in arguments])
    said = capsys.readouterr()
    return status, json.loads(said.out.strip().splitlines()[-1]), said.err


def test_tune_then_compare_in_processes_of_their_own(chosen, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(chosen().to_dict()))
    tuned = _call("tune", "--settings", tmp_path / "s.json", "--runs", tmp_path / "runs", "--steps", "2")
    assert tuned.returncode == 0, tuned.stderr
    assert len(tuned.stdout.splitlines()) == 1
    result = json.loads(tuned.stdout)
    assert result["steps"] == 2 and "step 2/2" in tuned.stderr
    for job in ("Load", "Fine-tune"):
        told = [line.split("(")[-1] for line in tuned.stderr.splitlines() if line.strip().startswith(f"{job}, ")]
        assert told == ["predicted)", "measured)"], tuned.stderr
    compared = _call(
        "compare",
        result["run"],
        "--prompt",
        "What is the answer to question 3?",
        "--runs",
        tmp_path / "runs",
        "--max-new-tokens",
        "8",
    )
    assert compared.returncode == 0, compared.stderr
    answer = json.loads(compared.stdout)
    assert answer["base"] and answer["base"] != answer["tuned"] and answer["adapter"] == result["run"]


def test_models_lists_the_catalog(capsys):
    status, found, _ = _main(capsys, "models")
    assert status == 0 and [m["id"] for m in found["models"]] == list(catalog.models())
    assert {m["here"] for m in found["models"]} == {False} and any(m["offline"] for m in found["models"])


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_all_bad_settings_are_listed_at_once(capsys, tmp_path, lang):
    status, found, err = _main(
        capsys,
        "tune",
        "--r",
        "0",
        "--length",
        "0",
        "--epochs",
        "0",
        "--batch",
        "16",
        "--micro-batch",
        "3",
        "--lang",
        lang,
        "--runs",
        tmp_path,
    )
    assert status == 1 and found["error"].count("\n") == 3 and found["error"] in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "{", "[1]", "3", '{"lora": {"rank": 8}}', '{"lora": 3}'])
def test_a_settings_file_that_cannot_be_read_is_told(capsys, tmp_path, content):
    if content is not None:
        (tmp_path / "s.json").write_text(content)
    status, found, err = _main(capsys, "tune", "--settings", tmp_path / "s.json", "--runs", tmp_path / "runs")
    assert status == 1 and found["error"] and "Traceback" not in err


def test_comparing_a_run_that_is_none_or_has_no_adapter_is_told(capsys, tmp_path, chosen):
    from playground import runs

    status, found, _ = _main(capsys, "compare", "../x", "--prompt", "?", "--runs", tmp_path)
    assert status == 1 and "../x" in found["error"]
    run = runs.create(tmp_path, "load", chosen())
    status, found, _ = _main(capsys, "compare", run.id, "--prompt", "?", "--runs", tmp_path)
    assert status == 1 and run.id in found["error"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["dance"], ["tune", "--r", "many"], ["tune", "--preset", "none"], ["compare", "x"], ["tune", "--lang", "fr"]],
)
def test_wrong_usage_ends_with_two(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


def test_fetching_what_is_no_model_is_told(capsys):
    status, found, _ = _main(capsys, "fetch", "no such/thing!")
    assert status == 1 and "smollm2-135m-instruct" in found["error"]
