"""The command lines of a run give its settings back, whatever is in them."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from malformed_runs import make

from playground import catalog, runs
from playground.__main__ import main
from playground.cli.flags import settings_of
from playground.cli.parser import parse_arguments
from playground.errors import PlaygroundError
from playground.settings import SCHEMA, Settings, read_file
from playground.share.command_lines import accelerate_command, needs_settings_file, settings_text, tune_command

DEMO = Settings().with_values(catalog.presets()["demo-en"]["settings"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20).map(str.strip)


def _read_back(command: str, start: list[str]) -> Settings:
    """The settings that the program makes of a command line."""
    words = shlex.split(command)
    assert words[: len(start)] == start
    return settings_of(parse_arguments(words[len(start) - 1 :]))


PYTHON = ["python", "-m", "playground", "tune"]


def test_only_what_differs_from_the_defaults_is_a_flag():
    assert tune_command(DEMO) == "python -m playground tune"
    changed = DEMO.with_values({"load": {"bits": 4}, "data": {"drop_empty": False}, "train": {"lr": 2e-5}})
    assert tune_command(changed) == "python -m playground tune --bits 4 --no-drop-empty --lr 2e-05"
    plain = shlex.split(tune_command(Settings()))
    assert "--lora-layers" in plain and _read_back(tune_command(Settings()), PYTHON) == Settings()


@given(
    source=TEXTS.filter(bool),
    contains=TEXTS,
    bits=st.sampled_from([0, 4, 8, 16, 32]),
    r=st.integers(1, 1024),
    lr=st.floats(1e-9, 1, allow_subnormal=False),
    flags=st.booleans(),
)
@examples(max_examples=60, deadline=None)
def test_any_value_survives_the_shell(source, contains, bits, r, lr, flags):
    changed = DEMO.with_values(
        {
            "load": {"bits": bits, "accept_terms": flags},
            "data": {"source": source, "contains": contains, "drop_duplicates": flags, "train_on_prompt": flags},
            "lora": {"r": r, "use_dora": flags},
            "train": {"lr": lr, "seed": r},
        }
    )
    if not needs_settings_file(changed):
        assert _read_back(tune_command(changed), PYTHON) == changed


@pytest.mark.parametrize("text", ["-x", "--first", 'it\'s "here" $HOME `ls`', "🎚 ファイル", "a\\b", "*", ""])
def test_texts_that_a_shell_or_the_parser_could_misread(text):
    changed = DEMO.with_values({"data": {"contains": text}})
    assert _read_back(tune_command(changed), PYTHON) == changed
    ran = subprocess.run(
        [
            "sh",
            "-c",
            tune_command(changed).replace("python", f"'{sys.executable}' -c 'import sys; print(sys.argv)'", 1),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert repr(text) in ran.stdout or f"--contains={text}" in ran.stdout or text == ""


def test_values_of_several_lines_or_much_text_go_into_the_settings_file(tmp_path):
    lines = DEMO.with_values({"data": {"prompt_format": "custom", "custom_format": "Q {instruction}\nA {answer}"}})
    long = DEMO.with_values({"data": {"contains": "x" * 3000}})
    for changed in (lines, long):
        assert tune_command(changed) == "python -m playground tune --settings settings.json"
        (tmp_path / "settings.json").write_text(settings_text(changed), encoding="utf-8")
        assert read_file(tmp_path / "settings.json", "settings.json") == changed


def test_accelerate_divides_the_rows_of_a_step_and_keeps_the_settings():
    for batch, micro, processes in ((8, 0, 2), (9, 3, 3), (7, 0, 7), (4, 4, 1)):
        changed = DEMO.with_values({"train": {"batch_size": batch, "micro_batch_size": micro}})
        command = accelerate_command(changed, "cuda")
        assert f"--num_processes {processes} " in command
        start = command[: command.index(" -m playground") + len(" -m playground tune")].split()
        assert _read_back(command, start) == changed
    assert accelerate_command(DEMO, "cpu").endswith("--device cpu")


def test_accelerate_starts_the_processes_of_the_run():
    changed = DEMO.with_values({"train": {"num_processes": 4, "parallel": "fsdp2"}})
    command = accelerate_command(changed, "cuda")
    assert "--num_processes 4 --config_file assets/accelerate/fsdp2.yaml " in command
    assert "--num-processes" not in command and "--parallel" not in command
    assert tune_command(changed).endswith("--num-processes 4 --parallel fsdp2")


def test_settings_files_that_cannot_be_read_say_what_is_wrong(tmp_path):
    path = tmp_path / "settings.json"
    for text, key in (
        ('{"schema": 99}', "error.settings_newer"),
        ('{"schema": 2, "lora": {"rank": 4}}', "problem.unknown_field_known"),
        ('{"schema": 2, "lora": {"r": "many"}}', "problem.kind"),
        ("[]", "error.settings_file"),
        ("{", "error.settings_file"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(PlaygroundError) as error:
            read_file(path, path.name)
        assert [p.key for p in error.value.problems] == [key]


@pytest.mark.slow
def test_the_command_writes_the_files_and_names_them(chosen, tmp_path, capsys):
    from playground.engine.workbench import Workbench

    given_settings = chosen(data={"contains": "question 1"})
    [*_, done] = Workbench(tmp_path / "runs").tune(given_settings)
    out = tmp_path / "a 🎚 folder"
    status = main(["script", done["result"]["run"], "--runs", str(tmp_path / "runs"), "--out", str(out)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert status == 0 and result["rows"] is None
    assert sorted(path.name for path in out.iterdir()) == ["repeat_run.ipynb", "repeat_run.py", "settings.json"]
    own = runs.find(tmp_path / "runs", done["result"]["run"]).settings()
    assert read_file(out / "settings.json", "settings.json") == own == replace(given_settings)
    assert _read_back(result["command"], PYTHON) == own
    assert main(["script", "no-such-run", "--runs", str(tmp_path / "runs")]) == 1
    (tmp_path / "file").write_text("x")
    assert (
        main(
            ["script", own and done["result"]["run"], "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "file")]
        )
        == 1
    )


@pytest.mark.parametrize("break_", ["\n", "\r", "\r\n"])
def test_a_line_break_of_any_kind_goes_into_the_settings_file_of_this_version(break_):
    changed = DEMO.with_values({"data": {"source": f"a{break_}b"}})
    assert tune_command(changed) == "python -m playground tune --settings settings.json"
    assert json.loads(settings_text(changed))["schema"] == SCHEMA


def test_an_empty_run_id_or_settings_file_starts_no_other_fine_tune(tmp_path, capsys):
    for flag in ("--resume", "--settings"):
        assert main(["tune", flag, "", "--runs", str(tmp_path)]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a\x00b", "\ud83d"])
def test_a_name_that_no_file_can_have_is_a_sentence(tmp_path, capsys, name):
    run = make(tmp_path)
    assert (
        main(["runs", run.id, make(tmp_path).id, "--out", str(tmp_path / f"{name}.html"), "--runs", str(tmp_path)]) == 1
    )
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err and "Choose another" in shown.err
