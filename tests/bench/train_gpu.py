"""Compare speed and memory of training 7B shapes on one GPU with transformers.Trainer + PEFT.

    python tests/bench/train_gpu.py                           # one round of everything; about 7 minutes on an H100
    python tests/bench/train_gpu.py --only 'calm/nf4*' --rounds 3 --profile profiles
    python tests/bench/train_gpu.py --only '*wall*' --disk /tmp/models
    python tests/bench/train_gpu.py --only '*unsloth*' --only '*-labelled' --disk /tmp/models
    python tests/bench/train_gpu.py --only '*-long'
    python tests/bench/train_gpu.py --toy                     # does every arm run? tiny, on the CPU

Arms are named shape/arm (gpu_arms.py): calm is OpenCALM-7B, llama Llama-2-7B, llama3 Llama-3-8B, qwen Qwen2.5-7B, all
with random weights, which cost what trained ones do. Every step takes the same 32 rows: 5,024 tokens, at most 256 a
row, 60 % of each labelled. r 8, all linear layers.
  bf16, nf4, int8,  playground's own fine-tune. -off, -all: how many layers are checkpointed; -22GiB, -7GiB: the process
  fp8, *-fast       may take that much of the GPU, its runtime included, and picks the rest itself; -compiled: layers
                    are compiled
  peer-*-talk       alpaca-lora's recipe: 4 rows at once x 8, prepare_model_for_kbit_training and its checkpointing
  peer-*-best       the peer's fastest flags: 32 rows at once, no checkpointing
  unsloth-*         Unsloth's recommended way: trl's SFTTrainer, rows packed to at most 5,100 tokens, all of them
                    labelled, its compiling; -all: its checkpointing. 30 steps, the last 16 are counted. Needs --disk
  *-labelled        playground's own with all tokens labelled too
  *-long            two rows of 4,096 tokens, all labelled, r 16: the conditions under which NVIDIA publishes the speed
                    of NeMo AutoModel on one H100, 14,110 tokens/s with Qwen2.5-7B and 12,473 with Llama-3-8B in bf16
  wall-50           `python -m playground tune` on weights and rows on disk, nf4, default settings: seconds from the
                    start of the process to 50 trained steps. unsloth-wall-50: Unsloth's, with its checkpointing. Only
                    with --disk; each runs when nothing else does

Every arm has a new process. Processes are started ahead and import side by side, so import_s is longer than alone; one
at a time uses the GPU. tokens_per_s: the median over the steps, the first two left out. first_step_s: from the start of
training to the end of its first step, compiled from nothing; first_step_again_s: in a later round, from the compiler's
cache. of_limit: tokens_per_s over what the layers' multiplications alone allow at 790 TFLOP/s. Peaks are torch's,
counted once the model is made; device_gib: everything in use on the GPU, device_before_gib: before the model. "dial" in
results is the checkpointing and the tokens of a micro-batch. A failed arm stays in the table.
"""

import argparse
import fnmatch
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import arms
import random_models
from gpu_arms import ALONE, ARMS, WALL
from gpu_from_disk import save_model, time_wall, train_unsloth
from gpu_training import train_ours, train_peer

SAVE = "save"  # a shape's process that writes its model to --disk
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
                long_rows=random_models.LONG_ROWS,
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
                if name not in ALONE:
                    started[pool.submit(run, name)] = number, name
        for done in as_completed(started):
            number, name = started[done]
            yield number, name, done.result()
    for number in range(options.rounds):
        for name in ALONE:
            if name in names:
                yield number, name, arms.attempt(lambda: time_wall(options)) if name == WALL else run(name)


def run_arm(options: argparse.Namespace) -> dict:
    """Run one arm in this process."""
    shape, name = options.arm.split("/")
    if name == SAVE:
        return save_model(shape, options)
    if ARMS[options.arm].unsloth:
        return train_unsloth(shape, options)
    return train_peer(options) if ARMS[options.arm].peer_rows else train_ours(options)


if __name__ == "__main__":
    main()
