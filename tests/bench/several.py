"""One process beside several: the same fine-tune, with weights whole (DDP), split (FSDP2) and kept in main memory.

    python tests/bench/several.py                   # as many processes as there are cards
    python tests/bench/several.py --device cpu      # two of them

Six steps of 16 rows on a toy of 95 million weights (a tiny one on a CPU), each arm by the command that the README
gives. losses: of the steps. away: how far they are from one process's, at most, in % of it. allocated_gib: the first card's
peak; device_gib: of all that is in use on it, whatever process has it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import arms  # beside this file
from train_gpu import LIBRARIES

TASK = ["--last", "64", "--steps", "6", "--batch", "16", "--lr", "1e-3", "--compile", "off", "--sample-every", "off"]
WIDE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "max_position_embeddings": 1024}
TRIED = {"one": (32, 16, 8, 4), "ddp": (16, 8, 4), "fsdp2": (32, 16), "fsdp2_offload": (16,)}
COLUMNS = {"away": "{:.3f} %", "allocated_gib": "{:.2f}", "device_gib": "{:.2f}"}


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/several.json")
    asked = parser.parse_args()
    import toys

    from playground.memory.meter import hardware

    processes, found = (max(2, torch.cuda.device_count()) if asked.device == "cuda" else 2), {}
    with tempfile.TemporaryDirectory() as work:
        model = toys.save(Path(work) / "toy", chat=True, **(WIDE if asked.device == "cuda" else {}))
        for how, widths in TRIED.items():
            for bits in widths:
                name = f"{how}:{bits}"
                found[name] = arms.attempt(
                    lambda how=how, bits=bits, name=name: trained(
                        how, bits, model, Path(work) / name.replace(":", "-"), asked.device, processes
                    )
                )
                print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    cells = compared(found)
    arms.write(
        asked.out,
        arms.report(
            "one process beside several",
            LIBRARIES,
            [],
            hardware=hardware(asked.device),
            processes=processes,
            cells=cells,
        ),
    )
    print(
        arms.table(
            {
                name: cell | {"worked": int("failed" not in cell), "failed": int("failed" in cell)}
                for name, cell in cells.items()
            },
            COLUMNS,
        )
    )


def trained(how: str, bits: int, model: Path, runs: Path, device: str, processes: int) -> dict:
    """Losses and peaks of one run."""
    start, env = [sys.executable], os.environ | ({"CUDA_VISIBLE_DEVICES": "0"} if how == "one" else {})
    if how != "one":
        start += [
            "-m",
            "accelerate.commands.launch",
            "--num_processes",
            str(processes),
            "--config_file",
            f"assets/accelerate/{how}.yaml",
        ]
    command = [
        *start,
        "-m",
        "playground",
        "tune",
        "--model",
        str(model),
        "--device",
        device,
        "--bits",
        str(bits),
        "--runs",
        str(runs),
        *TASK,
    ]
    ended = subprocess.run(command, cwd=arms.PROJECT, env=env, capture_output=True, text=True, timeout=300)
    if ended.returncode:
        raise RuntimeError(f"exit status {ended.returncode}: {ended.stderr[-1500:]}")
    [log] = runs.glob("*/events.jsonl")
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    peak = next(e["result"]["peak"] for e in events if e["kind"] == "done")
    return {"losses": [e["loss"] for e in events if e["kind"] == "step"]} | {
        f"{kind}_gib": arms.gib(peak[kind]) for kind in ("allocated", "device") if peak.get(kind)
    }


def compared(found: dict[str, dict]) -> dict[str, dict]:
    """The arms, each with how far its losses are from those of one process at its bits."""
    cells = {}
    for name, told in found.items():
        alone = found[f"one:{name.split(':')[1]}"]
        both = zip(told.get("losses", ()), alone.get("losses", ()))
        cells[name] = (
            told
            if "failed" in told | alone
            else {"away": round(max(100 * abs(ours / theirs - 1) for ours, theirs in both), 3)} | told
        )
    return cells


if __name__ == "__main__":
    main()
