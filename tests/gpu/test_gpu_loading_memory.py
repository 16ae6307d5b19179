"""What loading onto a GPU takes of main memory meanwhile, and leaves there.

Measured by `tests/bench/loading.py`, in processes by themselves.
"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

import loading

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

MOST = 1.1  # times the bytes of the loaded model
LEFT = 16 * 2**20  # bytes: what rounds differ by, and a tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(A model of 206 million parameters in bfloat16, one of as many layers without weights): their folders."""
    home = tmp_path_factory.mktemp("loading")
    return loading.save_model(home / "model", "bfloat16"), loading.save_toy(home / "toy")


@pytest.mark.parametrize("kind", ["16", "8", "4", "fp8"])
def test_a_model_on_the_gpu_leaves_nothing_in_main_memory(models, kind):
    folder, toy = models
    result = loading.measure(folder, toy, loading.KINDS[kind] | {"device": "cuda"})
    assert result["peak"] < MOST * result["stored"] + LEFT, result
    assert result["after rss"] < LEFT, result
