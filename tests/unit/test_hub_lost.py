"""A hub that is lost in the middle of a download: said in a sentence, and the next download goes on from there."""

import json
import os
import subprocess
import sys

import pytest
from fake_hub import REPO, FakeHub
from toys import PROJECT


def fetch(hub: FakeHub, folder) -> tuple[int, dict]:
    """`python -m playground fetch`, with a cache of its own: exit status and result."""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-m", "playground", "fetch", REPO]
    ended = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)
    return ended.returncode, json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.slow
def test_download_goes_on_after_the_hub_was_lost(toy, tmp_path):
    size = (toy() / "model.safetensors").stat().st_size
    lost = FakeHub(toy(), break_at=size // 3, gone=True)
    status, result = fetch(lost, tmp_path)
    lost.close()
    assert status == 1 and "try again" in result["error"].lower() and "Traceback" not in result["error"]
    assert not list(tmp_path.rglob("snapshots/*/model.safetensors"))  # only whole files have their names
    back = FakeHub(toy())
    status, result = fetch(back, tmp_path)
    [weights] = tmp_path.rglob("snapshots/*/model.safetensors")
    assert status == 0 and weights.read_bytes() == (toy() / "model.safetensors").read_bytes()
    data = bytearray(weights.read_bytes())
    data[size // 2] ^= 1
    weights.resolve().write_bytes(data)
    status, result = fetch(back, tmp_path)
    back.close()
    assert status == 0 and weights.read_bytes() == (toy() / "model.safetensors").read_bytes()
