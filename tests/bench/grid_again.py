"""Predict with the current code the measured memory of models larger than the GPU and of several GPUs.

    python tests/bench/grid_again.py          # needs no GPU; two minutes

Cells, measured peaks and how rows were batched (packed, where that isn't recorded) are those of larger_gpu.json and
several_shapes.json. A cell whose plan isn't predicted as it was measured counts too. Left out: one of streamed layers
whose peak was that of an older plan's larger sample. Errors in %, of what torch allocated and of the whole GPU.
"""

import json
import statistics
from dataclasses import replace
from typing import Any

import arms
import larger_gpu
import random_models
import several_shapes

RESULTS = arms.PROJECT / "tests/bench/results"
OLD_SAMPLE = ("llama70b/4/16/32/69",)  # measured when a plan kept the activations of 128 tokens, of 70 billion weights


def main() -> None:
    larger = json.loads((RESULTS / "larger_gpu.json").read_text(encoding="utf-8"))
    several = json.loads((RESULTS / "several_shapes.json").read_text(encoding="utf-8"))
    capacity = int(larger["hardware"]["capacity"])
    batching = {cell["arm"].split("/")[1]: cell["batching"] for cell in several["rounds"] if "batching" in cell}
    cells = [_again(cell, capacity, batching) for cell in larger["rounds"] if cell["arm"] not in OLD_SAMPLE]
    gpu = int(several["hardware"]["capacity"])
    cells += [cell if "predicted_gib" in cell else _split_again(cell, gpu) for cell in several["rounds"]]
    cells = [_with_errors(cell) for cell in cells]
    errors = {
        what: {
            "median": round(statistics.median(abs(cell[f"{what}_error"]) for cell in cells), 2),
            "worst": max((cell[f"{what}_error"] for cell in cells), key=abs),
        }
        for what in ("allocated", "device")
    }
    facts = {"hardware": {"larger": larger["hardware"], "several": several["hardware"]}, "cells": cells}
    report = arms.report(
        "memory beyond one GPU, predicted with the current code", ("torch",), [], errors=errors, **facts
    )
    arms.write(RESULTS / "grid_again.json", report)
    for cell in cells:
        print(cell["cell"], cell["allocated_error"], cell["device_error"], cell["plan"], sep="  ")
    print(len(cells), "cells", json.dumps(errors))


def _again(measured: dict, capacity: int, batching: dict[str, str]) -> dict:
    """A cell of larger_gpu.json, predicted anew. batching: by shape, where it was recorded; else rows are packed."""
    import torch

    from playground.predict import phases
    from playground.predict.heaviest import predict_heaviest_step
    from playground.settings import Load, Lora, Settings, Train

    name, _, checkpointing = measured["arm"].partition(" checkpointing: ")
    shape, bits, gib, rows, count = name.split("/")
    load = Load(model=larger_gpu.SHAPES[shape], bits=int(bits), streamed_layers=count)
    train = Train(batch_size=int(rows), max_steps=larger_gpu.STEPS, compile="off")
    train = replace(train, gradient_checkpointing=checkpointing or "auto")
    settings = Settings(load=load, lora=Lora(r=random_models.RANK), train=train)
    examples = random_models.example_rows() * (int(rows) // random_models.BATCH)
    room = min(int(float(gib) * 2**30) or capacity, capacity)
    target = phases.Target("cuda", torch.bfloat16, room)
    config, mode = larger_gpu.config_of(shape), batching.get(shape, "rows")
    predicted: dict[str, Any] = predict_heaviest_step(config, settings, target, examples, mode)
    return _predicted(measured, predicted)


def _split_again(measured: dict, capacity: int) -> dict:
    """A cell of several_shapes.json whose weights of 16 bits FSDP2 itself splits over two GPUs."""
    import torch

    from playground.predict import phases
    from playground.predict.heaviest import predict_heaviest_step
    from playground.settings import Load, Lora, Settings, Train

    _, shape, bits, _ = measured["arm"].split("/")
    load = Load(model=larger_gpu.SHAPES[shape], bits=int(bits), streamed_layers="0")
    train = Train(batch_size=random_models.BATCH, max_steps=several_shapes.STEPS, compile="off")
    settings = Settings(load=load, lora=Lora(r=random_models.RANK), train=train)
    target = phases.Target("cuda", torch.bfloat16, capacity, 2, True)
    examples = random_models.example_rows()
    return _predicted(measured, predict_heaviest_step(larger_gpu.config_of(shape), settings, target, examples, "rows"))


def _predicted(measured: dict, predicted: dict) -> dict:
    plan = f"{predicted['checkpointing']}, {predicted['budget']} tokens; {measured['plan']} measured"
    peaks = {"predicted_gib": predicted["allocated"] / 2**30, "predicted_device_gib": predicted["device_used"] / 2**30}
    return measured | peaks | {"predicted_plan": plan}


def _with_errors(cell: dict) -> dict:
    """Errors in % of a cell's predictions."""
    return {
        "cell": cell["arm"],
        "plan": cell["predicted_plan"],
        "allocated_error": _error(cell["predicted_gib"], cell["allocated_gib"]),
        "device_error": _error(cell["predicted_device_gib"], cell["device_gib"]),
    }


def _error(predicted: float, measured: float) -> float:
    return round(100 * (predicted / measured - 1), 2)


if __name__ == "__main__":
    main()
