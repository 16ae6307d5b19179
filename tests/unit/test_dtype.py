"""The dtype that settings fix, and the one used where they leave it open."""

import pytest
import torch

from playground.model.dtype import compute_dtype, default_bits, requested_dtype
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


def test_default_bits_need_a_clear_speedup_on_a_cpu(monkeypatch):
    for speedup, bits in ((1.3, 16), (1.1, 32), (0.5, 32)):
        monkeypatch.setattr("playground.model.dtype.bf16_speedup", lambda speedup=speedup: speedup)
        assert default_bits("cpu") == bits and default_bits("cuda") == 16
        for device, expected in (("cpu", bits), ("cuda", 16)):
            assert resolve_target(Settings(load=Load(bits=0)), device, 0)[0].load.bits == expected
