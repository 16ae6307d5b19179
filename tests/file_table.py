"""The table of the package's files: `python tests/file_table.py [--update FILE]`.

A file's purpose is the first line of its docstring, a room's that of its `__init__`. `--update` renews the table in a
Markdown file; without it the table is printed.
"""

import argparse
import ast
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
HEAD = "| file | purpose |\n|---|---|\n"
TABLE = re.compile(re.escape(HEAD) + r"(?:\|.*\|\n)*")


def file_table(project: Path = PROJECT) -> str:
    """The Markdown table: app.py and single files first, then every room with its files."""
    package = project / "playground"
    rows = [_row(project, file) for file in [project / "app.py", *_modules(package)]]
    for room in sorted(folder for folder in package.iterdir() if (folder / "__init__.py").exists()):
        rows.append(f"| **{room.name}** | **{_purpose(room / '__init__.py')}** |\n")
        rows += [_row(project, file) for file in _modules(room)]
    return HEAD + "".join(rows)


def update_table(document: Path, table: str) -> None:
    """Replace the table of a Markdown file. Raises ValueError if it has none."""
    text, count = TABLE.subn(lambda _: table, document.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{document} has {count} file tables")
    document.write_text(text, encoding="utf-8")


def _modules(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.py") if file.name != "__init__.py")


def _row(project: Path, file: Path) -> str:
    return f"| `{file.relative_to(project).as_posix()}` | {_purpose(file)} |\n"


def _purpose(file: Path) -> str:
    """A docstring's first sentence or, if that is shorter, its first line."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(f"{file} has no docstring")
    line = docstring.split("\n")[0]
    return line.split(". ")[0].rstrip(".").replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--update", type=Path, metavar="FILE", help="renew the table in a Markdown file")
    options = parser.parse_args()
    if options.update:
        update_table(options.update, file_table())
    else:
        print(file_table(), end="")


if __name__ == "__main__":
    main()
