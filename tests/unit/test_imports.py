"""A process that works with models starts fast: it imports what it needs, and doesn't compile it again each time."""

import json
import os
import subprocess
import sys

import pytest
import toys
from toys import PROJECT

# What torch, transformers, PEFT and bitsandbytes would import, or this program for other jobs than a fine-tune.
LEFT_OUT = ["torch._inductor.compile_fx", "functorch.compile", "networkx", "sklearn", "scipy", "pandas", "gguf"]
LEFT_OUT += ["gradio", "datasets", "playground.engine.export", "playground.engine.lab"]
MODULE = "VALUE = {value}\n"


def run_python(code, *arguments, **variables):
    """What a process prints, as JSON."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def scientific_packages(tmp_path):
    """A folder with packages that transformers imports where they are installed."""
    for name in ("sklearn", "scipy", "pandas"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").write_text("")
    (tmp_path / "packages" / "sklearn" / "metrics.py").write_text("roc_curve = None\n")
    return tmp_path / "packages"


@pytest.mark.slow
def test_a_fine_tune_imports_nothing_heavy_that_it_does_not_need(tmp_path, scientific_packages):
    model = toys.save(tmp_path / "model", chat=True)
    code = (
        "import gc, json, sys\nfrom playground.__main__ import main\nstatus = main(sys.argv[2:])\n"
        "found = [name for name in json.loads(sys.argv[1]) if name in sys.modules]\n"
        "print(json.dumps([status, found, gc.isenabled(), gc.get_freeze_count() > 100_000]))"
    )
    flags = ["--model", model, "--max-steps", 1, "--end-row", 8, "--runs", tmp_path / "runs"]
    found = run_python(code, json.dumps(LEFT_OUT), "tune", *flags, PYTHONPATH=scientific_packages)
    assert found == [0, [], True, True]


@pytest.mark.slow
def test_transformers_still_finds_scientific_packages_for_others(tmp_path, scientific_packages):
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom playground import compat\n"
        "compat.import_libraries(Path(sys.argv[1]))\nfrom transformers import utils\n"
        "print(json.dumps([utils.is_scipy_available(), utils.is_sklearn_available(), 'scipy' in sys.modules]))"
    )
    assert run_python(code, tmp_path, PYTHONPATH=scientific_packages) == [True, True, False]


def test_every_process_with_a_workbench_imports_its_libraries_first():
    """But a ZeroGPU Space's: there the page's process imports them, beside other threads (compat/libraries.py)."""
    sources = {path: path.read_text(encoding="utf-8") for path in (PROJECT / "playground").rglob("*.py")}
    found = {path for path, source in sources.items() if "    from playground.engine.workbench import" in source}
    assert len(found) >= 4
    assert [path.name for path in found if "compat.import_libraries(" not in sources[path]] == ["zero_gpu.py"]


class Package:
    """A package beside which Python keeps no bytecode, and what a process finds in it."""

    def __init__(self, folder):
        self.kept = folder / "kept"
        self.module = folder / "packages" / "uncompiled" / "module.py"
        self.module.parent.mkdir(parents=True)
        (self.module.parent / "__init__.py").write_text("")
        self.module.write_text(MODULE.format(value=1))

    def read(self, **variables):
        """Whether bytecode is kept, the module's value, and which files of the package were compiled."""
        code = (
            "import json, sys\nfrom pathlib import Path\nfrom playground.compat import bytecode\ncompiled = []\n"
            "original = bytecode._KeepingLoader.source_to_code\n"
            "def count(loader, data, path, **options):\n"
            "    compiled.append(Path(path).name)\n    return original(loader, data, path, **options)\n"
            "bytecode._KeepingLoader.source_to_code = count\n"
            "kept = bytecode.keep_bytecode(Path(sys.argv[1]), 'uncompiled')\n"
            "from uncompiled import module\nprint(json.dumps([kept, module.VALUE, compiled]))"
        )
        given = {"PYTHONPATH": self.module.parent.parent, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": ""}
        return run_python(code, self.kept, **given | variables)

    def files(self):
        """The files that are kept."""
        return [path for path in self.kept.rglob("*") if path.is_file()]


@pytest.fixture
def package(tmp_path):
    return Package(tmp_path)


def test_bytecode_is_kept_where_python_keeps_none(package):
    assert package.read() == [True, 1, ["__init__.py", "module.py"]]
    assert package.read() == [True, 1, []]
    assert len(package.files()) == 2 and not list(package.module.parent.rglob("*.pyc"))


def test_a_folder_that_others_may_write_into_is_not_used(package):
    package.kept.mkdir()
    package.kept.chmod(0o777)
    assert package.read() == [False, 1, []] and not package.files()
    package.kept.chmod(0o755)
    assert package.read()[0]


def test_a_source_that_changed_is_compiled_again_even_if_its_time_and_size_did_not(package):
    package.read()
    times = package.module.stat().st_atime_ns, package.module.stat().st_mtime_ns
    package.module.write_text(MODULE.format(value=2))
    os.utime(package.module, ns=times)
    assert package.read() == [True, 2, ["module.py"]]
    assert package.read() == [True, 2, []]


@pytest.mark.parametrize("size", [0, 10, 20, 40])
def test_a_damaged_file_is_written_again(package, size):
    package.read()
    for file in package.files():
        file.write_bytes(file.read_bytes()[:size])
    assert package.read() == [True, 1, ["__init__.py", "module.py"]]
    assert package.read() == [True, 1, []]


def test_without_a_place_to_keep_it_modules_are_imported_all_the_same(package):
    package.kept.write_text("a file, not a folder")
    assert package.read() == [False, 1, []]


def test_where_python_keeps_bytecode_nothing_changes(package, tmp_path):
    assert package.read(PYTHONPYCACHEPREFIX=tmp_path / "chosen") == [False, 1, []]
    assert package.read(PYTHONDONTWRITEBYTECODE="") == [False, 1, []]  # it writes it now
    assert package.read() == [False, 1, []] and package.files() == []
