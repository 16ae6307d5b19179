"""Models of real shapes on several GPUs, quantized weights split over them: `several.py --shapes` runs these cells.

A cell is how/shape/bits/GiB of each GPU (0: all): "one" process, "ddp" (weights whole in each), "fsdp2" (split) or
"fsdp2_offload" (split, and waiting in main memory).
A fifth part is r, else 8: of the 70 billion shape in 24 GiB, r 8 is predicted to take 24.2.
Weights are random, made on each GPU layer by layer from the config, quantized there, and split. A step has 32 rows of
5,024 tokens in all, over all processes. Everything else as the program plans it by itself, on all linear layers. Of the
70 billion shape, the optimizer's moments have 8 bits: in float32 they take 0.6 GiB more.

tokens_per_s: of all processes, over the steps after the first two. stall: share of that time that the first GPU waited
for weights. away: largest difference of a step's loss from the one process's, in %. Peaks are those of the process that
took most: allocated by torch, reserved, and in use on its GPU (device). held: its packed bytes of the layers.
Predicted, as the program does it, once it was tried how the rows are batched.
"""

import fnmatch
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arms
import larger_gpu
import random_models
from train_gpu import LIBRARIES

CELLS = (
    "one/calm/4/0",
    "fsdp2/calm/4/0",
    "fsdp2/llama70b/4/24/4",
    "fsdp2/calm/8/0",
    "ddp/calm/4/0",
    "one/calm/8/0",
    "one/llama70b/4/0",
    "fsdp2/llama70b/4/0",
    "fsdp2/calm/16/0",
    "ddp/calm/16/0",
    "fsdp2_offload/calm/16/0",
)
TOY_CELLS = ("one/toy/4/0", "fsdp2/toy/4/0", "one/toy/8/0", "fsdp2/toy/8/0", "fsdp2/toy/16/0")
STEPS = 6
CELL_SECONDS = 150  # after which a cell is ended
ALL_SECONDS = 430  # after which no further cell is started
COLUMNS = {
    "tokens_per_s": "{:,.0f}",
    "stall": "{:.1%}",
    "away": "{:.3f} %",
    "plan": "{}",
    "held_gib": "{:.2f}",
    "allocated_gib": "{:.2f}",
    "predicted_gib": "{:.2f}",
    "reserved_gib": "{:.2f}",
    "device_gib": "{:.2f}",
    "predicted_device_gib": "{:.2f}",
    "load_gib": "{:.2f}",
    "predicted_load_gib": "{:.2f}",
    "main_gib": "{:.2f}",
    "predicted_main_gib": "{:.2f}",
}


def measure_all(device: str, patterns: list[str], out: Path) -> None:
    """Run the cells that match, each in new processes, and write what is there after each."""
    import torch

    processes = max(2, torch.cuda.device_count()) if device == "cuda" else 2
    began, rounds = time.perf_counter(), []
    for name in CELLS if device == "cuda" else TOY_CELLS:
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        started = time.perf_counter()
        if started - began > ALL_SECONDS:
            print(f"no time left for {name}", file=sys.stderr, flush=True)
            continue
        result = arms.attempt(lambda name=name: _run_cell(name, device, processes))
        rounds.append({"arm": name, "round": 1, **result, "cell_s": round(time.perf_counter() - started, 1)})
        _compare_losses(rounds)
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
        _write(out, rounds, processes=processes)
    from playground.memory.meter import hardware  # takes memory on the first GPU

    _write(out, rounds, processes=processes, hardware=hardware(device))
    print(arms.table({r["arm"]: arms.medians([r]) for r in rounds}, COLUMNS) + arms.failures(rounds))


def _write(out: Path, rounds: list[dict], **facts: Any) -> None:
    arms.write(out, arms.report("models of real shapes on several GPUs", LIBRARIES, rounds, **facts))


def _run_cell(name: str, device: str, processes: int) -> dict:
    how = name.split("/")[0]
    launcher = [sys.executable]
    if how != "one":
        launcher += ["-m", "accelerate.commands.launch", "--num_processes", str(processes)]
        launcher += ["--config_file", f"assets/accelerate/{how}.yaml"]
    process = subprocess.Popen(
        [*launcher, __file__, name, device],
        cwd=arms.PROJECT,
        env=os.environ | ({"CUDA_VISIBLE_DEVICES": "0"} if how == "one" else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=CELL_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {output[-300:]} {errors[-1600:]}")
    return json.loads(output.strip().splitlines()[-1])


def _compare_losses(rounds: list[dict]) -> None:
    """Add the last cell's difference from one process's losses of the same shape and bits."""
    last = rounds[-1]
    shape = last["arm"].split("/")[1:3]
    single = next((r for r in rounds if r["arm"].split("/")[:3] == ["one", *shape] and "losses" in r), None)
    if single and "losses" in last:
        pairs = zip(map(float, last["losses"].split()), map(float, single["losses"].split()))
        last["away"] = round(max(100 * abs(several / one - 1) for several, one in pairs), 4)


def measure_cell(name: str, device: str) -> None:
    """One of a cell's processes: predict and measure; the main process prints the result as its last line."""
    from playground.memory.card_limit import limit_cuda_memory
    from playground.settings import Load, Lora, Settings, Train
    from playground.train.parallel import Team

    _, shape, bits, gib, *rank = name.split("/")
    load = Load(model=larger_gpu.SHAPES[shape], bits=int(bits), simulate_gpu_gib=float(gib), streamed_layers="0")
    optimizer = "adamw8bit" if shape == "llama70b" else "adamw"
    train = Train(batch_size=random_models.BATCH, max_steps=STEPS, compile="off", optimizer=optimizer)
    settings = Settings(load=load, lora=Lora(r=int(rank[0]) if rank else random_models.RANK), train=train)
    config, examples, team = larger_gpu.config_of(shape), random_models.example_rows(), Team(device, load.bits)
    with limit_cuda_memory(load, device, team.size):
        measured = _measure(config, settings, examples, team)
    everyone: list[Any] = [measured]
    if team.size > 1:
        import torch

        everyone = [None] * team.size
        torch.distributed.all_gather_object(everyone, measured)
    for key in [key for key in measured if key.endswith("_gib")]:
        measured[key] = max(one[key] for one in everyone)
    if team.main:
        print(json.dumps(measured), flush=True)
    team.leave()


def _predict(config: Any, settings: Any, examples: list, team: Any, batching: str | None) -> dict:
    import torch

    from playground.memory.card_limit import capacity
    from playground.predict import phases
    from playground.predict.heaviest import predict_heaviest_step

    room = capacity(settings.load, team.device)
    target = phases.Target(team.device, torch.bfloat16, room, team.size, team.sharded, team.offloads)
    tuned = predict_heaviest_step(config, settings, target, examples, batching)
    loaded = phases.predict_load(config, settings, replace(target, capacity=0))
    return {
        "predicted_gib": arms.gib(tuned["allocated"]),
        "predicted_device_gib": arms.gib(tuned["need"]),
        "predicted_load_gib": arms.gib(loaded["allocated"]),
        **({"predicted_main_gib": arms.gib(tuned["main_memory"])} if "main_memory" in tuned else {}),
        "predicted_plan": f"{tuned['checkpointing']}, {tuned['budget']} tokens",
    }


def _measure(config: Any, settings: Any, examples: list, team: Any) -> dict:
    import psutil
    import torch
    from peer import synchronize

    from playground.model.load import LoadedModel
    from playground.train.loop import fine_tune
    from playground.train.prepare import prepare_trainer, try_batching

    on_cuda, began = team.device == "cuda", time.perf_counter()
    network, split = larger_gpu.build(config, settings.load, team.device, team.shares())
    result: dict[str, Any] = {"build_s": round(time.perf_counter() - began, 1)}
    if on_cuda:
        result["load_gib"] = arms.gib(torch.cuda.max_memory_allocated())
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    tokenizer = SimpleNamespace(pad_token_id=random_models.PAD)
    loaded = LoadedModel(network, tokenizer, team.device, torch.bfloat16, "", split=split)
    # as the engine does: once it was tried how rows are batched, but for what FSDP2 itself splits
    batching = None if team.splits_numbers else try_batching(loaded, examples, []).mode
    result |= _predict(config, settings, examples, team, batching) | ({"batching": batching} if batching else {})
    trainer, ends, losses = prepare_trainer(loaded, settings, examples, [], team), [], []
    for event in fine_tune(trainer, examples, settings.train, threading.Event()):
        if event["kind"] != "step":
            continue
        synchronize()
        ends.append(time.perf_counter())
        losses.append(event["loss"])
        if len(ends) == 2 and split:
            split.take_stall()
    between = len(ends) - (2 if on_cuda else 1) - 1  # the last report on CUDA waits for no further step
    seconds, policy = ends[-1] - ends[1], trainer.plan.policy
    result |= {
        "tokens_per_s": round(sum(len(e.ids) for e in examples) / (seconds / between)),
        "stall": round(split.take_stall() / seconds, 4) if split else 0.0,
        "plan": f"{policy.checkpointing}, {policy.tokens} tokens",
        "losses": " ".join(map(str, losses)),
        "held_gib": arms.gib(split.bytes) if split else 0.0,
        "main_gib": arms.gib(psutil.Process().memory_info().rss),
    }
    if on_cuda:
        result |= larger_gpu.peaks_on_gpu()
    return result


if __name__ == "__main__":
    measure_cell(sys.argv[1], sys.argv[2])
