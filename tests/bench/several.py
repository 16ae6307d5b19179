"""Compare several processes with one: the same fine-tune with weights whole (DDP), sharded (FSDP2) and offloaded.

    python tests/bench/several.py                   # as many processes as there are cards
    python tests/bench/several.py --device cpu      # two of them
    python tests/bench/several.py --shapes          # models of 7 and 70 billion weights: several_shapes.py

Six steps of 16 rows on a toy of 95 million weights (a tiny one on a CPU), or on one with an encoder, each arm by the
command in playground/README.md. losses: of the steps. away: their largest difference from one process's losses, in %.
allocated_gib: the first card's peak; device_gib: everything in use on it, by whatever process; main_gib: of main
memory, resident in its process. Predicted, as the run says before the fine-tune.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import arms
import several_shapes
from train_gpu import LIBRARIES

TASK = "--end-row 64 --max-steps 6 --batch-size 16 --lr 1e-3 --compile off --sample-every off".split()
WIDE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "max_position_embeddings": 1024}
WIDE_ENCODER = {"d_model": 1024, "d_kv": 64, "num_heads": 16, "d_ff": 2816, "num_layers": 6, "num_decoder_layers": 6}
ARMS = tuple(
    (family, how, bits)
    for family, how, widths in (
        ("llama", "one", (32, 16, 8, 4)),
        ("llama", "ddp", (16, 8, 4)),
        ("llama", "fsdp2", (32, 16, 8, 4)),
        ("llama", "fsdp2_offload", (16,)),
        ("t5", "one", (16,)),
        ("t5", "ddp", (16,)),
        ("t5", "fsdp2", (16,)),
    )
    for bits in widths
)
KINDS = {"allocated": "allocated", "device": "device_used", "main": "rss"}  # of peaks, by column
COLUMNS = {
    "away": "{:.3f} %",
    "allocated_gib": "{:.2f}",
    "predicted_allocated_gib": "{:.2f}",
    "device_gib": "{:.2f}",
    "predicted_device_gib": "{:.2f}",
    "main_gib": "{:.2f}",
    "predicted_main_gib": "{:.2f}",
}


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/several.json")
    parser.add_argument("--shapes", action="store_true", help="models of real shapes; results in several_shapes.json")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="of the shapes' cells")
    options = parser.parse_args()
    if options.shapes:
        several_shapes.measure_all(options.device, options.only or ["*"], options.out.with_name("several_shapes.json"))
        return
    import toys

    from playground.memory.meter import hardware

    processes = max(2, torch.cuda.device_count()) if options.device == "cuda" else 2
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as work:
        shapes = {"llama": WIDE, "t5": WIDE_ENCODER} if options.device == "cuda" else {"llama": {}, "t5": {}}
        models = {
            family: toys.save(Path(work) / family, family, family == "llama", **shape)
            for family, shape in shapes.items()
        }
        for family, how, bits in ARMS:
            name = f"{family}:{how}:{bits}"
            runs = Path(work) / name.replace(":", "-")
            results[name] = arms.attempt(partial(train_arm, how, bits, models[family], runs, options.device, processes))
            print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    cells = compare_losses(results)
    arms.write(
        options.out,
        arms.report(
            "several processes compared with one",
            LIBRARIES,
            [],
            hardware=hardware(options.device),
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


def train_arm(how: str, bits: int, model: Path, runs: Path, device: str, processes: int) -> dict:
    """Run one fine-tune by the command line; returns its losses and peaks."""
    launcher, env = [sys.executable], os.environ | ({"CUDA_VISIBLE_DEVICES": "0"} if how == "one" else {})
    if how != "one":
        launcher += [
            "-m",
            "accelerate.commands.launch",
            "--num_processes",
            str(processes),
            "--config_file",
            f"assets/accelerate/{how}.yaml",
        ]
    command = [
        *launcher,
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
    process = subprocess.run(command, cwd=arms.PROJECT, env=env, capture_output=True, text=True, timeout=300)
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {process.stderr[-1500:]}")
    [log] = runs.glob("*/events.jsonl")
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    peak = next(e["result"]["peak"] for e in events if e["kind"] == "done")
    predicted = next((e for e in events if e["kind"] == "memory_predicted" and e["phase"] == "tune"), {})
    if "main_memory" in predicted:
        predicted = {"rss": predicted["main_memory"]} | predicted
    result: dict = {"losses": [e["loss"] for e in events if e["kind"] == "step"]}
    for column, kind in KINDS.items():
        for prefix, sizes in (("", peak), ("predicted_", predicted)):
            if sizes.get(kind):
                result[f"{prefix}{column}_gib"] = arms.gib(sizes[kind])
    return result


def compare_losses(results: dict[str, dict]) -> dict[str, dict]:
    """The arms' results, each with the largest difference of its losses from one process's at the same bits, in %."""
    compared = {}
    for name, result in results.items():
        family, _, bits = name.split(":")
        single = results[f"{family}:one:{bits}"]
        if "failed" in result or "failed" in single:
            compared[name] = result
            continue
        pairs = zip(result["losses"], single["losses"])
        away = round(max(100 * abs(several / one - 1) for several, one in pairs), 3)
        compared[name] = {"away": away} | result
    return compared


if __name__ == "__main__":
    main()
