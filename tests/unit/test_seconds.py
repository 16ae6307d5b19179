"""Peak rates are used only for the GPU they belong to, and seconds are near those measured on an H100."""

import json

import numpy as np
import pytest
from toys import PROJECT

from playground.data.lengths import Lengths
from playground.planning.cost import Machine, cutoff_cost
from playground.predict import meta_model
from playground.settings import Settings
from playground.speed.machine_rates import known_peak_rates

GIB = 2**30
MEASURED = json.loads((PROJECT / "tests" / "bench" / "results" / "train_gpu.json").read_text(encoding="utf-8"))
MODELS = {"calm": "cyberagent/open-calm-7b", "llama": "meta-llama/Llama-2-7b-hf"}


@pytest.mark.parametrize(
    "arm,bits", [("calm/bf16-off", 16), ("calm/nf4-all", 4), ("llama/nf4-off", 4), ("calm/int8-all", 8)]
)
def test_seconds_and_memory_are_near_those_measured_on_an_h100(arm, bits):
    model = MODELS[arm.split("/")[0]]
    checkpointing, tokens = MEASURED["medians"][arm]["dial"].split()
    row_lengths = np.array(MEASURED["lengths"], np.int32)
    train = {
        "batch_size": len(row_lengths),
        "max_seq_length": 256,
        "max_steps": 100,
        "gradient_checkpointing": checkpointing,
        "max_tokens_per_micro_batch": int(tokens),
    }
    settings = Settings().with_values({"load": {"model": model, "bits": bits}, "train": train})
    lengths = Lengths(row_lengths // 3, row_lengths - row_lengths // 3)
    cost = cutoff_cost(lengths, settings, meta_model.config_of(model), Machine("cuda", 80 * GIB, "h100"))
    [_, h100] = cost["estimates"]
    assert h100["card"] == "H100" and h100["bound"] == "compute"
    assert cost["tokens"] * 100 / h100["seconds"] == pytest.approx(MEASURED["medians"][arm]["tokens_per_s"], rel=0.15)
    assert cost["memory"]["bytes"] / GIB == pytest.approx(MEASURED["medians"][arm]["device_gib"], rel=0.05)


@pytest.mark.parametrize(
    "name,gpus",
    [
        ("rtx-4090", ["RTX 3090", "RTX 4090", "L4"]),
        ("rtx-4060", ["RTX 3070", "RTX 4060"]),
        ("NVIDIA GeForce RTX 4060 Ti", []),
        ("NVIDIA GeForce RTX 4070 SUPER", []),
        ("NVIDIA GeForce RTX 3060", ["RTX 3060"]),
        ("NVIDIA H100 80GB HBM3", ["H100"]),
        ("NVIDIA A100-SXM4-40GB", ["A100"]),
        ("Tesla T4", ["T4"]),
        ("NVIDIA GeForce RTX 4090", ["RTX 4090"]),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", []),
        ("NVIDIA GeForce RTX 3090 Ti", []),
        ("NVIDIA H100 PCIe", []),
        ("Tesla V100-SXM2-16GB", ["V100"]),
        ("Tesla V100-PCIE-16GB", []),
        ("NVIDIA A100 80GB PCIe", ["A100"]),
        ("NVIDIA L4", ["L4"]),
        ("NVIDIA L40", []),
        ("NVIDIA L40S", ["L40S"]),
        ("Intel(R) Xeon(R)", []),
        ("", []),
    ],
)
def test_a_peak_rate_is_used_only_for_its_own_gpu(name, gpus):
    assert [peak["name"] for peak in known_peak_rates(name)] == gpus
    assert all(peak["tflops"] > 10 and peak["source"] for peak in known_peak_rates(name))
