"""The README's file table is true: every file of the program is in it, and every file in it is there."""

import re
import subprocess
import sys

from toys import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
TABLE = README[README.index("| file |") : README.index("How the training loop")]


def test_every_file_of_the_program_is_in_the_table():
    tracked = [
        p.relative_to(PROJECT)
        for p in [PROJECT / "app.py", *(PROJECT / "playground").rglob("*.py")]
        if p.name != "__init__.py"
    ]
    missing = [str(path) for path in tracked if not re.search(rf"`(?:[\w/]*/)?{re.escape(path.name)}`", TABLE)]
    assert tracked and not missing


def test_every_path_in_the_table_is_there():
    named = re.findall(r"`((?:app|playground|assets|tests)[\w/.]*)`", TABLE)
    assert named and all((PROJECT / name).exists() for name in named)


def test_the_flags_that_it_names_exist():
    told = subprocess.run(
        [sys.executable, "app.py", "--help"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    for flag in ("--port", "--host", "--lang", "--runs", "--share"):
        assert flag in told and flag in README
