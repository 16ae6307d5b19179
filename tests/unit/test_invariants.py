"""The direction of imports between rooms, and what each half of the program must never import."""

import subprocess
import sys

import pytest
from import_graph import file_cycles, import_arrows, room_cycles
from toys import PROJECT

# Every room, from the top down. A room may import rooms that stand below it, never one beside or above it.
DIRECTION = [
    {"app", "__main__"},
    {"ui", "cli"},
    {"zero_gpu"},  # both processes' work in a call
    {"engine", "planning"},  # the two processes
    {"predict", "eval", "export"},
    {"train", "chat"},
    {"data", "lab", "speed"},
    {"model"},
    {"engine.client", "planning.client"},  # their clients in the page's process
    {"memory"},
    {"talk", "jobs", "share"},
    {"catalog", "runs", "worker", "jsonl_server"},
    {"settings", "jsonl_process", "job", "replacement"},
    {"errors"},
    {"i18n", "background", "compat", "compat_trackio", "ending", "library_defaults", "process_log"},
    {"json_values"},
]
PAGE_ONLY = {"ui": {"engine.client", "planning.client"}, "app": set()}  # of the two processes, the page knows these


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)


def test_rooms_import_only_rooms_below_them():
    level = {room: number for number, rooms in enumerate(DIRECTION) for room in rooms}
    arrows = import_arrows()
    assert set(arrows) <= set(level), f"rooms without a level: {set(arrows) - set(level)}"
    upwards = [
        f"{room} → {target}" for room, targets in arrows.items() for target in targets if level[target] <= level[room]
    ]
    assert upwards == []


def test_no_cycles_between_rooms_or_files():
    assert room_cycles(import_arrows()) == [] and file_cycles() == []


@pytest.mark.parametrize("room", PAGE_ONLY)
def test_the_page_knows_of_the_processes_only_their_clients(room):
    processes = {"engine", "planning", "engine.client", "planning.client"}
    assert import_arrows()[room] & processes <= PAGE_ONLY[room]


@pytest.mark.slow
def test_no_backend_module_imports_gradio():
    found = _python("""
import importlib, pkgutil, sys, playground
modules = pkgutil.walk_packages(playground.__path__, "playground.")
names = [m.name for m in modules if not m.name.startswith("playground.ui")]
assert len(names) > 20, names
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name == "triton", error  # which comes with torch on CUDA alone
assert "torch" in sys.modules
print("gradio" in sys.modules)
""")
    assert found.stdout.strip() == "False", found.stderr


@pytest.mark.slow
def test_building_the_whole_page_imports_no_torch(tmp_path):
    found = _python(
        """
import sys
from pathlib import Path
from playground.ui.build import build_app
app = build_app(Path(sys.argv[1]))
app.engine.close()
assert len(app.blocks) > 50
print(sorted({"torch", "transformers", "peft", "bitsandbytes"} & set(sys.modules)))
""",
        str(tmp_path / "runs"),
    )
    assert found.stdout.strip().splitlines()[-1:] == ["[]"], found.stderr


def test_tests_run_coroutines_in_a_thread_of_their_own():
    """A process that ran browser tests keeps Playwright's event loop, beside which `asyncio.run` fails."""
    tests = [path for folder in ("unit", "api", "ui", "gpu") for path in (PROJECT / "tests" / folder).glob("*.py")]
    own = [path for path in tests if "asyncio.run" + "(" in path.read_text(encoding="utf-8")]
    assert len(tests) > 200 and own == []
