"""Compare speed and memory of training 7B shapes on one GPU with transformers.Trainer + PEFT.

    python tests/bench/train_gpu.py                           # one round of everything; about 7 minutes on an H100
    python tests/bench/train_gpu.py --only 'calm/nf4*' --rounds 3 --profile profiles
    python tests/bench/train_gpu.py --only '*wall*' --disk /tmp/models
    python tests/bench/train_gpu.py --only '*unsloth*' --only '*-labelled' --disk /tmp/models
    python tests/bench/train_gpu.py --toy                     # does every arm run? tiny, on the CPU

Arms are named shape/arm: calm is OpenCALM-7B, llama is Llama-2-7B, both with random weights, which cost what trained
ones do. Every step takes the same 32 rows: 5,024 tokens, at most 256 a row, 60 % of each labelled. r 8, all linear
layers.
  bf16, nf4, int8,  playground's own fine-tune. -off, -all: how many layers are checkpointed; -22GiB, -7GiB: the process
  fp8, *-fast       may take that much of the GPU, its runtime included, and picks the rest itself; -compiled: layers
                    are compiled
  peer-*-talk       alpaca-lora's recipe: 4 rows at once x 8, prepare_model_for_kbit_training and its checkpointing
  peer-*-best       the peer's fastest flags: 32 rows at once, no checkpointing
  unsloth-*         Unsloth's recommended way: trl's SFTTrainer, rows packed to at most 5,100 tokens, all of them
                    labelled, its compiling; -all: its checkpointing. 30 steps, the last 16 are counted. Needs --disk
  *-labelled        playground's own with all tokens labelled too
  wall-50           `python -m playground tune` on weights and rows on disk, nf4, default settings: seconds from the
                    start of the process to 50 trained steps. Only with --disk

Every arm has a new process. Processes are started ahead and import side by side, so import_s is longer than alone; one
at a time uses the GPU. tokens_per_s: the median over the steps, the first two left out. first_step_s: from the start of
training to the end of its first step, compiled from nothing; first_step_again_s: in a later round, from the compiler's
cache. of_limit: tokens_per_s over what the layers' multiplications alone allow at 790 TFLOP/s. Peaks are torch's,
counted once the model is made; device_gib: everything in use on the GPU, device_before_gib: before the model. "dial" in
results is the checkpointing and the tokens of a micro-batch. A failed arm stays in the table.
"""

import argparse
import contextlib
import fcntl
import fnmatch
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arms
import random_models

PRODUCT_RATE = 790e12  # floating-point operations a second of large bf16 products, measured on an H100
RUNTIME_GIB = 0.3  # what CUDA and its libraries take once training runs, beyond what they took before
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "unsloth", "trl")
COLUMNS = {
    "tokens_per_s": "{:,.0f}",
    "of_limit": "{:.0%}",
    "first_step_s": "{:.1f}",
    "first_step_again_s": "{:.1f}",
    "allocated_gib": "{:.2f}",
    "reserved_gib": "{:.2f}",
    "reserved_over_allocated": "{:.2f}",
    "device_gib": "{:.2f}",
    "dial": "{}",
    "batching": "{}",
    "import_s": "{:.1f}",
    "build_s": "{:.1f}",
    "prepare_s": "{:.1f}",
    "wall_50_s": "{:.1f}",
}


@dataclass(frozen=True)
class Arm:
    """One configuration that is measured."""

    bits: int
    checkpointing: str = "auto"
    compiled: bool = False
    gib: float = 0  # of the GPU's memory at most; 0: all
    max_tokens: int = 0  # of a micro-batch; 0: as many as fit
    peer_rows: int = 0  # rows at once, for an arm of the peer; 0: an arm of ours
    steps: int = 8
    unsloth: bool = False  # an arm of Unsloth
    labelled: float = random_models.LABELLED  # share of a row's tokens
    kind: str = ""  # "fp8" or "int8-fast" rather than int8 at 8 bits, "nf4-fast" rather than nf4 at 4 bits


OURS = {
    "bf16-off": Arm(16, "off"),
    "bf16-off-compiled": Arm(16, "off", True),
    "nf4-off": Arm(4, "off"),
    "nf4-off-compiled": Arm(4, "off", True),
    "nf4-all": Arm(4, "all"),
    "nf4-all-compiled": Arm(4, "all", True),
    "nf4-22GiB": Arm(4, gib=22),
    "nf4-22GiB-compiled": Arm(4, compiled=True, gib=22),
    "nf4-7GiB": Arm(4, gib=7),
    "int8-all": Arm(8, "all"),
    "fp8-off": Arm(8, "off", kind="fp8"),
    "fp8-off-compiled": Arm(8, "off", True, kind="fp8"),
    "fp8-all": Arm(8, "all", kind="fp8"),
    "fp8-all-compiled": Arm(8, "all", True, kind="fp8"),
    "int8-fast-off": Arm(8, "off", kind="int8-fast"),
    "int8-fast-off-compiled": Arm(8, "off", True, kind="int8-fast"),
    "int8-fast-all": Arm(8, "all", kind="int8-fast"),
    "nf4-fast-off": Arm(4, "off", kind="nf4-fast"),
    "nf4-fast-off-compiled": Arm(4, "off", True, kind="nf4-fast"),
    "nf4-fast-all": Arm(4, "all", kind="nf4-fast"),
    "nf4-fast-all-compiled": Arm(4, "all", True, kind="nf4-fast"),
    "nf4-off-labelled": Arm(4, "off", labelled=1),
    "nf4-off-compiled-labelled": Arm(4, "off", True, labelled=1),
    "nf4-all-labelled": Arm(4, "all", labelled=1),
    "nf4-all-compiled-labelled": Arm(4, "all", True, labelled=1),
    "nf4-offload-labelled": Arm(4, "offload", labelled=1),
    "nf4-fast-all-labelled": Arm(4, "all", labelled=1, kind="nf4-fast"),
    "nf4-fast-offload-labelled": Arm(4, "offload", labelled=1, kind="nf4-fast"),
    "nf4-fast-offload-compiled-labelled": Arm(4, "offload", True, labelled=1, kind="nf4-fast"),
    "nf4-fast-off-labelled": Arm(4, "off", labelled=1, kind="nf4-fast"),
    "unsloth-nf4-off": Arm(4, "off", unsloth=True, steps=30),
    "unsloth-nf4-all": Arm(4, "all", unsloth=True, steps=30),
}
PEERS = {
    "peer-int8-talk": Arm(8, "all", peer_rows=4, steps=4),
    "peer-nf4-talk": Arm(4, "all", peer_rows=4, steps=4),
    "peer-bf16-best": Arm(16, "off", peer_rows=32),
    "peer-nf4-best": Arm(4, "off", peer_rows=32),
}
ARMS = {f"{shape}/{name}": arm for shape in random_models.SHAPES for name, arm in OURS.items()} | {
    f"calm/{name}": arm for name, arm in PEERS.items()
}
WALL = "calm/wall-50"
SAVE = "save"  # a shape's process that writes its model to --disk


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="arms whose name matches, such as 'calm/nf4*'; may be given several times",
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/train_gpu.json")
    parser.add_argument("--add", action="store_true", help="add these rounds to those that --out holds already")
    parser.add_argument(
        "--profile", type=Path, metavar="DIR", help="write where the time of one more step goes, for each arm of ours"
    )
    parser.add_argument("--disk", type=Path, metavar="DIR", help=f"a folder with room for 14 GB, which {WALL} needs")
    parser.add_argument("--ahead", type=int, default=6, help="processes that import side by side")
    parser.add_argument("--toy", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--arm", help=argparse.SUPPRESS)  # what an arm's own process is started with
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.toy:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if options.arm:
        print(json.dumps(run_arm(options)))
        return
    names = [
        name
        for name in (
            *(name for name in ARMS if options.disk or not ARMS[name].unsloth),
            *([WALL] if options.disk else []),
        )
        if not options.only or any(fnmatch.fnmatchcase(name, p) for p in options.only)
    ]
    add = options.add and options.out.exists()
    before = json.loads(options.out.read_text(encoding="utf-8")) if add else {"rounds": []}
    rounds, hardware = before["rounds"], before.get("hardware")
    first, report = 1 + max((r["round"] for r in rounds), default=0), None
    with tempfile.TemporaryDirectory() as work:
        for number, name, measured in measurements(names, options, Path(work)):
            hardware = measured.pop("hardware", hardware)
            rounds.append({"round": first + number, "arm": name} | measured)
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
            report = arms.report(
                "fine-tuning on one card, random weights",
                LIBRARIES,
                rounds,
                hardware=hardware,
                toy=options.toy,
                lengths=random_models.LENGTHS,
            )
            arms.write(options.out, report)
    if not report:
        parser.error(f"no such arm; there are {', '.join((*ARMS, WALL))}")
    print(f"\n{hardware and hardware['name']}\n\n{arms.table(report['medians'], COLUMNS)}\n{arms.failures(rounds)}")
    sys.exit(any("failed" in r for r in rounds))


def measurements(
    names: list[str], options: argparse.Namespace, work: Path
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(round, arm, measurements) as arms end: every other round backwards; the arm that must run alone last."""

    def run(name: str) -> dict:
        command = [sys.executable, __file__, "--arm", name, "--work", str(work), *(["--toy"] if options.toy else [])]
        command += ["--profile", str(options.profile.resolve())] if options.profile else []
        command += ["--disk", str(options.disk)] if options.disk else []
        cache = work / "compiled" / name  # separate for each arm, so that its first round compiles from nothing
        ours = not (ARMS[name].peer_rows or ARMS[name].unsloth)
        allocator = f"expandable_segments:{ours}"  # the peers use torch's default
        env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTORCH_ALLOC_CONF": allocator}
        return arms.attempt(lambda: arms.last_line(command, env))

    if options.disk:
        for shape in {name.split("/")[0] for name in names if name == WALL or ARMS[name].unsloth}:
            command = [sys.executable, __file__, "--arm", f"{shape}/{SAVE}", "--disk", str(options.disk)]
            arms.last_line([*command, *(["--toy"] if options.toy else [])])
    with ThreadPoolExecutor(options.ahead) as pool:
        started = {}
        for number in range(options.rounds):
            for name in names[:: -1 if number % 2 else 1]:
                if name != WALL:
                    started[pool.submit(run, name)] = number, name
        for done in as_completed(started):
            number, name = started[done]
            yield number, name, done.result()
    if WALL in names:
        for number in range(options.rounds):
            yield number, WALL, arms.attempt(lambda: time_wall(options))


def run_arm(options: argparse.Namespace) -> dict:
    """Run one arm in this process."""
    shape, name = options.arm.split("/")
    if name == SAVE:
        return save_model(shape, options)
    if ARMS[options.arm].unsloth:
        return train_unsloth(shape, options)
    return train_peer(options) if ARMS[options.arm].peer_rows else train_ours(options)


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


def _process_seconds() -> float:
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
    operations = random_models.operations_per_token(model)
    _start_counting(0 if options.toy else arm.gib)
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
    examples = random_models.example_rows(arm.labelled)
    meta_model = random_models.meta_model(options.arm.split("/")[0], options.toy)
    imported = _process_seconds()
    train = Train(
        batch_size=random_models.BATCH,
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
            loaded, Settings(lora=Lora(r=random_models.RANK), train=train), examples, [], Team(loaded.device)
        )
        trainer.plan.compiled = arm.compiled
        prepared = time.perf_counter()
        at, memory, notes = _run_steps(trainer, examples, train, arm.steps, options)
        if trainer.plan.compiled != arm.compiled:
            raise RuntimeError(f"not compiled: {notes}")
        compiled.parent.mkdir(parents=True, exist_ok=True)
        compiled.touch()
        policy, layers, step = trainer.plan.policy, range(len(trainer.layers.all)), _median_interval(at[1:])
        delay = 0 if options.toy else step  # on CUDA a step is reported once the next one is under way
        return {
            **_rates(step, operations + recomputation * sum(map(policy.recomputes, layers)) / len(layers)),
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
            memory = _peaks(used)
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
    imported = _process_seconds()
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
            **_rates(_median_interval(clock.at[2:]), operations + recomputation * (arm.checkpointing == "all")),
            **_peaks(used_bytes()),
            "first_step_s": round(clock.at[1] - clock.at[0], 2),
            "dial": arm.checkpointing,
            "batching": f"padded, {arm.peer_rows} rows",
            "import_s": imported,
            "prepare_s": round(prepared - began, 2),
            **built,
        }


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
        _start_counting()
        trainer.train()
        return {
            "tokens_per_s": round(tokens / _median_interval(clock.at[-counted - 1 :]), 1),
            **_peaks(used_bytes()),
            "device_before_gib": arms.gib(before),
            "first_step_s": round(clock.at[1] - clock.at[0], 2),
            "dial": arm.checkpointing,
            "batching": f"packed, {tokens:,.0f} tokens a step",
            "prepare_s": round(prepared - began, 2),  # its import and its loading from disk too
        }


def _median_interval(at: list[float]) -> float:
    """Median of the seconds between consecutive moments."""
    return statistics.median(after - now for now, after in pairwise(at))


def _rates(step: float, operations: float) -> dict:
    """Speed of a step of that many seconds; operations: floating-point operations that a token needs at least."""
    speed = sum(random_models.LENGTHS) / step
    return {"tokens_per_s": round(speed, 1), "of_limit": round(speed * operations / PRODUCT_RATE, 4)}


def _start_counting(max_gib: float = 0) -> None:
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


def _peaks(device: int) -> dict:
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


if __name__ == "__main__":
    main()
