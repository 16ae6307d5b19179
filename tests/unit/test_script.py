"""The script that repeats a fine-tune: run in a process that can't import this program, its losses are the run's."""

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from playground import runs
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.planning.repeat import make_recipe, repeat_files
from playground.settings import Lora, Settings, Train
from playground.share import script
from playground.share.notebook import notebook_text
from playground.share.recipe import REPEATED, WITHOUT_EFFECT, unknown_settings
from playground.share.template_text import fill_in

ODD = "Q: {instruction} \\ \"\"\" ''' $x 🎚\nA: {answer}"
# Each run's settings, and the largest relative difference of a step's loss. In 32 bits sums are only formed in another
# order; below, each product is rounded.
VARIANTS = {
    "lora-32": (
        {
            "train": {"schedule": "cosine", "warmup": 0.4, "micro_batch_size": 2, "epochs": 2, "max_steps": 0},
            "lora": {"layers": 1, "loraplus_lr_ratio": 4.0, "use_rslora": True, "modules_to_save": "lm_head"},
        },
        1e-4,
    ),
    "nf4": ({"load": {"bits": 4}}, 0.02),
    "int8": ({"load": {"bits": 8}}, 0.05),
    "full-16": ({"load": {"bits": 16}, "train": {"method": "full", "lr": 1e-3, "schedule": "constant"}}, 0.02),
    "dora-checkpointed": ({"lora": {"use_dora": True}, "train": {"gradient_checkpointing": "all"}}, 1e-4),
    "odd-format": (
        {"data": {"prompt_format": "custom", "custom_format": ODD, "train_on_prompt": True}, "train": {"seed": 7}},
        1e-4,
    ),
    "miss": ({"lora": {"kind": "miss", "r": 6}}, 1e-4),
    "pissa-nf4": ({"load": {"bits": 4}, "lora": {"init": "pissa_niter_4", "alpha": 7.0, "use_rslora": True}}, 0.02),
    "pissa-32": ({"lora": {"init": "pissa", "target_modules": "attention"}}, 1e-3),
    "loftq-int8": ({"load": {"bits": 8}, "lora": {"init": "loftq", "r": 4}}, 0.05),
    "t5": ({"data": {"prompt_format": "alpaca"}}, 1e-4),
    "bloom": ({}, 1e-4),  # not packed: rows of similar length go together
}
# The toy's usual weights saturate T5's attention: gradients that are nothing but rounding, which Adam scales up.
FAMILIES: dict[str, tuple[str, dict]] = {"t5": ("t5", {"initializer_factor": 0.5}), "bloom": ("bloom", {})}
GUARDED = """
import contextlib, io, json, runpy, sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("playground", "app", "gradio"):
            raise ImportError(f"{name} isn't there")
sys.meta_path.insert(0, Guard())
printed = {}
for path, model, out in json.load(sys.stdin):
    sys.argv = [path, "--model", model, "--out", out]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        runpy.run_path(path, run_name="__main__")
    printed[path] = output.getvalue()
print("\\n" + json.dumps(printed))
"""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, toy, lesson):
    """A finished run of each variant, in one folder: (root, {variant: run}, {variant: model folder})."""
    root = tmp_path_factory.mktemp("script") / "runs"
    found, models = {}, {}
    for name, (changes, _) in VARIANTS.items():
        family, changed = FAMILIES.get(name, ("llama", {}))
        models[name] = toy(family, chat=name not in FAMILIES, **changed)
        quick: dict[str, dict] = {
            "load": {"model": str(models[name]), "bits": 32, "device": "cpu"},
            "data": {"source": str(lesson)},
            "train": {"max_steps": 8, "batch_size": 4, "lr": 1e-2, "sample_every": "off", "eval_rows": 0},
        }
        values = {group: quick.get(group, {}) | changes.get(group, {}) for group in {**quick, **changes}}
        [*_, done] = Workbench(root).tune(Settings().with_values(values))
        found[name] = runs.find(root, done["result"]["run"])
    return root, found, models


@pytest.mark.slow
def test_every_script_makes_the_runs_losses_without_this_program(tuned, tmp_path):
    root, found, models = tuned
    jobs, losses = [], {}
    for name, run in found.items():
        files = repeat_files(str(root), run.id, str(tmp_path / name))
        assert files["rows"] is None
        jobs.append((files["script"], str(models[name]), str(tmp_path / name / "out")))
        losses[files["script"]] = name, [event["loss"] for event in run.events() if event["kind"] == "step"]
    ran = subprocess.run(
        [sys.executable, "-c", GUARDED],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    for path, text in json.loads(ran.stdout.splitlines()[-1]).items():
        name, expected = losses[path]
        made = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)  in the run", text)]
        assert len(made) == len(expected) >= 8, (name, text)
        assert made == pytest.approx(expected, rel=VARIANTS[name][1]), name
        assert expected[-1] < expected[0], name  # something was learned, so an order of rows or a rate matters
    assert (tmp_path / "nf4" / "out" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "full-16" / "out" / "config.json").is_file()


def test_a_script_is_short_readable_code(tuned):
    _, found, _ = tuned
    for name, run in found.items():
        text = script.script_text(make_recipe(run), rows_file=False)
        tree = ast.parse(text)
        code = text.split("\n# The loss of each step")[0]
        assert len(code.splitlines()) <= 210 and max(map(len, code.splitlines())) <= 120, name
        assert "# [" not in code and "$" not in code.replace("$x", ""), name
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert all(ast.get_docstring(function) for function in functions)
    nf4 = script.script_text(make_recipe(found["nf4"]), rows_file=False)
    assert 'bnb_4bit_quant_type="nf4"' in nf4 and "loraplus" not in nf4.lower() and "math" not in nf4


def test_rows_are_text_that_gives_the_trained_tokens_or_else_their_ids(tuned):
    """A row that was truncated within a character has ids; in all others the text alone is enough."""
    _, found, models = tuned
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models["nf4"])
    rows = make_recipe(found["nf4"]).rows
    assert all(set(row) == {"prompt", "answer"} for row in rows)
    assert all(row["answer"].endswith("<|end|>") for row in rows)
    from playground.data.batch import Example
    from playground.planning.repeat import _row

    ids = tokenizer("é🎚", add_special_tokens=False)["input_ids"]
    cut = _row(Example(ids[:-1], 1, ((1, 2), (50, 60))), tokenizer)
    assert cut["prompt_ids"] + cut["answer_ids"] == ids[:-1] and cut["masked"] == [[1, 2]]


def test_changed_rows_are_noticed_by_the_tokens_of_the_steps(tuned, tmp_path, lesson):
    _, found, _ = tuned
    assert "repeat.note.rows" not in {note.key for note in make_recipe(found["nf4"]).notes}
    whole = lesson.read_text(encoding="utf-8")
    lesson.write_text(whole.replace("The answer is 7.", "The answer is of course 7."), encoding="utf-8")
    try:
        assert "repeat.note.rows" in {note.key for note in make_recipe(found["nf4"]).notes}
    finally:
        lesson.write_text(whole, encoding="utf-8")


def test_a_stopped_run_keeps_its_schedule(tuned, tmp_path):
    root, found, _ = tuned
    copy = root / "stopped"
    copy.mkdir()
    for name in ("settings.json", "events.jsonl"):
        lines = (found["nf4"].folder / name).read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if '"kind":"step","step":8' not in line and '"kind":"done"' not in line]
        (copy / name).write_text("\n".join(kept) + "\n", encoding="utf-8")
    recipe = make_recipe(runs.find(root, "stopped"))
    text = script.script_text(recipe, rows_file=False)
    assert "STEPS = 7\nSCHEDULED_STEPS = 8" in text and "max(1, SCHEDULED_STEPS - WARMUP_STEPS)" in text
    assert "made 7 of 8 steps" in text


def test_runs_that_cannot_be_repeated_say_why(tuned, tmp_path):
    root, _, _ = tuned
    for kind, job, key in (("none", "tune", "repeat.error.no_steps"), ("chat", "chat", "repeat.error.job")):
        run = runs.create(root, kind, Settings())
        lines = (run.folder / "events.jsonl").read_text(encoding="utf-8").replace(f'"job":"{kind}"', f'"job":"{job}"')
        (run.folder / "events.jsonl").write_text(lines, encoding="utf-8")
        with pytest.raises(PlaygroundError) as error:
            repeat_files(str(root), run.id, str(tmp_path / "out"))
        assert [p.key for p in error.value.problems] == [key]
    assert not (tmp_path / "out").exists()


def test_many_rows_are_a_file_beside_the_script(tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "EMBEDDED_BYTES", 100)
    root, found, _ = tuned
    files = repeat_files(str(root), found["nf4"].id, str(tmp_path))
    text = (tmp_path / script.NAME).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in (tmp_path / script.ROWS_NAME).read_text(encoding="utf-8").splitlines()]
    assert files["rows"] and rows == make_recipe(found["nf4"]).rows and f'ROWS_FILE = "{script.ROWS_NAME}"' in text
    assert not list(tmp_path.glob("*.partial"))
    notebook = json.loads((tmp_path / "repeat_run.ipynb").read_text(encoding="utf-8"))
    assert "files.upload()" in "".join("".join(cell["source"]) for cell in notebook["cells"])


def test_the_notebook_is_valid_and_its_cells_are_the_script(tuned, tmp_path):
    root, found, _ = tuned
    repeat_files(str(root), found["odd-format"].id, str(tmp_path))
    notebook = json.loads((tmp_path / "repeat_run.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells[0].startswith("%pip install") and f"peft=={_version('peft')}" in cells[0]
    program = "\n".join(cells[1:])
    names = {node.name for node in ast.parse(program).body if isinstance(node, ast.FunctionDef)}
    own = ast.parse((tmp_path / script.NAME).read_text(encoding="utf-8"))
    assert names == {node.name for node in own.body if isinstance(node, ast.FunctionDef)} - {"main"}
    assert "argparse" not in program and "__file__" not in program


# No script has them; a run that used one says so.
NOT_REPEATED = {"lora": {"start_from"}, "train": {"eval_every", "patience", "num_processes", "offload_optimizer"}}


def test_every_setting_of_adapter_and_training_is_repeated_without_effect_or_said_not_to_be_repeated():
    """A new one belongs into the template (assets/share/script.py.txt) and REPEATED, or into one of the others."""
    for group, kind in (("lora", Lora), ("train", Train)):
        known = REPEATED[group] | WITHOUT_EFFECT[group] | NOT_REPEATED[group]
        assert {field.name for field in fields(kind)} == known, group
    assert unknown_settings(Settings()) == []


def test_a_setting_that_no_script_knows_is_named(monkeypatch):
    monkeypatch.setitem(REPEATED, "lora", REPEATED["lora"] - {"use_dora"})
    changed = Settings().with_values({"lora": {"use_dora": True}})
    assert unknown_settings(changed) == ["lora.use_dora"]
    stopped = Settings().with_values({"train": {"eval_every": 5}})
    assert unknown_settings(stopped) == ["train.eval_every"]


def test_modules_of_some_layers_are_written_as_a_comprehension_that_gives_the_same_names():
    names = [f"layers.{n}.{m}" for n in range(8, 30) for m in ("mlp.down_proj", "self_attn.q_proj")]
    for given in (names, names[1:], ["q_proj", "v_proj"], [*names, "lm_head"], ["h.1.a", "k.2.a"] * 5):
        assert sorted(eval(script.module_list(given))) == sorted(given)
    assert len(script.module_list(names).splitlines()) == 5


def test_conditions_of_a_template_nest_and_must_end():
    text = "a\n# [if x]\nb\n# [if y]\nc\n# [else]\n  $v\n# [end]\n# [end]\nd"
    assert fill_in(text, {"x"}, {"v": "1\n2"}) == "a\nb\n  1\n  2\nd"
    assert fill_in(text, {"y"}, {"v": ""}) == "a\nd"
    with pytest.raises(ValueError):
        fill_in("# [if x]\na", set(), {})


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


CODE = "float32; import os; os.system('touch x')"


@pytest.mark.parametrize(
    "kind,fields_",
    [
        ("note", {"values": {"dtype": CODE}}),
        ("step", {"steps": CODE}),
        ("step", {"loss": CODE, "steps": 8.5}),
        ("run_started", {"versions": {"peft": CODE, "transformers": [CODE]}, "hardware": {"device": CODE}}),
        ("done", {"result": {"packed": CODE}}),
    ],
)
def test_events_that_were_edited_by_hand_put_no_code_into_the_script(tuned, kind, fields_):
    root, found, _ = tuned
    copy = root / "edited"
    copy.mkdir(exist_ok=True)
    (copy / "settings.json").write_bytes((found["nf4"].folder / "settings.json").read_bytes())
    events = [json.loads(line) for line in (found["nf4"].folder / "events.jsonl").read_text("utf-8").splitlines()]
    edited = [{**event, **fields_} if event["kind"] == kind else event for event in events]
    (copy / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in edited), encoding="utf-8")
    try:
        text = script.script_text(make_recipe(runs.find(root, "edited")), rows_file=False)
    except PlaygroundError as error:
        assert [p.key for p in error.problems] == ["repeat.error.no_steps"]
        return
    ast.parse(text)
    assert "os.system" not in text and "touch" not in text


@pytest.mark.parametrize(
    "name", ["nul\x00", 'a"""b', "a\\", "a\nimport os", "a\rb", "$x ${y}", "{x}", "\u202eabc", "🎚️"]
)
def test_any_name_stays_within_the_scripts_docstring(tuned, name):
    recipe = replace(make_recipe(tuned[1]["nf4"]), title=name, run=name, rows=[{"prompt": name, "answer": name}])
    text = script.script_text(recipe, rows_file=False)
    plain = script.script_text(replace(recipe, title="x", run="x", rows=[]), rows_file=False)
    trees = [ast.dump(ast.Module(ast.parse(code).body[1:-2], [])) for code in (text, plain)]
    assert trees[0] == trees[1] and not script.ORDER_MARKS.search(text)
    space: dict = {}
    exec("# The loss" + text.split("# The loss of each step")[1].partition("\n\nif __name__")[0], space)
    assert json.loads(space["ROWS"]) == recipe.rows[0]
    assert notebook_text(recipe, rows_file=False)
