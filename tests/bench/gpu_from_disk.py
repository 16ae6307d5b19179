"""Arms of train_gpu.py on a model that lies on disk: Unsloth's, and seconds from the start of a process to 50 steps."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import arms
import random_models
from gpu_arms import ARMS, UNSLOTH_WALL, WALL
from gpu_training import exclusive_gpu, median_interval, peaks, process_seconds, start_counting, used_bytes


def save_model(shape: str, options: argparse.Namespace) -> dict:
    """Write the shape in bf16, a tokenizer, and rows of about the usual lengths into a folder of --disk."""
    import random

    from toys import make_tokenizer

    from playground.data.template import Template, Turn

    tokenizer, draw = make_tokenizer(False), random.Random(0)
    folder = options.disk / shape
    meta_model = random_models.meta_model(shape, options.toy)
    model = random_models.with_random_weights(meta_model, 16, "cpu" if options.toy else "cuda")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    overhead = len(Template("talk", tokenizer).ids([Turn("")]))  # tokens of the prompt without the instruction
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for length in random_models.LENGTHS * 50:
            split = max(1, round(length * (1 - random_models.LABELLED)) - overhead)
            # one token a letter, and one more for the end
            letters = "".join(draw.choice("BCDFGJKQVXYZ") for _ in range(length - overhead - 1))
            file.write(json.dumps({"instruction": letters[:split], "output": letters[split:]}) + "\n")
    return {}


def train_unsloth(shape: str, options: argparse.Namespace) -> dict:
    """Steps of Unsloth over packed rows, on the model that --disk holds."""
    import unsloth_peer

    arm, counted = ARMS[options.arm], 16 if not options.toy else 2
    with exclusive_gpu(options.work):
        before, began = used_bytes(), time.perf_counter()
        steps = arm.steps if not options.toy else 4
        trainer, clock, tokens = unsloth_peer.trainer(
            options.disk / shape,
            shape,
            16 if options.toy else arm.bits,
            arm.checkpointing == "all",
            random_models.LENGTHS,
            steps,
            random_models.RANK,
        )
        if tokens < unsloth_peer.PACKED_ROWS / 2 and not options.toy:  # on a CPU its trainer packs nothing
            raise RuntimeError(f"rows weren't packed: {tokens:.0f} tokens a step")
        prepared = time.perf_counter()
        start_counting()
        trainer.train()
        wall = {"wall_50_s": process_seconds()} if options.arm == UNSLOTH_WALL else {}
        return {
            **wall,
            "tokens_per_s": round(tokens / median_interval(clock.at[-counted - 1 :]), 1),
            **peaks(used_bytes()),
            "device_before_gib": arms.gib(before),
            "first_step_s": round(clock.at[1] - clock.at[0], 2),
            "dial": arm.checkpointing,
            "batching": f"packed, {tokens:,.0f} tokens a step",
            "prepare_s": round(prepared - began, 2),  # its import and its loading from disk too
        }


def time_wall(options: argparse.Namespace) -> dict:
    """Seconds from the start of `playground tune` until each stage, read from its run's events."""
    from playground.runs import Run

    folder = options.disk / WALL.split("/")[0]
    flags = {
        "model": folder,
        "bits": 4,
        "source": folder / "rows.jsonl",
        "prompt-format": "talk",
        "held-out": 0,
        "max-seq-length": 256,
        "batch-size": random_models.BATCH,
        "max-steps": 50,
        "r": random_models.RANK,
        "lora-layers": 0,
        "lr": 3e-4,
        "device": "cpu" if options.toy else "cuda",
    }
    with tempfile.TemporaryDirectory() as runs:
        command = [
            sys.executable,
            "-m",
            "playground",
            "tune",
            "--runs",
            runs,
            *(part for name, value in flags.items() for part in (f"--{name}", str(value))),
        ]
        began = time.time()
        run = Run(Path(runs) / arms.last_line(command)["run"])
        events, since = list(run.events()), run.began() - began
    phases = {e["name"]: e["t"] for e in events if e["kind"] == "phase"}
    steps = {e["step"]: e for e in events if e["kind"] == "step"}
    reached = {
        "started": 0,
        "read": phases["load"],
        "loaded": phases["prepare"],
        "prepared": phases["train"],
        "step_1": steps[1]["t"],
        "wall_50": steps[50]["t"],
    }
    notes = [f"{e['key']} {e['values']}" for e in events if e["kind"] == "note"]
    reached = {f"{name}_s": round(since + t, 2) for name, t in reached.items()}
    return {"hardware": events[0]["hardware"], **reached, "tokens": steps[50]["tokens"], "notes": "; ".join(notes)}
