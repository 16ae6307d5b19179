"""The command line: jobs without a page, errors as sentences, old flags, suggestions for unknown ones."""

import json
import os
import subprocess
import sys

import pytest
from toys import PROJECT

from playground import __main__ as cli
from playground import catalog
from playground.cli.output import print_result
from playground.i18n import translate
from playground.settings import SCHEMA
from playground.settings.aliases import OLD_FIELDS


def _run_process(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "playground", *map(str, arguments)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ,
    )


def _main(capsys, *arguments) -> tuple[int, dict, str]:
    """The exit status, the JSON object on standard output, and standard error."""
    try:
        status = cli.main([str(a) for a in arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    output = capsys.readouterr()
    return status, json.loads(output.out.strip().splitlines()[-1]), output.err


@pytest.mark.slow
def test_tune_then_compare_as_separate_processes(chosen, tmp_path, capsys):
    (tmp_path / "s.json").write_text(json.dumps(chosen().to_dict()))
    tuned = _run_process("tune", "--settings", tmp_path / "s.json", "--runs", tmp_path / "runs", "--max-steps", "2")
    assert tuned.returncode == 0, tuned.stderr
    assert len(tuned.stdout.splitlines()) == 1
    result = json.loads(tuned.stdout)
    assert result["steps"] == 2 and "step 2/2" in tuned.stderr
    for job in ("Load", "Fine-tune"):
        labels = [line.split("(")[-1] for line in tuned.stderr.splitlines() if line.strip().startswith(f"{job}, ")]
        assert labels == ["predicted)", "measured)"], tuned.stderr
    status, answer, errors = _main(  # this process, which hasn't trained
        capsys,
        "compare",
        result["run"],
        "--prompt",
        "What is the answer to question 3?",
        "--runs",
        tmp_path / "runs",
        "--max-new-tokens",
        "8",
    )
    assert status == 0, errors
    assert answer["base"] and answer["base"] != answer["tuned"] and answer["adapter"] == result["run"]


def test_models_lists_the_catalog(capsys):
    status, result, _ = _main(capsys, "models")
    assert status == 0 and [m["id"] for m in result["models"]] == list(catalog.models())
    assert {m["here"] for m in result["models"]} == {False} and any(m["offline"] for m in result["models"])


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_all_bad_settings_are_listed_at_once(capsys, tmp_path, lang):
    status, result, err = _main(
        capsys,
        "tune",
        "--r",
        "0",
        "--max-seq-length",
        "0",
        "--epochs",
        "0",
        "--batch-size",
        "16",
        "--micro-batch-size",
        "3",
        "--lang",
        lang,
        "--runs",
        tmp_path,
    )
    assert status == 1 and result["error"].count("\n") == 3 and result["error"] in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "{", "[1]", "3", '{"lora": {"rank": 8}}', '{"lora": 3}'])
def test_an_unreadable_settings_file_is_an_error(capsys, tmp_path, content):
    if content is not None:
        (tmp_path / "s.json").write_text(content)
    status, result, err = _main(capsys, "tune", "--settings", tmp_path / "s.json", "--runs", tmp_path / "runs")
    assert status == 1 and result["error"] and "Traceback" not in err


def test_comparing_needs_a_run_with_an_adapter(capsys, tmp_path, chosen):
    from playground import runs

    status, result, _ = _main(capsys, "compare", "../x", "--prompt", "?", "--runs", tmp_path)
    assert status == 1 and "../x" in result["error"]
    run = runs.create(tmp_path, "load", chosen())
    status, result, _ = _main(capsys, "compare", run.id, "--prompt", "?", "--runs", tmp_path)
    assert status == 1 and run.id in result["error"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unheard-of"],
        ["tune", "--r", "many"],
        ["tune", "--preset", "none"],
        ["compare", "x"],
        ["tune", "--lang", "fr"],
        *(["plan", "gpt2", "--gpu-gib", size] for size in ("inf", "nan", "-1", "8GB")),
    ],
)
def test_wrong_usage_exits_with_2_and_a_json_error(capsys, arguments):
    status, result, err = _main(capsys, *arguments)
    assert status == 2 and result["error"] in err


def test_fetching_an_unknown_model_is_an_error(capsys):
    status, result, _ = _main(capsys, "fetch", "no such/thing!")
    assert status == 1 and "smollm2-135m-instruct" in result["error"]


@pytest.fixture
def tuned_settings(monkeypatch):
    """The settings that `tune` was started with, as a list; nothing is trained."""
    started = []
    monkeypatch.setattr("playground.cli.commands.follow", lambda events, lang: {})
    monkeypatch.setattr("playground.engine.workbench.Workbench.tune", lambda self, settings: started.append(settings))
    return started


OLD_FLAGS = [
    (f"--{old.replace('_', '-')}", group, new) for group, names in OLD_FIELDS.items() for old, new in names.items()
]
SAMPLE_VALUES = {
    ("load", "force"): True,
    ("lora", "use_rslora"): True,
    ("lora", "use_dora"): True,
    ("lora", "target_modules"): "attention",
    ("data", "prompt_format"): "talk",
    ("data", "custom_format"): "{instruction} {answer}",
    ("data", "start_row"): 1,
    ("train", "micro_batch_size"): 4,
    ("train", "gradient_checkpointing"): "all",
}


@pytest.mark.parametrize("flag,group,field", OLD_FLAGS)
def test_an_old_flag_sets_todays_field(capsys, tmp_path, tuned_settings, flag, group, field):
    value = SAMPLE_VALUES.get((group, field), 16)
    arguments = [flag] if value is True else [flag, value]
    status, _, err = _main(capsys, "tune", *arguments, "--runs", tmp_path)
    assert status == 0 and getattr(getattr(tuned_settings[0], group), field) == value
    assert f"{flag} is now --{field.replace('_', '-')}" in err


def test_old_flags_take_values_after_an_equals_sign_and_can_be_negated(capsys, tuned_settings):
    assert (
        _main(
            capsys,
            "tune",
            "--steps=7",
            "--no-dora",
            "--layers",
            "2",
            "--template",
            "own",
            "--form={instruction}{answer}",
        )[0]
        == 0
    )
    [settings] = tuned_settings
    assert (settings.train.max_steps, settings.lora.use_dora, settings.lora.layers) == (7, False, 2)
    assert settings.data.prompt_format == "custom"


@pytest.mark.parametrize(
    "arguments,suggestion",
    [
        (["tune", "--max-step", "3"], "--max-steps instead of --max-step?"),
        (["tune", "--batchsize=3"], "--batch-size instead of --batchsize?"),
        (["plan", "gpt2", "--gpu-gb", "8"], "--gpu-gib instead of --gpu-gb?"),
        (["compare", "x", "--prompt", "?", "--temprature", "1"], "--temperature instead of --temprature?"),
        (["tunes"], "did you mean tune?"),
        (["fecth", "gpt2"], "did you mean fetch?"),
        (
            ["unheard-of"],
            "there are tune, plan, lab, race, sweep, queue, rows, compare, runs, record, replay, "
            "export, script, card, trackio, fetch, models",
        ),
    ],
)
def test_an_unknown_flag_or_command_suggests_the_nearest(capsys, arguments, suggestion):
    status, result, err = _main(capsys, *arguments)
    assert status == 2 and suggestion in result["error"] and suggestion in err


def test_an_unknown_flag_without_a_near_one_is_only_named(capsys):
    _, result, _ = _main(capsys, "models", "--zzzzzz")
    assert result["error"] == "unrecognized arguments: --zzzzzz"


def test_a_flag_may_not_be_abbreviated(capsys):
    status, result, _ = _main(capsys, "tune", "--max-seq", "64")
    assert status == 2 and "did you mean --max-seq-length" in result["error"]


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_a_settings_file_of_a_newer_schema_is_refused(capsys, tmp_path, lang):
    (tmp_path / "s.json").write_text(json.dumps({"schema": 99}))
    status, result, err = _main(capsys, "tune", "--settings", tmp_path / "s.json", "--lang", lang)
    assert status == 1 and "99" in result["error"] and result["error"] in err
    assert result["error"] == translate(lang, "error.settings_newer", schema="99", known=SCHEMA)


def test_a_settings_file_of_an_old_schema_is_read_under_todays_names(capsys, tmp_path, tuned_settings):
    old = {"train": {"steps": 5, "length": 64}, "data": {"template": "own", "form": "{instruction}{answer}"}}
    (tmp_path / "s.json").write_text(json.dumps(old))
    assert _main(capsys, "tune", "--settings", tmp_path / "s.json", "--batch", "2")[0] == 0
    [settings] = tuned_settings
    assert (settings.train.max_steps, settings.train.max_seq_length, settings.train.batch_size) == (5, 64, 2)
    assert (settings.data.prompt_format, settings.data.custom_format) == ("custom", "{instruction}{answer}")


def test_plan_reports_totals_and_verdicts(capsys, toy):
    status, result, _ = _main(capsys, "plan", toy(), "--bits", "16", "--max-seq-length", "64", "--context", "64")
    assert status == 0 and set(result["verdicts"]["tune"].values()) == {"fits"}
    for phase in ("load", "chat", "tune"):
        prediction = result["phases"][phase]
        assert result[phase] == {total: prediction[total] for total in ("allocated", "reserved", "device_used")}


def test_plan_of_several_gpus_says_what_each_needs(capsys, toy):
    flags = ("--bits", "4", "--batch", "4", "--max-seq-length", "64", "--context", "64")
    status, result, _ = _main(capsys, "plan", toy(), *flags, "--num-processes", "2", "--parallel", "fsdp2")
    several = result["several"]
    assert status == 0 and (several["count"], several["rows"]) == (2, 2)
    assert several["ways"]["fsdp2"]["need"] == max(result["phases"][phase]["need"] for phase in ("load", "tune"))
    status, result, _ = _main(capsys, "plan", toy(), *flags, "--num-processes", "3")
    assert status == 1 and result["error"] == translate("en", "error.accumulation", batch=4, micro_batch=1, processes=3)


@pytest.mark.parametrize("command", [[], ["tune"], ["plan"], ["rows"], ["compare"], ["fetch"], ["models"]])
def test_help_is_printed(capsys, command):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0 and text.startswith("usage: python -m playground") and "__" not in text


def _rows(capsys, tmp_path, content: str, *flags, name: str = "rows.jsonl") -> dict:
    (tmp_path / name).write_text(content, "utf-8")
    status, result, err = _main(capsys, "rows", tmp_path / name, *flags)
    assert status == 0, err
    return result


TWO_ANSWERS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "2"},
]


def test_rows_shows_what_is_taught_and_what_is_left_out(capsys, tmp_path):
    lines = [{"messages": TWO_ANSWERS}, {"messages": TWO_ANSWERS[:2]}, {"messages": TWO_ANSWERS[3:]}]
    result = _rows(capsys, tmp_path, "\n".join(map(json.dumps, lines)), "--prompt-format", "alpaca", "--first", "2")
    assert (result["rows"], result["taught"], result["left_out"]) == (3, 3, {"empty": 1})
    assert result["prompt_format"] == "alpaca" and result["unused_columns"] == []
    first, second = result["sample"]
    assert (first["system"], first["context"], first["question"], first["answer"]) == ("Be brief.", [], "One?", "1")
    assert second["context"] == [["One?", "1"]] and second["trained"] == "2</s>"
    assert any("</s>" in note for note in result["notes"])  # without the model on this machine


def test_rows_shows_the_answer_as_the_models_chat_template_ends_it(capsys, tmp_path, toy):
    line = json.dumps({"messages": TWO_ANSWERS})
    result = _rows(capsys, tmp_path, line, "--model", toy(chat=True))
    assert [row["trained"] for row in result["sample"]] == ["1<|end|>", "2<|end|>"]
    assert result["prompt_format"] == "chat" and result["sample"][1]["prompt"].endswith("<|start|>assistant\n")


def test_rows_of_a_text_in_the_models_chat_template_count_its_answers(capsys, tmp_path, toy):
    turn = "<|start|>user\nhi<|end|>\n<|start|>assistant\nhello<|end|>\n"
    result = _rows(capsys, tmp_path, json.dumps({"text": turn * 2}), "--model", toy(chat=True))
    assert (result["rows"], result["taught"]) == (1, 2)
    [row] = result["sample"]
    assert row["trained"] == "hello<|end|>hello<|end|>" and len(result["notes"]) == 1


def test_rows_that_cannot_be_read_are_an_error(capsys, tmp_path):
    status, result, err = _main(capsys, "rows", tmp_path / "absent.json")
    assert status == 1 and "absent.json" in result["error"] and result["error"] in err


def test_numbers_that_json_lacks_are_null(capsys):
    print_result({"loss": float("nan"), "each": [1.0, float("inf"), {"x": (-float("inf"), 2)}], "text": "NaN"})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "each": [1.0, None, {"x": [None, 2]}], "text": "NaN"}


def test_a_run_is_recorded_into_a_file_that_is_replayed_elsewhere(capsys, tmp_path, chosen):
    from playground import runs

    run = runs.create(tmp_path / "here", "tune", chosen(), hardware={"device": "cpu", "name": "a processor"})
    file = tmp_path / "run.jsonl"
    status, result, _ = _main(capsys, "record", run.id, file, "--runs", tmp_path / "here")
    assert status == 1 and result["error"] and not file.exists()  # it hasn't ended
    run.append("done", job="tune", result={"run": run.id, "stopped": False})
    status, result, _ = _main(capsys, "record", run.id, file, "--runs", tmp_path / "here")
    assert status == 0 and result["bytes"] == file.stat().st_size and result["run"] == run.id
    status, result, _ = _main(capsys, "replay", file, "--runs", tmp_path / "there")
    assert status == 0 and [found.id for found in runs.history(tmp_path / "there")] == [result["run"]]
    assert runs.history(tmp_path / "there")[0].recorded
    status, result, err = _main(capsys, "replay", tmp_path / "none.jsonl", "--runs", tmp_path / "there")
    assert status == 1 and "none.jsonl" in result["error"] and "Traceback" not in err
