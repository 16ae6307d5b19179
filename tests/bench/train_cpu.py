"""The fine-tune's steps on the CPU: playground's own beside transformers.Trainer + PEFT, step by step on SmolLM2-135M.

    python tests/bench/train_cpu.py                           # two rounds of every arm; run it on an otherwise idle machine
    python tests/bench/train_cpu.py --steps 3 --rounds 1 --only ours-all  # does this arm run at all? its numbers mean nothing

Arms, each in a fresh process, interleaved over the rounds (every other round backwards); rows, tokens, r, alpha, batch,
rate and schedule are the preset demo-en's in all of them. qv: adapters on q_proj and v_proj; all: on all linear layers; of
every layer of the model.
  ours-{qv,all}             playground's fine-tune, in the bit width that this CPU is faster at
  ours-bf16-{qv,all}        the same in 16 bits, where that isn't so anyway
  ours-preset               all linear layers of the last 22 layers, as the preset has it
  peer-{f32,bf16}-{qv,all}  Trainer over get_peft_model, as their guides write it; bf16: weights in bfloat16 under `bf16=True`

tokens_per_s: the median over the steps after the first two, all tokens of their rows counted, padding not. peak_gib: this
process's resident memory while it trains, read ten times a second by playground.memory.meter in both. Which rows meet in a
step is drawn by each in its own way. Ratios are of medians, ours / peer. A failed arm stays in the table and in the JSON.
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

import arms  # beside this file

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
COMPARED = ("tokens_per_s", "peak_gib")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps an arm, at least 3")
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/train_cpu.json")
    parser.add_argument("--only", action="append", metavar="ARM", help="only this arm; may be given several times")
    parser.add_argument("--arm", help=argparse.SUPPRESS)  # what an arm's own process is started with
    asked = parser.parse_args()
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    if asked.arm:
        side, *bits, adapted = asked.arm.split("-")
        print(
            json.dumps(
                ours(adapted, bits, asked.steps) if side == "ours" else peer(adapted, bits == ["bf16"], asked.steps)
            )
        )
        return
    if asked.steps < 3:
        parser.error("--steps: the first two aren't counted")
    names = [name for name in _names() if not asked.only or name in asked.only]
    if not names:
        parser.error(f"no such arm; there are {', '.join(_names())}")
    from playground.model.source import fetch_model

    arms.returned(
        fetch_model(_chosen("preset", asked.steps).load.model, False, threading.Event())
    )  # so that no arm has to fetch it
    rounds, found = [], {}
    for number in range(asked.rounds):
        for name in names[:: -1 if number % 2 else 1]:
            command, load = (
                [sys.executable, __file__, "--arm", name, "--steps", str(asked.steps)],
                round(os.getloadavg()[0], 2),
            )
            measured = arms.attempt(lambda command=command: arms.last_line(command))
            rounds.append({"round": number + 1, "arm": name, "load_average": load} | measured)
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
            found = _report(asked.steps, rounds)
            arms.write(asked.out, found)
    _show(found)
    sys.exit(any("failed" in r for r in rounds))


def _names() -> list[str]:
    from playground.model.load import default_bits

    half = ["ours-bf16-qv", "ours-bf16-all"] if default_bits("cpu") != 16 else []
    return [
        "ours-qv",
        "ours-all",
        "ours-preset",
        *half,
        *(f"peer-{dtype}-{adapted}" for dtype in ("f32", "bf16") for adapted in ("qv", "all")),
    ]


# --- an arm's own process ---


def _chosen(adapted: str, steps: int):
    """The preset's settings, with that adapter and so many steps."""
    from playground import catalog
    from playground.settings import Settings

    chosen = Settings().with_values(catalog.presets()[PRESET]["settings"])
    layers = chosen.lora.layers if adapted == "preset" else 0
    return replace(
        chosen,
        lora=replace(chosen.lora, target_modules=TARGETS[adapted], layers=layers),
        train=replace(chosen.train, max_steps=steps),
    )


def _examples(chosen, tokenizer) -> list:
    """What is trained on, as playground's own job encodes it."""
    from playground.data.batch import encode
    from playground.data.source import read
    from playground.data.template import choose_template

    rows = read(chosen.data).train
    template = choose_template(chosen.data.prompt_format, tokenizer, [r.instruction for r in rows])
    return encode(rows, template, chosen.train.max_seq_length, chosen.data.train_on_prompt)[0]


def ours(adapted: str, bits: list[str], steps: int) -> dict:
    """Playground's fine-tune, without the measuring that its job does before and after it."""
    from playground.memory.meter import Meter
    from playground.model.load import default_bits, load_model
    from playground.model.source import local_folder
    from playground.train.loop import fine_tune
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer

    chosen = _chosen(adapted, steps)
    settings = replace(chosen.load, bits=16 if bits == ["bf16"] else default_bits("cpu"), device="cpu")
    loaded = load_model(local_folder(settings.model), settings, lambda *_: None)
    examples = _examples(chosen, loaded.tokenizer)
    trainer = prepare_trainer(loaded, chosen, examples, [], Team("cpu"))
    gauge = Meter(lambda now: None).start()
    at, tokens = [time.perf_counter()], [0]
    for event in fine_tune(trainer, examples, chosen.train, threading.Event()):
        if event["kind"] == "step":
            at.append(time.perf_counter())
            tokens.append(event["tokens"])
    gauge.take()
    gauge.stop()
    policy = trainer.plan.policy
    return _measured(at, tokens, gauge, loaded.model) | {
        "bits": str(settings.bits),
        "batching": trainer.batcher.mode,
        "dial": f"{policy.checkpointing} {policy.tokens}",
    }


def peer(adapted: str, half: bool, steps: int) -> dict:
    """The same fine-tune through Trainer and PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    from playground.memory.meter import Meter
    from playground.model import adapt
    from playground.model.source import local_folder

    chosen = _chosen(adapted, steps)
    folder, lora = local_folder(chosen.load.model), chosen.lora
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if half else torch.float32)
    examples = _examples(chosen, tokenizer)
    set_seed(chosen.train.seed)
    wanted = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=adapt.resolve_target_modules(model, lora.target_modules),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, wanted)
    with tempfile.TemporaryDirectory() as out:
        more = {
            "use_cpu": True,
            "bf16": half,
            "dataloader_pin_memory": False,
            "include_num_input_tokens_seen": "non_padding",
        }
        trainer, clock = arms.hf_trainer(model, tokenizer, examples, chosen.train, out, **more)
        gauge = Meter(lambda now: None).start()
        trainer.train()
        gauge.take()
        gauge.stop()
    return _measured(clock.at, clock.tokens, gauge, model) | {"bits": "16" if half else "32", "batching": "padded"}


def _measured(at: list[float], tokens: list[int], gauge, model) -> dict:
    """at, tokens: when training began and each step ended, and the tokens seen by then."""
    import torch

    speeds = [(seen - before) / (after - now) for (now, after), (before, seen) in zip(pairwise(at), pairwise(tokens))]
    return {
        "tokens_per_s": round(statistics.median(speeds[2:]), 1),
        "first_step_s": round(at[1] - at[0], 3),
        "train_s": round(at[-1] - at[0], 2),
        "tokens": tokens[-1],
        "peak_gib": arms.gib(gauge.peak["rss"]),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "threads": torch.get_num_threads(),
    }


# --- reporting ---


def _report(steps: int, rounds: list[dict]) -> dict:
    from playground.memory.meter import hardware

    found = arms.report(
        "steps of playground's fine-tune beside transformers.Trainer + PEFT, CPU",
        LIBRARIES,
        rounds,
        hardware=hardware("cpu"),
        preset=PRESET,
        steps=steps,
    )
    middle = found["medians"]
    pairs = [
        (our, their)
        for our in middle
        if our.startswith("ours")
        for their in middle
        if their.startswith("peer") and their.endswith(_beside(our))
    ]
    return found | {
        "ratios": {f"{our} / {their}": arms.ratios(middle[our], middle[their], COMPARED) for our, their in pairs}
    }


def _beside(our: str) -> str:
    """The end of the names of its peers: the preset, which adapts fewer layers, stands beside all of them."""
    return our.rsplit("-", 1)[-1].replace("preset", "all")


def _show(found: dict) -> None:
    machine = found["hardware"]
    print(
        f"\n{machine['name']}, {machine['cores']} cores, {arms.gib(machine['capacity'])} GiB; {found['steps']} steps\n\n{arms.table(found['medians'], COLUMNS)}\n"
    )
    print("| ours / peer | " + " | ".join(COMPARED) + " |\n|---|" + "---|" * len(COMPARED))
    for pair, row in found["ratios"].items():
        print(f"| {pair} | " + " | ".join(f"{row[c]:.2f}" if c in row else "-" for c in COMPARED) + " |")
    print(arms.failures(found["rounds"]))


if __name__ == "__main__":
    main()
