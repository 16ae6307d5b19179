"""Compare steps estimated for another GPU with measured ones: the cells of earlier result files of train_gpu.py.

    python tests/bench/estimate_seconds.py        # anywhere, a minute

An estimate takes what was measured on one H200 (assets/catalog/card_rates.json) and, for an H100's cells, the data
sheets' bandwidths of both; their peaks of computing are equal. No cell was used to measure the rates. Cells: arms of
this program that are neither compiled nor offloaded nor limited to a part of the GPU.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import arms
import random_models
from gpu_arms import ARMS, Arm

FILES = ("train_gpu", "fast_gpu", "unsloth_gpu", "offload_gpu", "long_gpu")
PEAKS = {"H100": "NVIDIA H100 80GB HBM3", "H200": ""}  # name in the catalog; the H200's rates are the measured ones


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    results = arms.PROJECT / "tests/bench/results"
    parser.add_argument("--out", type=Path, default=results / "estimate_seconds.json")
    options = parser.parse_args()
    cells = []
    for name in FILES:
        result = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        gpu = "H200" if "H200" in result["hardware"]["name"] else "H100"
        for key, measured in result["medians"].items():
            if key in ARMS and is_counted(ARMS[key]) and measured.get("tokens_per_s"):
                cells.append({"file": name, "cell": key, "gpu": gpu} | compare(key, gpu, measured["tokens_per_s"]))
                print(json.dumps(cells[-1]), flush=True)
    errors = [abs(cell["error"]) for cell in cells]
    summary = {"cells": len(cells), "median": round(statistics.median(errors), 1), "worst": max(errors)}
    print(summary)
    arms.write(options.out, arms.report("estimated seconds", ("torch",), [], summary=summary, cells=cells))


def is_counted(arm: Arm) -> bool:
    """Whether an arm's step is one that Plan estimates."""
    return not (arm.compiled or arm.gib or arm.peer_rows or arm.unsloth or arm.checkpointing == "offload")


def compare(key: str, gpu: str, tokens_per_s: float) -> dict[str, Any]:
    """Measured and estimated seconds of a step, and the estimate's error in %."""
    import torch
    from transformers import AutoConfig

    from playground.predict import phases
    from playground.predict.seconds import predict_seconds
    from playground.settings import Settings
    from playground.speed.machine_rates import rates_of_machine, reference_rates

    arm, (family, values) = ARMS[key], random_models.SHAPES[key.split("/")[0]]
    config = AutoConfig.for_model(family, **random_models.SPECIAL_TOKENS | random_models.WIDE | values)
    kinds = {8: {"quant_type_8bit": arm.kind or "int8"}, 4: {"quant_type": arm.kind or "nf4"}}
    train = {"batch_size": len(arm.lengths), "gradient_checkpointing": arm.checkpointing, "compile": "off"}
    load = {"bits": arm.bits} | kinds.get(arm.bits, {})
    settings = Settings().with_values({"load": load, "lora": {"r": arm.rank}, "train": train})
    rows = random_models.example_rows(arm.labelled, arm.lengths)
    lengths, labelled = [len(row.ids) for row in rows], [row.labelled for row in rows]
    calls = phases.predict_tune(config, settings, phases.Target("cuda", torch.bfloat16), lengths, labelled)["calls"]
    rates = rates_of_machine("cuda", PEAKS[gpu])[0][0] if PEAKS[gpu] else reference_rates()[0]
    predicted, measured = predict_seconds(calls, rates, "tune"), sum(lengths) / tokens_per_s
    assert predicted
    error = round(100 * (predicted["seconds"] / measured - 1), 1)
    return {"measured": round(measured, 4), "estimated": round(predicted["seconds"], 4), "error": error}


if __name__ == "__main__":
    main()
