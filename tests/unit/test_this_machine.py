"""What a model would run on here: the first GPU that CUDA_VISIBLE_DEVICES leaves the engine, or the processor."""

import pytest

from playground.memory import this_machine as module

GPUS = """GPU-aaaa-1, NVIDIA GeForce RTX 3060, 12288, 288
GPU-aabb-2, NVIDIA A100-SXM4-40GB, 40960, 960
GPU-cccc-3, NVIDIA GeForce RTX 4090, 24576, [N/A]
"""
LISTED = """GPU 0: NVIDIA GeForce RTX 3060 (UUID: GPU-aaaa-1)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-aabb-2)
  MIG 3g.20gb     Device  0: (UUID: MIG-dddd-4)
  MIG 1c.2g.10gb  Device  1: (UUID: MIG-eeee-5)
GPU 2: NVIDIA GeForce RTX 4090 (UUID: GPU-cccc-3)
"""
RTX_3060, A100, RTX_4090 = "NVIDIA GeForce RTX 3060", "NVIDIA A100-SXM4-40GB", "NVIDIA GeForce RTX 4090"


@pytest.fixture
def visible(monkeypatch):
    """The names of the GPUs that are visible with a value of the variable."""
    monkeypatch.setattr(module, "_nvidia_smi", lambda option, *_: LISTED if option == "--list-gpus" else GPUS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def names(value: str | None) -> list[str]:
        if value is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        return [gpu["name"] for gpu in module.visible_gpus()]

    return names


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [RTX_3060, A100, RTX_4090]),
        *(("", []), ("-1", []), ("NoDevFiles", []), ("3", [])),
        *(("1", [A100]), (" 2, 0", [RTX_4090, RTX_3060]), ("+1", [A100]), ("1gpu", [A100])),
        *(("0,-1,1", [RTX_3060]), ("0,7,1", [RTX_3060]), ("0,1,0", [])),
        *(("GPU-cccc-3", [RTX_4090]), ("GPU-aabb,GPU-aaaa", [A100, RTX_3060]), ("GPU-aa", []), ("GPU-ffff", [])),
        *(("MIG-eeee-5", [f"{A100} MIG 1c.2g.10gb"]), ("MIG-ffff", [])),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(visible, value, expected):
    assert visible(value) == expected


@pytest.mark.parametrize(
    ("value", "device", "size"),
    [
        ("0", "cuda", 12000 * 2**20),
        ("1", "cuda", 40000 * 2**20),
        ("2", "cuda", 24576 * 2**20),  # the driver doesn't say what it reserves
        ("MIG-dddd", "cuda", 20 * 10**9),
        ("", "cpu", None),
    ],
)
def test_this_machine_is_the_engines_first_gpu_or_its_processor(visible, value, device, size):
    visible(value)
    found = module.this_machine.__wrapped__()
    assert found["device"] == device and (size is None or found["bytes"] == size)


def test_a_process_that_sees_no_gpu_knows_those_of_the_engine(visible, monkeypatch):
    for value, expected in ((None, [RTX_3060, A100, RTX_4090]), ("", []), ("2", [RTX_4090])):
        visible(value)
        with monkeypatch.context() as patch:
            for name, text in module.hide_gpus().items():
                patch.setenv(name, text)
            assert module.os.environ["CUDA_VISIBLE_DEVICES"] == ""
            assert [gpu["name"] for gpu in module.visible_gpus()] == expected


def test_without_a_driver_there_is_no_gpu(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.visible_gpus() == []
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert module.visible_gpus() == [] and module.this_machine.__wrapped__()["device"] == "cpu"
