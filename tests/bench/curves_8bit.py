"""Compare loss curves of LoRA on SmolLM2-135M by the type of the frozen weights, with three seeds.

    python tests/bench/curves_8bit.py           # one GPU with float8 products (RTX 40, H100 or later)
    python tests/bench/curves_8bit.py --toy     # does it run? a toy model, float8 emulated on the CPU

Rows, rate and batch of the preset demo-en, 200 steps, adapters in bfloat16. A seed sets the adapter's start and the
order of the rows; arms of one seed differ in nothing but the frozen weights and how they are multiplied. Each runs in
a separate process, several at a time: speed isn't measured. `float32` is how far bfloat16 itself is from more exact
products. Figures by arm, against bf16:
  away        root mean square over steps and seeds of the difference, of losses averaged over 10 steps; nats a token
  bias        the mean of that difference
  held_out    the mean loss of the held-out rows after the last step
  more_loss   how much more that is than in bf16, ± half the width of its 95 % interval over rows (means over seeds)
  recall      share of the held-out questions whose answer names the fact, of the tuned model
  cosine      of the check before a run (playground/train/product_check.py): fp8 alone
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import arms
from curves import figure

ARMS: dict[str, dict] = {
    "bf16": {"bits": 16},
    "float32": {"bits": 32},
    "int8": {"bits": 8},
    "fp8": {"bits": 8, "quant_type_8bit": "fp8"},
    "int8-fast": {"bits": 8, "quant_type_8bit": "int8-fast"},
    "nf4": {"bits": 4},
    "nf4-fast": {"bits": 4, "quant_type": "nf4-fast"},
}
COLOURS = {
    "bf16": "#1f2937",
    "float32": "#9ca3af",
    "int8": "#2563eb",
    "int8-fast": "#7c3aed",
    "fp8": "#dc2626",
    "nf4": "#059669",
    "nf4-fast": "#d97706",
}
REFERENCE, SMOOTHED = "bf16", 10
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "triton")
TOY = {"max_steps": 12, "batch_size": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=0, help="processes at a time; 0: as many as cores")
    parser.add_argument("--model", default="", help="a folder with the model; by default the preset's own")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/curves_8bit.json")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(train_arm(options)))
        return
    rounds: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        if options.toy:
            options.model, options.steps = str(_save_toy(Path(folder))), TOY["max_steps"]
        for result in _run_all(options):
            rounds.append(result)
            _write(options, rounds)  # each time, in case that the machine is taken away
    print(arms.failures(rounds), file=sys.stderr)
    for arm, figures in compare([r for r in rounds if "failed" not in r]).items():
        print({"arm": arm} | figures)
    sys.exit(any("failed" in r for r in rounds))


def _write(options: argparse.Namespace, rounds: list[dict]) -> None:
    """Write the result file and the figure of what has been run so far."""
    rounds = sorted(rounds, key=lambda r: (r["seed"], list(ARMS).index(r["arm"])))
    worked = [r for r in rounds if "failed" not in r]
    summary = compare(worked)
    hardware = next((r["hardware"] for r in worked), None)
    short = [{k: v for k, v in r.items() if k not in ("losses", "held_out_rows", "hardware")} for r in rounds]
    what = "loss curves by type of the frozen weights"
    report = arms.report(what, LIBRARIES, short, hardware=hardware, toy=options.toy, summary=summary)
    curves = {f"{r['arm']}/{r['seed']}": r["losses"] for r in worked}
    arms.write(options.out, report | {"losses": curves})
    means = {arm: smooth(_mean_curve(worked, arm)) for arm in summary}
    if means:
        options.out.with_suffix(".svg").write_text(figure(means, colours=COLOURS), encoding="utf-8")


def _run_all(options: argparse.Namespace) -> Iterator[dict]:
    """Every arm with every seed, each in a new process, as they end."""
    cores = len(os.sched_getaffinity(0))
    jobs = options.jobs or (1 if options.toy else max(1, cores - 1))
    env = os.environ | {"OMP_NUM_THREADS": "1" if jobs > 1 else str(cores), "TOKENIZERS_PARALLELISM": "false"}

    def run(arm: str, seed: int) -> dict:
        command = [sys.executable, __file__, "--arm", arm, "--seed", str(seed), "--steps", str(options.steps)]
        command += ["--model", options.model] if options.model else []
        command += ["--toy"] if options.toy else []
        result = {"arm": arm, "seed": seed, "round": seed + 1} | arms.attempt(lambda: arms.last_line(command, env))
        print(arm, seed, result.get("failed", result.get("held_out")), file=sys.stderr, flush=True)
        return result

    with ThreadPoolExecutor(jobs) as pool:
        started = [pool.submit(run, arm, seed) for seed in range(options.seeds) for arm in ARMS]
        for done in as_completed(started):
            yield done.result()


def _save_toy(folder: Path) -> Path:
    import toys

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "max_position_embeddings": 1024}
    return toys.save(folder / "toy", chat=True, **sizes)


def train_arm(options: argparse.Namespace) -> dict:
    """Train one arm with one seed: its losses, held-out loss by row, recall and, in fp8, the check before."""
    if not options.toy:
        return _train(options)
    from float8_emulation import float8_products

    with float8_products() if options.arm in ("fp8", "int8-fast", "nf4-fast") else contextlib.nullcontext():
        return _train(options)


def _train(options: argparse.Namespace) -> dict:
    from playground import catalog
    from playground.data.batch import encode
    from playground.data.source import read
    from playground.data.template_choice import choose_template
    from playground.memory.meter import hardware
    from playground.model.load import load_model
    from playground.model.source import local_folder
    from playground.settings import Settings
    from playground.train.held_out import held_out_losses
    from playground.train.loop import fine_tune
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer
    from playground.train.product_check import compare_products, products_in_8_bits

    device = "cpu" if options.toy else "cuda"
    preset = Settings().with_values(catalog.presets()["demo-en"]["settings"])
    changes = {"max_steps": options.steps, "seed": options.seed, "compile": "off", "gradient_checkpointing": "off"}
    train = replace(preset.train, **changes, **({"batch_size": TOY["batch_size"]} if options.toy else {}))
    load = replace(preset.load, **{"device": device, "dtype": "bfloat16"} | ARMS[options.arm])
    if load.bits == 32:
        load = replace(load, dtype="auto")
    loaded = load_model(options.model or local_folder(load.model), load, lambda *_: None)
    rows = read(preset.data)
    template = choose_template(preset.data.prompt_format, loaded.tokenizer, [r.instruction for r in rows.train])
    examples, _ = encode(rows.train, template, train.max_seq_length)
    held_out, _ = encode(rows.held_out, template, train.max_seq_length)
    trainer = prepare_trainer(loaded, replace(preset, load=load, train=train), examples, held_out, Team(device))
    result: dict = {"hardware": hardware(device)}
    if products_in_8_bits(trainer):
        check = compare_products(trainer, examples)
        result |= {"cosine": round(check.cosine, 5), "check_loss": check.loss, "check_exact_loss": check.exact_loss}
    events = fine_tune(trainer, examples, train, threading.Event())
    losses = [event["loss"] for event in events if event["kind"] == "step"]
    rows_after = arms.return_value(held_out_losses(trainer, held_out, threading.Event()))
    recall = _recall(loaded, template, rows.held_out, options.toy)
    mean = sum(nats for nats, _ in rows_after) / sum(tokens for _, tokens in rows_after)
    per_row = [round(nats / tokens, 5) for nats, tokens in rows_after]
    return result | {"losses": losses, "held_out": round(mean, 5), "held_out_rows": per_row, "recall": recall}


def _recall(loaded: object, template: object, held_out: list, toy: bool) -> float:
    """The share of held-out questions whose answer by the tuned model names the fact."""
    from playground.eval.answer_rows import answer_rows, answer_token_limit
    from playground.eval.metrics import names_fact

    rows = [row for row in held_out if row.key][: 2 if toy else None]
    limit = answer_token_limit(rows, template)
    loaded.model.eval()
    answers = arms.return_value(answer_rows(loaded.model, template, rows, ("tuned",), limit, threading.Event()))
    return round(statistics.mean(names_fact(answer.text, row) for answer, row in zip(answers["tuned"], rows)), 4)


def smooth(losses: list[float]) -> list[float]:
    """Means over SMOOTHED steps: one step's loss is noisy."""
    return [statistics.mean(losses[at : at + SMOOTHED]) for at in range(len(losses) - SMOOTHED + 1)]


def _mean_curve(rounds: list[dict], arm: str) -> list[float]:
    return [statistics.mean(losses) for losses in zip(*(r["losses"] for r in rounds if r["arm"] == arm))]


def compare(rounds: list[dict]) -> dict[str, dict]:
    """Each arm's figures, over the seeds of which the reference has worked too."""
    reference = {r["seed"]: r for r in rounds if r["arm"] == REFERENCE}
    summary: dict[str, dict] = {}
    for arm in ARMS:
        own = [r for r in rounds if r["arm"] == arm and r["seed"] in reference]
        if not own:
            continue
        differences = [
            loss - other
            for r in own
            for loss, other in zip(smooth(r["losses"]), smooth(reference[r["seed"]]["losses"]))
        ]
        rows = [  # each row's mean difference over the seeds
            statistics.mean(pair)
            for pair in zip(
                *(
                    [loss - other for loss, other in zip(r["held_out_rows"], reference[r["seed"]]["held_out_rows"])]
                    for r in own
                )
            )
        ]
        cosines = [r["cosine"] for r in own if "cosine" in r]
        summary[arm] = {
            "seeds": len(own),
            "away": round(statistics.mean(d * d for d in differences) ** 0.5, 5),
            "bias": round(statistics.mean(differences), 5),
            "held_out": round(statistics.mean(r["held_out"] for r in own), 5),
            "more_loss": round(statistics.mean(rows), 5),
            "more_loss_interval": round(1.96 * statistics.stdev(rows) / math.sqrt(len(rows)), 5),
            "recall": round(statistics.mean(r["recall"] for r in own), 4),
            "recall_by_seed": [r["recall"] for r in own],
            **({"cosine": round(min(cosines), 5)} if cosines else {}),
        }
    return summary


if __name__ == "__main__":
    main()
