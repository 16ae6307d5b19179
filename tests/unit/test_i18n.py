"""The words tables agree with each other and with the keys and placeholders that the code uses."""

import ast
import json
import re
from dataclasses import fields
from string import Formatter

import pytest
from toys import PROJECT

from playground import ASSETS, catalog, job, settings
from playground.data.columns import FIELDS
from playground.i18n import LANGUAGES, table, translate
from playground.runs.query import STATES
from playground.share.overlay_figures import PARTS

FILES = sorted((PROJECT / "playground").rglob("*.py"))
TREES = {path.relative_to(PROJECT): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uff66-\uff9f]")


def _names(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def _constants():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path, node


def test_both_languages_have_the_same_keys():
    assert set(table("en")) == set(table("ja"))


def test_no_key_is_defined_twice():
    for lang in LANGUAGES:
        pairs = json.loads((ASSETS / "words" / f"{lang}.json").read_text(encoding="utf-8"), object_pairs_hook=list)
        assert len(pairs) == len(dict(pairs))


def test_both_languages_use_the_same_placeholders():
    differ = {key for key in table("en") if _names(table("en")[key]) != _names(table("ja")[key])}
    assert not differ


def test_every_key_in_the_code_is_in_the_tables():
    key = re.compile(
        r"(problem|error|note|dtype|cli|plan|tune|load|chat|runs|accuracy|app|tab|rows|xray|cost|preset|job|state|phase|lora|train|generation|suggestion|catalog)\.[a-z][a-z0-9_.]*[a-z0-9]"
    )
    used = [(f"{path}:{node.lineno}", node.value) for path, node in _constants() if key.fullmatch(node.value)]
    assert len(used) > 80
    assert [(where, word) for where, word in used if word not in table("en")] == []


def test_every_key_made_from_a_name_is_in_the_tables():
    expected = [e["name"] + end for e in catalog.data_sets().values() for end in ("", ".short")]
    expected += [f"preset.{name}" for name in catalog.presets()]
    expected += [f"catalog.for.{entry['for']}" for entry in catalog.models().values()]
    for group in (settings.Load, settings.Data, settings.Lora, settings.Train, settings.Generation):
        expected += [f"{group.__name__.lower()}.{f.name}{end}" for f in fields(group) for end in ("", ".info")]
    reasons = ("unreachable", "absent", "gated", "broke")
    expected += [f"error.{source}_{reason}" for source in ("hub", "data") for reason in reasons]
    expected += [f"chat.busy_{kind}" for kind in job.KINDS]
    expected += [f"rows.part.{part}" for part in FIELDS] + [f"chart.part.{part}" for part in PARTS]
    expected += [f"state.{state}" for state in STATES]
    assert [key for key in expected if key not in table("en")] == []


def test_every_kind_of_job_in_the_code_is_listed():
    """Words are looked up by the kind: one that the list lacks would have none."""
    calls = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [call.args[0] for call in calls if getattr(call.func, "id", "") == "Job" and call.args]
    assert {kind.value for kind in named if isinstance(kind, ast.Constant)} == set(job.KINDS)


def test_every_key_prefix_in_the_code_is_in_the_tables():
    prefixes = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "translate":
                for made in (
                    a for a in node.args if isinstance(a, ast.JoinedStr) and isinstance(a.values[0], ast.Constant)
                ):
                    prefixes.add(made.values[0].value)
    assert len(prefixes) >= 4
    assert [start for start in prefixes if not any(key.startswith(start) for key in table("en"))] == []


def test_every_phase_in_the_code_is_in_the_tables():
    named = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                pairs = {getattr(k, "value", None): getattr(v, "value", None) for k, v in zip(node.keys, node.values)}
                if pairs.get("kind") == "phase" and pairs.get("name"):
                    named.add(pairs["name"])
    assert {"fetch", "load", "train", "save", "chat"} <= named
    assert [name for name in named if f"phase.{name}" not in table("en")] == []


def test_every_problem_has_the_values_of_its_placeholders():
    missing, seen = [], 0
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not (
                isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("problem", "Problem") and node.args
            ):
                continue
            key = getattr(node.args[0], "value", None)
            if not isinstance(key, str) or key not in table("en"):
                continue
            given = {k.arg for k in node.keywords}
            if len(node.args) > 1 and isinstance(node.args[1], ast.Dict):
                given |= {k.value for k in node.args[1].keys}
            seen += 1
            if not _names(table("en")[key]) <= given:
                missing.append((f"{path}:{node.lineno}", key, _names(table("en")[key]) - given))
    assert seen > 40
    assert missing == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_bytes_are_written_in_gib_or_mib(lang):
    text = translate(lang, "error.large_file", file="a.csv", size_bytes=3 * 2**30, most_bytes=50 * 2**20)
    assert "3.00 GiB" in text and "50.0 MiB" in text


def test_python_files_contain_no_japanese_but_the_talks_template():
    allowed = {"playground/data/builtin_formats.py"}
    assert {str(p.relative_to(PROJECT)) for p in FILES if JAPANESE.search(p.read_text(encoding="utf-8"))} <= allowed


@pytest.mark.parametrize(("rows", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1200, "1,200 rows")])
def test_count_brings_the_right_form_of_its_noun(monkeypatch, rows, text):
    monkeypatch.setitem(table("en"), "test.rows", "{rows:row|rows} here, {plain}")
    assert translate("en", "test.rows", rows=rows, plain=rows) == f"{text} here, {rows}"


def test_every_count_with_a_noun_has_both_forms():
    forms = [
        (lang, key, form)
        for lang in LANGUAGES
        for key, text in table(lang).items()
        for _, _, form, _ in Formatter().parse(text)
        if form and "|" in form
    ]
    assert len(forms) >= 5 and [where for where in forms if where[2].count("|") != 1] == []


@pytest.mark.parametrize(
    ("count", "english", "japanese"),
    [
        (6871982080, "6.87 billion", "68.7 億"),
        (7000000000, "7 billion", "70 億"),
        (134515008, "135 million", "1.35 億"),
        (16777216, "16.8 million", "1,678 万"),
        (9216, "9,216", "9,216"),
    ],
)
def test_counts_of_weights_are_written_in_words(count, english, japanese):
    assert english in translate("en", "catalog.parameters", parameters=count)
    assert japanese in translate("ja", "catalog.parameters", parameters=count)
