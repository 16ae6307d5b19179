"""Compare training steps on the CPU with transformers.Trainer + PEFT, on SmolLM2-135M.

    python tests/bench/train_cpu.py                           # two rounds of every arm; on an otherwise idle machine
    python tests/bench/train_cpu.py --steps 3 --rounds 1 --only ours-all  # does it run? no meaningful figures

Arms, each in a new process, interleaved over the rounds (every other round backwards). Rows, tokens, r, alpha, batch,
rate and schedule are the preset demo-en's in all of them. qv: adapters on q_proj and v_proj; all: on all linear layers;
of every layer of the model.
  ours-{qv,all}             playground's fine-tune, in the bit width that this CPU is faster at
  ours-bf16-{qv,all}        the same in 16 bits, where that isn't faster
  ours-{int8,int8fast,nf4}-all  the same with weights in fewer bits: multiplied in bfloat16 (int8: LLM.int8()'s weights;
                            nf4), or in 8-bit integers (int8fast)
  ours-preset               all linear layers of the last 22 layers, as the preset has it
  peer-{f32,bf16}-{qv,all}  Trainer over get_peft_model, as their guides write it; bf16: weights in bfloat16 under
                            `bf16=True`

tokens_per_s: the median over the steps after the first two, all tokens of their rows counted, padding not. peak_gib:
this process's resident memory during training, read ten times a second by playground.memory.meter in both. Each
program shuffles the rows in its own way. Ratios are of medians, ours / peer. A failed arm stays in the table and in
the JSON.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import arms

PRESET = "demo-en"
TARGETS = {"qv": "q_proj,v_proj", "all": "all-linear", "preset": "all-linear"}
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")
COLUMNS = {
    "tokens_per_s": "{:.0f}",
    "peak_gib": "{:.2f}",
    "first_step_s": "{:.2f}",
    "bits": "{}",
    "batching": "{}",
    "trained": "{:,.0f}",
}
FEWER_BITS: dict[str, dict[str, Any]] = {
    "bf16": {"bits": 16},
    "int8": {"bits": 8},
    "int8fast": {"bits": 8, "quant_type_8bit": "int8-fast"},
    "nf4": {"bits": 4},
}
COMPARED = ("tokens_per_s", "peak_gib")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps an arm, at least 3")
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/train_cpu.json")
    parser.add_argument("--only", action="append", metavar="ARM", help="only this arm; may be given several times")
    parser.add_argument("--arm", help=argparse.SUPPRESS)  # what an arm's own process is started with
    options = parser.parse_args()
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    if options.arm:
        print(json.dumps(run_arm(options.arm, options.steps)))
        return
    if options.steps < 3:
        parser.error("--steps: the first two aren't counted")
    names = [name for name in _names() if not options.only or name in options.only]
    if not names:
        parser.error(f"no such arm; there are {', '.join(_names())}")
    from playground.model.source import fetch_model

    model = _settings("preset", options.steps).load.model
    arms.return_value(fetch_model(model, False, threading.Event()))  # so that no arm has to fetch it
    rounds: list[dict] = []
    report: dict = {}
    for number in range(options.rounds):
        for name in names[:: -1 if number % 2 else 1]:
            command = [sys.executable, __file__, "--arm", name, "--steps", str(options.steps)]
            load = round(os.getloadavg()[0], 2)
            measured = arms.attempt(lambda command=command: arms.last_line(command))
            rounds.append({"round": number + 1, "arm": name, "load_average": load} | measured)
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
            report = _report(options.steps, rounds)
            arms.write(options.out, report)
    _print(report)
    sys.exit(any("failed" in r for r in rounds))


def _names() -> list[str]:
    from playground.model.dtype import default_bits

    half = ["ours-bf16-qv", "ours-bf16-all"] if default_bits("cpu") != 16 else []
    return [
        "ours-qv",
        "ours-all",
        "ours-preset",
        *half,
        *(f"ours-{kind}-all" for kind in ("int8", "int8fast", "nf4")),
        *(f"peer-{dtype}-{adapted}" for dtype in ("f32", "bf16") for adapted in ("qv", "all")),
    ]


def run_arm(name: str, steps: int) -> dict:
    """Run one arm in this process."""
    side, *kind, adapted = name.split("-")
    if side == "ours":
        return train_ours(adapted, FEWER_BITS[kind[0]] if kind else {}, steps)
    return train_peer(adapted, kind == ["bf16"], steps)


def _settings(adapted: str, steps: int) -> Any:
    """The preset's settings, with that adapter and that number of steps."""
    from playground import catalog
    from playground.settings import Settings

    preset = Settings().with_values(catalog.presets()[PRESET]["settings"])
    layers = preset.lora.layers if adapted == "preset" else 0
    return replace(
        preset,
        lora=replace(preset.lora, target_modules=TARGETS[adapted], layers=layers),
        train=replace(preset.train, max_steps=steps),
    )


def _examples(settings: Any, tokenizer: Any) -> list:
    """The training examples, as playground's own job encodes them."""
    from playground.data.batch import encode
    from playground.data.source import read
    from playground.data.template_choice import choose_template

    rows = read(settings.data).train
    template = choose_template(settings.data.prompt_format, tokenizer, [r.instruction for r in rows])
    return encode(rows, template, settings.train.max_seq_length, settings.data.train_on_prompt)[0]


def train_ours(adapted: str, weights: dict[str, Any], steps: int) -> dict:
    """Playground's fine-tune, without its evaluation before and after. weights: load settings besides the preset's."""
    from playground.memory.meter import Meter
    from playground.model.dtype import default_bits
    from playground.model.load import load_model
    from playground.model.source import local_folder
    from playground.train.loop import fine_tune
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer

    settings = _settings(adapted, steps)
    load = replace(settings.load, **{"bits": default_bits("cpu"), "device": "cpu"} | weights)
    loaded = load_model(local_folder(load.model), load, lambda *_: None)
    examples = _examples(settings, loaded.tokenizer)
    trainer = prepare_trainer(loaded, settings, examples, [], Team("cpu"))
    meter = Meter(lambda now: None).start()
    at, tokens = [time.perf_counter()], [0]
    for event in fine_tune(trainer, examples, settings.train, threading.Event()):
        if event["kind"] == "step":
            at.append(time.perf_counter())
            tokens.append(event["tokens"])
    meter.take()
    meter.stop()
    policy = trainer.plan.policy
    return _measurements(at, tokens, meter.peak["rss"], loaded.model) | {
        "bits": str(load.bits),
        "batching": trainer.batcher.mode,
        "dial": f"{policy.checkpointing} {policy.tokens}",
    }


def train_peer(adapted: str, half: bool, steps: int) -> dict:
    """The same fine-tune through Trainer and PEFT."""
    import torch
    from peer import hf_trainer
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    from playground.memory.meter import Meter
    from playground.model import adapt
    from playground.model.source import local_folder

    settings = _settings(adapted, steps)
    folder, lora = local_folder(settings.load.model), settings.lora
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if half else torch.float32)
    examples = _examples(settings, tokenizer)
    set_seed(settings.train.seed)
    lora_config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=adapt.resolve_target_modules(model, lora.target_modules),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora_config)
    with tempfile.TemporaryDirectory() as out:
        arguments: dict[str, Any] = {
            "use_cpu": True,
            "bf16": half,
            "dataloader_pin_memory": False,
            "include_num_input_tokens_seen": "non_padding",
        }
        trainer, clock = hf_trainer(model, tokenizer, examples, settings.train, out, **arguments)
        meter = Meter(lambda now: None).start()
        trainer.train()
        meter.take()
        meter.stop()
    return _measurements(clock.at, clock.tokens, meter.peak["rss"], model) | {
        "bits": "16" if half else "32",
        "batching": "padded",
    }


def _measurements(at: list[float], tokens: list[int], peak_bytes: int, model: Any) -> dict:
    """Figures of an arm; at, tokens: when training began and each step ended, and the tokens seen by then."""
    import torch

    speeds = [(seen - before) / (after - now) for (now, after), (before, seen) in zip(pairwise(at), pairwise(tokens))]
    return {
        "tokens_per_s": round(statistics.median(speeds[2:]), 1),
        "first_step_s": round(at[1] - at[0], 3),
        "train_s": round(at[-1] - at[0], 2),
        "tokens": tokens[-1],
        "peak_gib": arms.gib(peak_bytes),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "threads": torch.get_num_threads(),
    }


def _report(steps: int, rounds: list[dict]) -> dict:
    from playground.memory.meter import hardware

    report = arms.report(
        "steps of playground's fine-tune and of transformers.Trainer + PEFT, CPU",
        LIBRARIES,
        rounds,
        hardware=hardware("cpu"),
        preset=PRESET,
        steps=steps,
    )
    medians = report["medians"]
    pairs = [
        (ours, peer)
        for ours in medians
        if ours.startswith("ours")
        for peer in medians
        if peer.startswith("peer") and peer.endswith(_adapted_by_peer(ours))
    ]
    return report | {
        "ratios": {f"{ours} / {peer}": arms.ratios(medians[ours], medians[peer], COMPARED) for ours, peer in pairs}
    }


def _adapted_by_peer(ours: str) -> str:
    """Which adapters of the peer an arm is compared with: the preset, which adapts fewer layers, with all of them."""
    return ours.rsplit("-", 1)[-1].replace("preset", "all")


def _print(report: dict) -> None:
    machine = report["hardware"]
    capacity = arms.gib(machine["capacity"])
    print(f"\n{machine['name']}, {machine['cores']} cores, {capacity} GiB; {report['steps']} steps\n")
    print(arms.table(report["medians"], COLUMNS) + "\n")
    print("| ours / peer | " + " | ".join(COMPARED) + " |\n|---|" + "---|" * len(COMPARED))
    for pair, row in report["ratios"].items():
        print(f"| {pair} | " + " | ".join(f"{row[c]:.2f}" if c in row else "-" for c in COMPARED) + " |")
    print(arms.failures(report["rounds"]))


if __name__ == "__main__":
    main()
