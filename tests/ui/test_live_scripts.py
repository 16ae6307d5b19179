"""The live view's reducer and figures, by Node's own test runner over tests/js/."""

import shutil
import subprocess

import pytest
from toys import PROJECT

NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="no node on this machine")
def test_the_scripts_pass_their_node_tests():
    process = subprocess.run(
        [str(NODE), "--test", "tests/js/"], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )
    assert process.returncode == 0, process.stdout[-8000:] + process.stderr[-2000:]
    assert "# pass 0" not in process.stdout
