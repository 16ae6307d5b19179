"""What an arm of train_gpu.py does in its process: this program's fine-tune or the peer's, and its measurements."""

import argparse
import contextlib
import fcntl
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arms
import random_models
from gpu_arms import ARMS, Arm

PRODUCT_RATE = 790e12  # floating-point operations a second of large bf16 products, measured on an H100
RUNTIME_GIB = 0.3  # what CUDA and its libraries take once training runs, beyond what they took before


@contextlib.contextmanager
def exclusive_gpu(work: Path) -> Iterator[None]:
    """Use the GPU alone: wait until the process before has ended and its memory is free, which takes a moment."""
    with open(work / "turn", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for _ in range(150):
            if used_bytes() < 1.5 * 2**30:  # CUDA contexts of the processes that wait
                break
            time.sleep(0.1)
        yield


def process_seconds() -> float:
    """Seconds since this process began."""
    import psutil

    return round(time.time() - psutil.Process().create_time(), 2)


def _build_model(meta_model: Any, options: argparse.Namespace) -> tuple[Any, tuple[float, float], dict]:
    """The arm's model with random weights, its `operations_per_token`, and measurements of building it.

    Memory peaks are counted from here on.
    """
    from playground.memory.meter import hardware

    arm, device = ARMS[options.arm], "cpu" if options.toy else "cuda"
    before, began = used_bytes(), time.perf_counter()
    model = random_models.with_random_weights(meta_model, arm.bits, device, arm.kind)
    operations = random_models.operations_per_token(model, arm.lengths, arm.rank)
    start_counting(0 if options.toy else arm.gib)
    measurements = {
        "hardware": hardware(device),
        "device_before_gib": arms.gib(before),
        "build_s": round(time.perf_counter() - began, 2),
    }
    return model, operations, measurements


def train_ours(options: argparse.Namespace) -> dict:
    """The fine-tune as playground prepares and runs it."""
    from playground.model.load import LoadedModel
    from playground.settings import Lora, Settings, Train
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer

    arm = ARMS[options.arm]
    examples = random_models.example_rows(arm.labelled, arm.lengths)
    meta_model = random_models.meta_model(options.arm.split("/")[0], options.toy)
    imported = process_seconds()
    train = Train(
        batch_size=len(examples),
        max_steps=arm.steps + 3,
        lr=3e-4,
        schedule="constant",
        gradient_checkpointing=arm.checkpointing,
        max_tokens_per_micro_batch=arm.max_tokens,
        compile="on" if arm.compiled else "off",
    )
    with exclusive_gpu(options.work):
        compiled = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "whole")  # a mark that an earlier round has compiled
        first = "first_step_again_s" if arm.compiled and compiled.exists() else "first_step_s"
        model, (operations, recomputation), built = _build_model(meta_model, options)
        began = time.perf_counter()
        loaded = LoadedModel(model, SimpleNamespace(pad_token_id=random_models.PAD), model.device.type, model.dtype, "")
        trainer = prepare_trainer(
            loaded, Settings(lora=Lora(r=arm.rank), train=train), examples, [], Team(loaded.device)
        )
        trainer.plan.compiled = arm.compiled
        prepared = time.perf_counter()
        at, memory, notes = _run_steps(trainer, examples, train, arm.steps, options)
        if trainer.plan.compiled != arm.compiled:
            raise RuntimeError(f"not compiled: {notes}")
        compiled.parent.mkdir(parents=True, exist_ok=True)
        compiled.touch()
        policy, layers, step = trainer.plan.policy, range(len(trainer.layers.all)), median_interval(at[1:])
        delay = 0 if options.toy else step  # on CUDA a step is reported once the next one is under way
        return {
            **_rates(arm, step, operations + recomputation * sum(map(policy.recomputes, layers)) / len(layers)),
            **memory,
            first: round(at[0] - prepared - delay, 2),
            "dial": f"{policy.checkpointing} {policy.tokens}",
            "batching": trainer.batcher.mode,
            "notes": notes,
            "import_s": imported,
            "prepare_s": round(prepared - began, 2),
            **built,
        }


def _run_steps(
    trainer: Any, examples: list, train: Any, count: int, options: argparse.Namespace
) -> tuple[list[float], dict, str]:
    """Moments at which `count` steps were reported, peaks of memory until then, and the loop's notes.

    With --profile, one more step is profiled.
    """
    from peer import synchronize
    from torch.profiler import ProfilerActivity, profile

    from playground.train.loop import fine_tune

    at: list[float] = []
    notes: list[str] = []
    used, memory = 0, {}
    profiler = profile(activities=[ProfilerActivity.CPU] + ([] if options.toy else [ProfilerActivity.CUDA]))
    for event in fine_tune(trainer, examples, train, threading.Event()):
        if event["kind"] != "step":
            notes.append(f"{event['key']} {event['values']}")
            continue
        at.append(time.perf_counter())
        used = max(used, used_bytes())
        if event["step"] == count:
            memory = peaks(used)
            if not options.profile:
                break
        elif event["step"] == count + 1:
            profiler.start()
        elif event["step"] == count + 2:
            synchronize()
            profiler.stop()
            sort = "self_cpu_time_total" if options.toy else "self_cuda_time_total"
            options.profile.mkdir(parents=True, exist_ok=True)
            path = options.profile / f"{options.arm.replace('/', '-')}.txt"
            path.write_text(
                profiler.key_averages().table(sort_by=sort, row_limit=40, max_name_column_width=90), encoding="utf-8"
            )
    return at[:count], memory, "; ".join(notes)


def train_peer(options: argparse.Namespace) -> dict:
    """The same fine-tune with transformers.Trainer and PEFT."""
    import bitsandbytes  # noqa: F401  it and the trainer take long to import: not while the GPU waits
    from peer import hf_trainer
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from toys import make_tokenizer
    from transformers import Trainer  # noqa: F401  likewise

    from playground.model import adapt
    from playground.settings import Train

    arm, examples, tokenizer = ARMS[options.arm], random_models.example_rows(), make_tokenizer(False)
    meta_model = random_models.meta_model(options.arm.split("/")[0], options.toy)
    imported = process_seconds()
    train = Train(
        batch_size=random_models.BATCH,
        micro_batch_size=arm.peer_rows,
        max_steps=arm.steps,
        lr=3e-4,
        schedule="constant",
        warmup=0,
    )
    with exclusive_gpu(options.work), tempfile.TemporaryDirectory() as out:
        model, (operations, recomputation), built = _build_model(meta_model, options)
        began = time.perf_counter()
        model.config.use_cache = False
        lora_config = LoraConfig(
            r=random_models.RANK,
            lora_alpha=2 * random_models.RANK,
            target_modules=adapt.resolve_target_modules(model, "all-linear"),
            task_type="CAUSAL_LM",
        )
        if arm.checkpointing == "all":
            model = prepare_model_for_kbit_training(model)
        model = get_peft_model(model, lora_config)
        trainer, clock = hf_trainer(
            model, tokenizer, examples, train, out, {"pad_to_multiple_of": 8}, bf16=True, use_cpu=options.toy
        )
        prepared = time.perf_counter()
        trainer.train()
        return {
            **_rates(arm, median_interval(clock.at[2:]), operations + recomputation * (arm.checkpointing == "all")),
            **peaks(used_bytes()),
            "first_step_s": round(clock.at[1] - clock.at[0], 2),
            "dial": arm.checkpointing,
            "batching": f"padded, {arm.peer_rows} rows",
            "import_s": imported,
            "prepare_s": round(prepared - began, 2),
            **built,
        }


def median_interval(at: list[float]) -> float:
    """Median of the seconds between consecutive moments."""
    return statistics.median(after - now for now, after in pairwise(at))


def _rates(arm: Arm, step: float, operations: float) -> dict:
    """Speed of a step of that many seconds; operations: floating-point operations that a token needs at least."""
    speed = sum(arm.lengths) / step
    return {"tokens_per_s": round(speed, 1), "of_limit": round(speed * operations / PRODUCT_RATE, 4)}


def start_counting(max_gib: float = 0) -> None:
    """Reset memory peaks, and limit this process to `max_gib` of the GPU, its runtime included (0: no limit)."""
    import torch

    from playground.memory.release import release_memory

    release_memory()
    if not torch.cuda.is_available():
        return
    torch.cuda.reset_peak_memory_stats()
    if max_gib:
        total = torch.cuda.mem_get_info()[1]
        runtime = used_bytes() - torch.cuda.memory_reserved() + RUNTIME_GIB * 2**30
        torch.cuda.set_per_process_memory_fraction((max_gib * 2**30 - runtime) / total)


def used_bytes() -> int:
    """Bytes in use on the GPU, by whatever process; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def peaks(device: int) -> dict:
    """Peaks of this process in GiB, with the bytes that were in use on the GPU at most."""
    import torch

    if not torch.cuda.is_available():
        return dict.fromkeys(("allocated_gib", "reserved_gib", "reserved_over_allocated", "device_gib"))
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {
        "allocated_gib": arms.gib(allocated),
        "reserved_gib": arms.gib(reserved),
        "reserved_over_allocated": round(reserved / allocated, 3),
        "device_gib": arms.gib(device),
    }
