"""What the documents name exists: links, anchors, files, flags. README.md is short and its picture current."""

import re
import subprocess
import sys
from functools import cache

import pytest
from file_table import TABLE, file_table
from import_graph import import_arrows, mermaid
from toys import PROJECT

from playground.cli.parser import COMMANDS
from playground.settings.aliases import OLD_FIELDS

NAMES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    *(f"{room}/README.md" for room in ("playground", "tests/bench", "assets")),
)
OTHER_PROGRAMS = {"--num_processes", "--config_file"}  # flags of accelerate
ROOTS = ("playground", "assets", "tests", ".ci")
MAX_README_LINES = 150


def _text(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


@cache
def _project_files() -> frozenset[str]:
    """Files and folders of the project, folders with a slash at the end."""
    paths = [p for root in ROOTS for p in [PROJECT / root, *(PROJECT / root).rglob("*")]]
    return frozenset(f"{p.relative_to(PROJECT).as_posix()}{'/' if p.is_dir() else ''}" for p in paths)


@cache
def _help_flags() -> frozenset[str]:
    """Every flag that app.py, `python -m playground` and the project's own scripts offer."""
    scripts = [["app.py"], *(["-m", "playground", command] for command in COMMANDS)]
    texts = [
        subprocess.run(
            [sys.executable, *script, "--help"], cwd=PROJECT, capture_output=True, text=True, check=True
        ).stdout
        for script in scripts
    ]
    texts += [path.read_text(encoding="utf-8") for path in PROJECT.glob("tests/**/*.py") if "unit" not in path.parts]
    return frozenset(flag for text in texts for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


def _anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a Markdown text."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _current_text(name: str) -> str:
    """A document without what the changelog's tables say of earlier versions: all but their last column."""
    text = _text(name)
    return re.sub(r"^\|.*\|(?=[^|\n]*\|$)", "|", text, flags=re.MULTILINE) if name == "CHANGELOG.md" else text


@pytest.mark.parametrize("name", NAMES)
def test_links_and_pictures_exist(name):
    text, missing = _text(name), []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (PROJECT / name).parent / path if path else PROJECT / name
        if not file.exists() or (anchor and anchor not in _anchors(file.read_text(encoding="utf-8"))):
            missing.append(target)
    assert missing == []


def test_named_tests_exist():
    """SECURITY.md names the test of each promise."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", _text("SECURITY.md"))
    rows = [line for line in _text("SECURITY.md").splitlines() if line.startswith("| ") and "| test |" not in line]
    assert len(named) >= len(rows) > 20
    missing = [f"{file}::{test}" for file, test in named if not re.search(rf"^def {test}\(", _text(file), re.MULTILINE)]
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_named_files_exist(name):
    roots = "|".join(map(re.escape, ROOTS))
    named = re.findall(rf"(?<![\w/.<>-])((?:{roots})/(?:[\w./-]*\w/?)?)", _current_text(name))
    missing = [path for path in named if not {path, f"{path}/"} & _project_files()]
    assert missing == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_named_flags_exist(name):
    text = _current_text(name)
    text = re.sub(r"^(?:pip|pre-commit|git) .*$", "", text, flags=re.MULTILINE)
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    assert flags - OTHER_PROGRAMS <= _help_flags()


def test_flags_and_files_are_looked_for_at_all():
    """The patterns of the tests above match: README.md names flags and the architecture names files."""
    assert {"--port", "--bits", "--simulate-gpu-gib", "--accept-terms"} <= _help_flags()
    assert "--no-such-flag" not in _help_flags() and "playground/no_such_file.py" not in _project_files()


def test_file_table_is_current():
    table = TABLE.search(_text("playground/README.md"))
    files = [p for p in (PROJECT / "playground").rglob("*.py") if p.name != "__init__.py"]
    assert table and files and all(f"`{p.relative_to(PROJECT).as_posix()}`" in table[0] for p in files)
    assert table[0] == file_table(), "run `just documents`"


def test_every_benchmark_is_in_its_table():
    text = _text("tests/bench/README.md")
    missing = [p.name for p in (PROJECT / "tests/bench").glob("*.py") if f"`tests/bench/{p.name}`" not in text]
    assert missing == []


def test_changelog_lists_every_renamed_flag():
    text = _text("CHANGELOG.md")
    pairs = [(old, new) for names in OLD_FIELDS.values() for old, new in names.items()]
    missing = [old for old, new in pairs if f"| `--{old}` | `--{new}` |".replace("_", "-") not in text]
    assert pairs and missing == []


def test_readme_is_short():
    assert len(_text("README.md").splitlines()) <= MAX_README_LINES


def test_picture_of_the_rooms_is_current():
    picture = re.search(r"```mermaid\n(.*?)\n```", _text("playground/README.md"), re.DOTALL)
    assert picture and picture[1] == mermaid(import_arrows()), "run `just documents`"


def test_front_matter_names_the_app():
    front = _text("README.md").split("---")[1]
    values = dict(line.split(": ", 1) for line in front.strip().splitlines())
    assert (PROJECT / values["app_file"]).exists() and values["sdk"] == "gradio"
