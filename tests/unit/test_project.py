"""The project's metadata and development scripts: dependencies, entry point, types, slow markers."""

import importlib
import re

import pytest
from mark_slow import slow_tests, with_markers
from toys import PROJECT

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = pytest.importorskip("tomli")

TEXT = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
CONFIG = tomllib.loads(TEXT)


def _requirements(name: str) -> list[str]:
    return (PROJECT / name).read_text(encoding="utf-8").split("\n")[:-1]


def test_requirements_are_the_dependencies():
    assert _requirements("requirements.txt") == CONFIG["project"]["dependencies"]


def test_test_requirements_are_the_test_extra():
    assert _requirements("tests/requirements.txt") == CONFIG["project"]["optional-dependencies"]["test"]


def test_development_extra_includes_the_test_extra():
    project = CONFIG["project"]
    assert f"{project['name']}[test]" in project["optional-dependencies"]["dev"]


def test_entry_point_is_the_command_line(capsys):
    module, _, function = CONFIG["project"]["scripts"]["playground"].partition(":")
    with pytest.raises(SystemExit) as end:
        getattr(importlib.import_module(module), function)(["--help"])
    assert end.value.code == 0 and "tune" in capsys.readouterr().out


def test_version_is_the_newest_of_the_changelog():
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == CONFIG["project"]["version"]


def test_types_of_the_whole_package_are_checked():
    assert CONFIG["tool"]["mypy"]["files"] == ["playground"] and "overrides" not in CONFIG["tool"]["mypy"]


def test_slow_tests_are_read_from_a_junit_report(tmp_path):
    cases = [
        ("tests.unit.test_a", "test_b[1]", 0.5),
        ("tests.unit.test_a", "test_b[2]", 3.0),
        ("tests.ui.test_c", "d", 1.9),
    ]
    rows = "".join(f'<testcase classname="{where}" name="{name}" time="{time}"/>' for where, name, time in cases)
    (tmp_path / "times.xml").write_text(f"<testsuites><testsuite>{rows}</testsuite></testsuites>", encoding="utf-8")
    assert slow_tests(tmp_path / "times.xml", 2) == {"tests/unit/test_a.py": {"test_b": 3.0}}


def test_slow_markers_are_added_once_and_above_other_decorators():
    source = '"""Doc."""\n\nimport os\n\n\n@decorated\ndef test_a():\n    pass\n\n\ndef test_b():\n    pass\n'
    marked = with_markers(source, {"test_a"})
    assert marked.count("@pytest.mark.slow\n@decorated\ndef test_a") == 1 and "import pytest\nimport os" in marked
    assert with_markers(marked, {"test_a"}) == marked
    assert with_markers("pytestmark = pytest.mark.slow\n\n\ndef test_a():\n    pass\n", {"test_a"}).count("slow") == 1
