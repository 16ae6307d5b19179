"""The dtype that settings fix, and the one used where they leave it open."""

import pytest
import torch

from playground.model.dtype import requested_dtype
from playground.model.load import compute_dtype
from playground.planning.forecast import resolve_target
from playground.settings import Load, Settings


@pytest.mark.parametrize(
    "load,dtype",
    [
        (Load(bits=32), torch.float32),
        (Load(bits=32, dtype="float16"), torch.float32),
        (Load(bits=16, dtype="float16"), torch.float16),
        (Load(bits=4, dtype="bfloat16"), torch.bfloat16),
        (Load(bits=8), None),
        (Load(bits=0), None),
    ],
)
def test_loading_and_planning_use_the_requested_dtype(load, dtype):
    assert requested_dtype(load) == dtype
    settings, target = resolve_target(Settings(load=load), "cuda", 5)
    assert target.dtype == (dtype or torch.bfloat16) and (target.device, target.capacity) == ("cuda", 5)
    assert settings.load.bits == (load.bits or 16)
    if dtype:
        reason = "dtype.float32" if load.bits == 32 else "dtype.chosen"
        assert compute_dtype(load, "cuda") == compute_dtype(load, "cpu") == (dtype, reason)
