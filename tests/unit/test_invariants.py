"""What each half of the program must never import."""

import subprocess
import sys

from toys import PROJECT


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=120)


def test_no_backend_module_imports_gradio():
    found = _python("""
import importlib, pkgutil, sys, playground
names = [m.name for m in pkgutil.walk_packages(playground.__path__, "playground.") if not m.name.startswith("playground.ui")]
assert len(names) > 20, names
for name in names:
    importlib.import_module(name)
assert "torch" in sys.modules
print("gradio" in sys.modules)
""")
    assert found.stdout.strip() == "False", found.stderr


def test_building_the_whole_page_imports_no_torch(tmp_path):
    found = _python("""
import sys
from pathlib import Path
from playground.ui.build import build_app
app = build_app(Path(sys.argv[1]))
app.engine.close()
assert len(app.blocks) > 50
print(sorted({"torch", "transformers", "peft", "bitsandbytes"} & set(sys.modules)))
""", str(tmp_path / "runs"))
    assert found.stdout.strip().splitlines()[-1:] == ["[]"], found.stderr
