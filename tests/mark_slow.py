"""Mark slow tests: `python -m pytest --junitxml times.xml && python tests/mark_slow.py times.xml [--write]`.

Lists every test function whose slowest case took longer than `--seconds`, setup included, and that has no `slow` marker
yet; `--write` adds `@pytest.mark.slow` above it. A fixture's time counts for the first test that uses it, so after the
slowest tests are marked, another measurement of `just fast` may find the next ones. Measure on an idle machine.
"""

import argparse
import ast
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def slow_tests(report: Path, seconds: float) -> dict[str, dict[str, float]]:
    """{file: {test function: seconds of its slowest case}} of the tests in a JUnit report that took longer."""
    slow: dict[str, dict[str, float]] = defaultdict(dict)
    for case in ElementTree.parse(report).iter("testcase"):
        name, took = case.attrib["name"].split("[")[0], float(case.attrib["time"])
        path = case.attrib["classname"].replace(".", "/") + ".py"
        if took > seconds:
            slow[path][name] = max(took, slow[path].get(name, 0.0))
    return dict(slow)


def with_markers(source: str, names: set[str]) -> str:
    """A test file's source with `@pytest.mark.slow` above those of its functions that have none yet."""
    tree = ast.parse(source)
    lines = source.splitlines(keepends=True)
    unmarked = _unmarked(tree, names)
    for function in sorted(unmarked, key=lambda f: f.lineno, reverse=True):
        first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
        lines.insert(first - 1, "@pytest.mark.slow\n")
    imported = any(isinstance(node, ast.Import) and node.names[0].name == "pytest" for node in tree.body)
    if unmarked and not imported:
        at = next(n.lineno for n in tree.body if not isinstance(n, ast.Expr))
        lines.insert(at - 1, "import pytest\n")
    return "".join(lines)


def _unmarked(tree: ast.Module, names: set[str]) -> list[ast.FunctionDef]:
    if any(isinstance(n, ast.Assign) and "mark.slow" in ast.unparse(n) for n in tree.body):
        return []  # the whole file is marked by `pytestmark`
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]
    return [f for f in functions if not any("mark.slow" in ast.unparse(d) for d in f.decorator_list)]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("report", type=Path, help="a JUnit report")
    parser.add_argument("--seconds", type=float, default=1.0, help="tests that take longer are slow (1)")
    parser.add_argument("--write", action="store_true", help="add the markers")
    options = parser.parse_args()
    for path, times in sorted(slow_tests(options.report, options.seconds).items()):
        file = PROJECT / path
        source = file.read_text(encoding="utf-8")
        for function in _unmarked(ast.parse(source), set(times)):
            print(f"{times[function.name]:7.1f} s  {path}::{function.name}")
        if options.write:
            file.write_text(with_markers(source, set(times)), encoding="utf-8")


if __name__ == "__main__":
    main()
