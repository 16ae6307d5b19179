"""The fine-tune on one card: speed and memory on the shapes of 7 B models, beside transformers.Trainer + PEFT.

    python tests/bench/train_gpu.py                           # one round of everything; about 7 minutes on an H100
    python tests/bench/train_gpu.py --only 'calm/nf4*' --rounds 3 --profile profiles
    python tests/bench/train_gpu.py --only '*wall*' --disk /tmp/models
    python tests/bench/train_gpu.py --toy                     # does every arm run? tiny, on the CPU; its numbers mean nothing

Arms are named shape/arm: calm is OpenCALM-7B, llama is Llama-2-7B, both with random weights, which cost what trained
ones do. Every step takes the same 32 rows: 5,024 tokens, at most 256 a row, 60 % of each labelled. r 8, all linear layers.
  bf16, nf4, int8   playground's own fine-tune. -off, -all: how many layers are computed twice; -22GiB, -7GiB: the process
                    may take that much of the card, its runtime included, and picks the rest itself; -compiled: layers are
  peer-*-talk       alpaca-lora's recipe: 4 rows at once × 8, prepare_model_for_kbit_training and its checkpointing
  peer-*-best       the peer's fastest flags: 32 rows at once, no checkpointing
  wall-50           `python -m playground tune` on weights and rows on disk, nf4, all by default: seconds from the start of
                    the process to 50 trained steps. Only with --disk

Every arm has a fresh process. Processes are started ahead and import side by side, so import_s is longer than by itself;
the card belongs to one at a time. tokens_per_s: the median over the steps, the first two left out.
first_step_s: from the start of training to the end of its first step, compiled from nothing; first_step_again_s: in a later
round, from the compiler's cache. of_limit: tokens_per_s over what the layers' multiplications alone allow at 790 TFLOP/s.
Peaks are torch's from the made model on; device_gib: all that is in use on the card, device_before_gib: before the model. A failed arm stays in the table.
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
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import arms  # beside this file

RATE = 790e12  # floating-point operations a second that an H100 was seen to do on large bf16 products
RUNTIME = 0.3  # GiB that CUDA and its libraries take once training runs, beyond what they have by then
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")
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
    """bits a weight; dial: checkpointing; gib: of the card at most (0: all); peer: rows at once, if it is the peer's."""

    bits: int
    policy: str = "auto"
    compiled: bool = False
    gib: float = 0
    tokens: int = 0  # of a micro-batch at most; 0: as many as fit
    peer: int = 0
    steps: int = 8


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
}
PEERS = {
    "peer-int8-talk": Arm(8, "all", peer=4, steps=4),
    "peer-nf4-talk": Arm(4, "all", peer=4, steps=4),
    "peer-bf16-best": Arm(16, "off", peer=32),
    "peer-nf4-best": Arm(4, "off", peer=32),
}
ARMS = {f"{shape}/{name}": arm for shape in arms.SHAPES for name, arm in OURS.items()} | {
    f"calm/{name}": arm for name, arm in PEERS.items()
}
WALL = "calm/wall-50"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
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
    asked = parser.parse_args()
    if asked.toy:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if asked.arm:
        print(
            json.dumps(save_model(asked) if asked.arm == WALL else peer(asked) if ARMS[asked.arm].peer else ours(asked))
        )
        return
    names = [
        name
        for name in (*ARMS, *([WALL] if asked.disk else []))
        if not asked.only or any(fnmatch.fnmatchcase(name, p) for p in asked.only)
    ]
    before = json.loads(asked.out.read_text(encoding="utf-8")) if asked.add and asked.out.exists() else {"rounds": []}
    rounds, hardware = before["rounds"], before.get("hardware")
    first, found = 1 + max((r["round"] for r in rounds), default=0), None
    with tempfile.TemporaryDirectory() as work:
        for number, name, measured in measurements(names, asked, Path(work)):
            hardware = measured.pop("hardware", hardware)
            rounds.append({"round": first + number, "arm": name} | measured)
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
            found = arms.report(
                "fine-tuning on one card, random weights",
                LIBRARIES,
                rounds,
                hardware=hardware,
                toy=asked.toy,
                lengths=arms.LENGTHS,
            )
            arms.write(asked.out, found)
    if not found:
        parser.error(f"no such arm; there are {', '.join((*ARMS, WALL))}")
    print(f"\n{hardware and hardware['name']}\n\n{arms.table(found['medians'], COLUMNS)}\n{arms.failures(rounds)}")
    sys.exit(any("failed" in r for r in rounds))


def measurements(names: list[str], asked, work: Path):
    """(round, arm, what it measured), as they end: all rounds, every other one backwards; what has to be alone last."""

    def one(name: str) -> dict:
        command = [sys.executable, __file__, "--arm", name, "--work", str(work), *(["--toy"] if asked.toy else [])]
        command += ["--profile", str(asked.profile.resolve())] if asked.profile else []
        cache = work / "compiled" / name  # an arm's own, so that its first round compiles from nothing
        allocator = f"expandable_segments:{not ARMS[name].peer}"  # the peer's is torch's default
        return arms.attempt(
            lambda: arms.last_line(
                command, os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTORCH_ALLOC_CONF": allocator}
            )
        )

    with ThreadPoolExecutor(asked.ahead) as pool:
        alone = {}
        for number in range(asked.rounds):
            for name in names[:: -1 if number % 2 else 1]:
                if name != WALL:
                    alone[pool.submit(one, name)] = number, name
        for done in as_completed(alone):
            yield *alone[done], done.result()
    if WALL in names:
        made = arms.attempt(
            lambda: arms.last_line(
                [sys.executable, __file__, "--arm", WALL, "--disk", str(asked.disk), *(["--toy"] if asked.toy else [])]
            )
        )
        for number in range(asked.rounds):
            yield number, WALL, made if "failed" in made else made | arms.attempt(lambda: wall(asked))


# --- an arm's own process ---


@contextlib.contextmanager
def turn(work: Path):
    """Within it, the card belongs to this process: the one before has given back what it held, which takes it a moment."""
    with open(work / "turn", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for _ in range(150):
            if _in_use() < 1.5 * 2**30:  # contexts of those that wait
                break
            time.sleep(0.1)
        yield


def _age() -> float:
    """Seconds since this process began."""
    import psutil

    return round(time.time() - psutil.Process().create_time(), 2)


def _made(shape, asked) -> tuple:
    """The arm's model, to be trained from here on; the work of it, as `arms.work_of` says; and what making it took."""
    from playground.memory.meter import hardware

    arm, device, before, began = ARMS[asked.arm], "cpu" if asked.toy else "cuda", _in_use(), time.perf_counter()
    model = arms.made_up(shape, arm.bits, device)
    work = arms.work_of(model)
    _from_here(0 if asked.toy else arm.gib)
    return (
        model,
        work,
        {
            "hardware": hardware(device),
            "device_before_gib": arms.gib(before),
            "build_s": round(time.perf_counter() - began, 2),
        },
    )


def ours(asked) -> dict:
    """The fine-tune as playground prepares and runs it."""
    from playground.model.load import LoadedModel
    from playground.settings import Lora, Settings, Train
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer

    arm, examples, shape, imported = (
        ARMS[asked.arm],
        arms.rows(),
        arms.shape_of(asked.arm.split("/")[0], asked.toy),
        _age(),
    )
    train = Train(
        batch_size=arms.BATCH,
        max_steps=arm.steps + 3,
        lr=3e-4,
        schedule="constant",
        gradient_checkpointing=arm.policy,
        max_tokens_per_micro_batch=arm.tokens,
        compile="on" if arm.compiled else "off",
    )
    with turn(asked.work):
        compiled = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "whole")  # is there once it is
        first = "first_step_again_s" if arm.compiled and compiled.exists() else "first_step_s"
        model, (needed, again), facts = _made(shape, asked)
        began = time.perf_counter()
        loaded = LoadedModel(model, SimpleNamespace(pad_token_id=arms.PAD), model.device.type, model.dtype, "")
        trainer = prepare_trainer(
            loaded, Settings(lora=Lora(r=arms.RANK), train=train), examples, [], Team(loaded.device)
        )
        trainer.plan.compiled = arm.compiled
        prepared = time.perf_counter()
        at, memory, notes = _steps(trainer, examples, train, arm.steps, asked)
        if trainer.plan.compiled != arm.compiled:
            raise RuntimeError(f"it was not compiled: {notes}")
        compiled.parent.mkdir(parents=True, exist_ok=True)
        compiled.touch()
        policy, layers, step = trainer.plan.policy, range(len(trainer.layers.all)), _typical(at[1:])
        told_late = 0 if asked.toy else step  # on CUDA a step's loss is asked for once the next one is under way
        return {
            **_rates(step, needed + again * sum(map(policy.recomputes, layers)) / len(layers)),
            **memory,
            first: round(at[0] - prepared - told_late, 2),
            "dial": f"{policy.checkpointing} {policy.tokens}",
            "batching": trainer.batcher.mode,
            "notes": notes,
            "import_s": imported,
            "prepare_s": round(prepared - began, 2),
            **facts,
        }


def _steps(trainer, examples, train, count: int, asked) -> tuple[list[float], dict, str]:
    """When each of `count` steps was told of, the memory until then, and what the loop noted; then a step for the profile."""
    from torch.profiler import ProfilerActivity, profile

    from playground.train.loop import fine_tune

    at, most, memory, notes = [], 0, {}, []
    watching = profile(activities=[ProfilerActivity.CPU] + ([] if asked.toy else [ProfilerActivity.CUDA]))
    for event in fine_tune(trainer, examples, train, threading.Event()):
        if event["kind"] != "step":
            notes.append(f"{event['key']} {event['values']}")
            continue
        at.append(time.perf_counter())
        most = max(most, _in_use())
        if event["step"] == count:
            memory = _peaks(most)
            if not asked.profile:
                break
        elif event["step"] == count + 1:
            watching.start()
        elif event["step"] == count + 2:
            arms.wait()
            watching.stop()
            sort = "self_cpu_time_total" if asked.toy else "self_cuda_time_total"
            asked.profile.mkdir(parents=True, exist_ok=True)
            path = asked.profile / f"{asked.arm.replace('/', '-')}.txt"
            path.write_text(
                watching.key_averages().table(sort_by=sort, row_limit=40, max_name_column_width=90), encoding="utf-8"
            )
    return at[:count], memory, "; ".join(notes)


def peer(asked) -> dict:
    """The same through transformers.Trainer and PEFT."""
    import bitsandbytes  # noqa: F401  it and the trainer take long to import: not while the card waits
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from toys import make_tokenizer
    from transformers import Trainer  # noqa: F401  likewise

    from playground.model import adapt
    from playground.settings import Train

    arm, examples, shape, tokenizer, imported = (
        ARMS[asked.arm],
        arms.rows(),
        arms.shape_of(asked.arm.split("/")[0], asked.toy),
        make_tokenizer(False),
        _age(),
    )
    train = Train(
        batch_size=arms.BATCH, micro_batch_size=arm.peer, max_steps=arm.steps, lr=3e-4, schedule="constant", warmup=0
    )
    with turn(asked.work), tempfile.TemporaryDirectory() as out:
        model, (needed, again), facts = _made(shape, asked)
        began = time.perf_counter()
        model.config.use_cache = False
        wanted = LoraConfig(
            r=arms.RANK,
            lora_alpha=2 * arms.RANK,
            target_modules=adapt.resolve_target_modules(model, "all-linear"),
            task_type="CAUSAL_LM",
        )
        if arm.policy == "all":
            model = prepare_model_for_kbit_training(model)
        model = get_peft_model(model, wanted)
        trainer, clock = arms.hf_trainer(
            model, tokenizer, examples, train, out, {"pad_to_multiple_of": 8}, bf16=True, use_cpu=asked.toy
        )
        prepared = time.perf_counter()
        trainer.train()
        return {
            **_rates(_typical(clock.at[2:]), needed + again * (arm.policy == "all")),
            **_peaks(_in_use()),
            "first_step_s": round(clock.at[1] - clock.at[0], 2),
            "dial": arm.policy,
            "batching": f"padded, {arm.peer} rows",
            "import_s": imported,
            "prepare_s": round(prepared - began, 2),
            **facts,
        }


def _typical(at: list[float]) -> float:
    """Seconds from one of these moments to the next: the median."""
    return statistics.median(after - now for now, after in pairwise(at))


def _rates(step: float, operations: float) -> dict:
    """What a step of that many seconds comes to, with that many floating-point operations a token at least."""
    speed = sum(arms.LENGTHS) / step
    return {"tokens_per_s": round(speed, 1), "of_limit": round(speed * operations / RATE, 4)}


# --- the card ---


def _from_here(most: float = 0) -> None:
    """Peaks count from here; of the card, this process takes `most` GiB at most, all in all (0: no limit)."""
    import torch

    from playground.memory.release import release_memory

    release_memory()
    if not torch.cuda.is_available():
        return
    torch.cuda.reset_peak_memory_stats()
    if most:
        total = torch.cuda.mem_get_info()[1]
        runtime = _in_use() - torch.cuda.memory_reserved() + RUNTIME * 2**30
        torch.cuda.set_per_process_memory_fraction((most * 2**30 - runtime) / total)


def _in_use() -> int:
    """Bytes of the card that are taken, by whatever; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def _peaks(device: int) -> dict:
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


# --- from disk, with the program's own command ---


def save_model(asked) -> dict:
    """Write the OpenCALM shape in bf16, with a tokenizer, and rows of about the usual lengths, into --disk."""
    import random

    from toys import make_tokenizer

    from playground.data.template import Template, Turn

    tokenizer, draw = make_tokenizer(False), random.Random(0)
    arms.made_up(arms.shape_of(WALL.split("/")[0], asked.toy), 16, "cpu" if asked.toy else "cuda").save_pretrained(
        asked.disk
    )
    tokenizer.save_pretrained(asked.disk)
    around = len(Template("talk", tokenizer).ids([Turn("")]))  # of the prompt, beside what is asked
    with open(asked.disk / "rows.jsonl", "w", encoding="utf-8") as file:
        for length in arms.LENGTHS * 50:
            asks = max(1, round(length * (1 - arms.LABELLED)) - around)
            letters = "".join(
                draw.choice("BCDFGJKQVXYZ") for _ in range(length - around - 1)
            )  # a token each, and one more ends it
            file.write(json.dumps({"instruction": letters[:asks], "output": letters[asks:]}) + "\n")
    return {}


def wall(asked) -> dict:
    """Seconds from the start of `playground tune` until it was so far, read from its run's events."""
    from playground.runs import Run

    flags = {
        "model": asked.disk,
        "bits": 4,
        "source": asked.disk / "rows.jsonl",
        "template": "talk",
        "held-out": 0,
        "length": 256,
        "batch": arms.BATCH,
        "steps": 50,
        "r": arms.RANK,
        "layers": 0,
        "lr": 3e-4,
        "device": "cpu" if asked.toy else "cuda",
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
