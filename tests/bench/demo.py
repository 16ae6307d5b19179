"""The default demo against its peer, side by side: start-up, training speed, memory, and what was learned.

    python tests/bench/demo.py                       # two rounds of every arm; run it on an otherwise idle machine
    python tests/bench/demo.py --steps 3 --rounds 1 --only ours  # does this arm run at all? its numbers mean nothing

Arms, each in a fresh process, on the CPU, interleaved over the rounds (every other round backwards):
  app          `python app.py`: seconds to the first 200 of GET /, and until the page says that its engine is ready
  ours         `python -m playground tune`: the preset demo-en in the bit width that this CPU is faster at
  ours-bits16, ours-bits32   the same with `--bits`, where that isn't the default anyway
  peer-{f32,bf16}-{all,same} transformers.Trainer over peft.get_peft_model, as their own guides write it; same model, rows,
               tokens, LoRA settings, batch, epochs, rate, schedule, seed. all: adapters on all layers; same: as ours

What is compared. train_s: ours from the event `train` to the next phase, the peer's around `Trainer.train()`. Tokens:
all tokens of the trained rows, prompts included, padding not. peak_train: this process's resident memory from loading to
the end of training, read ten times a second by playground.memory.meter in both; peak_all: also while it is measured what
was learned. recall and loss_after: both by playground's own functions on the same held-out rows, outside train_s. wall_s:
the whole process (ours also measures the loss before training). Ratios are of medians, ours / peer. A failed arm stays
in the table and in the JSON with what it said.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from arms import (
    PROJECT,
    attempt,
    failures,
    gib,
    hf_trainer,
    last_line,
    ratios,
    report,
    returned,
    write,
)  # beside this file

from playground import catalog
from playground.data.batch import encode
from playground.data.source import read
from playground.data.template import choose_template
from playground.eval.answer_rows import answer_rows, answer_token_limit
from playground.eval.metrics import names_fact
from playground.memory.meter import Meter, hardware
from playground.model import adapt
from playground.model.load import default_bits
from playground.model.source import local_folder
from playground.runs import Run
from playground.settings import Settings
from playground.train.batching import Batcher
from playground.train.loss import Loss

PRESET = "demo-en"
PEERS = {f"peer-{dtype}-{layers}": (dtype, layers) for dtype in ("f32", "bf16") for layers in ("all", "same")}
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "gradio")
COLUMNS = {
    "train_s": "{:.1f}",
    "tokens_per_s": "{:.0f}",
    "peak_train_gib": "{:.2f}",
    "peak_all_gib": "{:.2f}",
    "loss_after": "{:.3f}",
    "recall_base": "{:.0%}",
    "recall_tuned": "{:.0%}",
    "wall_s": "{:.1f}",
    "bits": "{}",
    "first_page_s": "{:.2f}",
    "engine_ready_s": "{:.2f}",
}
COMPARED = ("train_s", "tokens_per_s", "peak_train_gib", "recall_tuned", "loss_after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--steps", type=int, default=0, help="stop every fine-tune after so many steps; 0: the whole demo"
    )
    parser.add_argument("--out", type=Path, default=PROJECT / "tests/bench/results/demo.json")
    parser.add_argument("--only", action="append", metavar="ARM", help="only this arm; may be given several times")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)  # what a peer's own process is started with
    asked = parser.parse_args()
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "GRADIO_ANALYTICS_ENABLED": "False", "TOKENIZERS_PARALLELISM": "false"}
    if asked.peer:
        print(json.dumps(peer(*PEERS[asked.peer], asked.steps)))
        return
    arms = {name: run for name, run in _arms(asked.steps).items() if not asked.only or name in asked.only}
    rounds = []
    for number in range(asked.rounds):
        for name in list(arms)[:: -1 if number % 2 else 1]:
            began, load = time.time(), round(os.getloadavg()[0], 2)
            found = attempt(arms[name])
            rounds.append(
                {"round": number + 1, "arm": name, "load_average": load, "wall_s": round(time.time() - began, 2)}
                | found
            )
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
            write(asked.out, _report(asked, rounds))
    _show(_report(asked, rounds))
    sys.exit(any("failed" in r for r in rounds))


# --- the arms ---


def _arms(steps: int) -> dict:
    default = default_bits("cpu")
    arms = {"app": start_up, "ours": lambda: ours([], steps)}
    arms |= {
        f"ours-bits{bits}": lambda bits=bits: ours(["--bits", str(bits)], steps) for bits in (16, 32) if bits != default
    }
    return arms | {
        name: lambda name=name: last_line([sys.executable, __file__, "--steps", str(steps), "--peer", name])
        for name in PEERS
    }


def start_up() -> dict:
    """Seconds from starting app.py to its first page, and to the engine being ready, as the page itself asks for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log", "w+") as log:
        began = time.perf_counter()
        command = [sys.executable, "app.py", "--host", "127.0.0.1", "--port", str(port), "--runs", f"{folder}/runs"]
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True)
        url = f"http://127.0.0.1:{port}"
        try:
            _until(lambda: urllib.request.urlopen(url, timeout=60).status == 200, process, 0.02)
            page = time.perf_counter() - began
            with urllib.request.urlopen(f"{url}/config", timeout=60) as answer:
                parts = json.load(answer)["components"]
            chart = next(
                c["id"] for c in parts if "since" in c["props"].get("server_fns", [])
            )  # the live chart's own question
            _until(lambda: _engine(url, chart) == "ready", process, 0.1)
            return {"first_page_s": round(page, 2), "engine_ready_s": round(time.perf_counter() - began, 2)}
        except Exception as error:
            log.seek(0)
            raise RuntimeError(f"{error!r}\n{log.read()[-1500:]}") from error
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # page and engine; nothing of theirs outlives the temporary folder
            process.wait()


def _engine(url: str, chart: int) -> str:
    body = json.dumps({"session_hash": "bench", "component_id": chart, "fn_name": "since", "data": {}}).encode()
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/gradio_api/component_server", body, {"Content-Type": "application/json"}),
        timeout=60,
    ) as answer:
        return json.load(answer)["engine"]


def _until(right, process: subprocess.Popen, pause: float) -> None:
    end = time.time() + 300
    while time.time() < end and process.poll() is None:
        try:
            if right():
                return
        except OSError:
            pass  # nobody listens yet
        time.sleep(pause)
    raise RuntimeError(f"not within 300 s, or ended before: {process.poll()}")


def ours(flags: list[str], steps: int) -> dict:
    """The demo as a person runs it, read from its JSON and from its run's events."""
    with tempfile.TemporaryDirectory() as folder:
        result = last_line(
            [
                sys.executable,
                "-m",
                "playground",
                "tune",
                "--preset",
                PRESET,
                "--runs",
                folder,
                "--steps",
                str(steps),
                *flags,
            ]
        )
        run = Run(Path(folder) / result["run"])
        events, bits = list(run.events()), run.settings().load.bits
    phases = [e for e in events if e["kind"] == "phase"]
    start, end = next((now["t"], after["t"]) for now, after in pairwise(phases) if now["name"] == "train")
    tokens = [e for e in events if e["kind"] == "step"][-1]["tokens"]
    return {
        "bits": str(bits),
        "job_s": result["seconds"],
        "train_s": round(end - start, 2),
        "steps": result["steps"],
        "tokens": tokens,
        "tokens_per_s": round(tokens / (end - start), 1),
        "tokens_per_s_said": result["tokens_per_s"],
        "peak_train_gib": gib(max(e["rss"] for e in events if e["kind"] == "memory" and e["t"] <= end)),
        "peak_all_gib": gib(result["peak"]["rss"]),
        "loss_before": result["loss"]["before"],
        "loss_after": result["loss"]["after"],
        **{f"recall_{side}": share for side, share in (result["recall"] or {}).items()},
    }


def peer(dtype: str, layers: str, steps: int) -> dict:
    """The same fine-tune through Trainer and PEFT. Runs in a process of its own.

    bf16 is weights in bfloat16 under `bf16=True`; on a CPU with AVX-512 bf16 but no AMX the peer is far slower without that.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    chosen = Settings().with_values(catalog.presets()[PRESET]["settings"])
    lora, train, half = chosen.lora, chosen.train, dtype == "bf16"
    gauge, began = Meter(lambda now: None).start(), time.perf_counter()
    folder = local_folder(chosen.load.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if half else torch.float32)
    template, examples, measured = _rows(chosen, tokenizer)
    last = model.config.num_hidden_layers
    set_seed(train.seed)
    model = get_peft_model(
        model,
        LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            task_type="CAUSAL_LM",
            target_modules=adapt.resolve_target_modules(
                model, lora.target_modules
            ),  # not "all-linear": PEFT refuses layers_to_transform beside a string
            layers_to_transform=list(range(last - lora.layers, last)) if layers == "same" and lora.layers else None,
        ),
    )
    with tempfile.TemporaryDirectory() as out:
        counted = {
            "use_cpu": True,
            "bf16": half,
            "dataloader_pin_memory": False,
            "include_num_input_tokens_seen": "non_padding",
        }
        trainer, _ = hf_trainer(model, tokenizer, examples, replace(train, max_steps=steps), out, **counted)
        start = time.perf_counter()
        trainer.train()
        train_s = time.perf_counter() - start
    gauge.take()
    peak, tokens = gauge.peak["rss"], int(trainer.state.num_input_tokens_seen)
    loss, recalled = _learned(model, template, measured, examples, chosen)
    gauge.stop()
    return {
        "bits": "16" if half else "32",
        "job_s": round(time.perf_counter() - began, 2),
        "train_s": round(train_s, 2),
        "steps": trainer.state.global_step,
        "tokens": tokens,
        "tokens_per_s": round(tokens / train_s, 1),
        "peak_train_gib": gib(peak),
        "peak_all_gib": gib(gauge.peak["rss"]),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "threads": torch.get_num_threads(),
        "loss_after": round(loss, 5),
        **{f"recall_{side}": share for side, share in recalled.items()},
    }


def _rows(chosen, tokenizer):
    """The template, the examples to train on and the rows to measure on, as playground.jobs takes them."""
    rows = read(chosen.data)
    template = choose_template(chosen.data.prompt_format, tokenizer, [r.instruction for r in rows.train])
    examples, _ = encode(rows.train, template, chosen.train.max_seq_length, chosen.data.train_on_prompt)
    return template, examples, rows.held_out[:: max(1, -(-len(rows.held_out) // chosen.train.eval_rows))]


def _learned(model, template, measured, examples, chosen) -> tuple[float, dict]:
    """Loss and recall of the peer's adapter on the held-out rows, by the functions that measure ours."""
    import torch

    apart, _ = encode(measured, template, chosen.train.max_seq_length)
    loss_module = Loss(model.eval())
    batcher = Batcher(loss_module, examples + apart, template.tokenizer.pad_token_id or 0, "cpu")
    made = [batcher.batch(part) for part in batcher.parts(sorted(apart, key=lambda e: len(e.ids)), 16)]
    with torch.no_grad():
        loss = sum(loss_module(batch).item() for batch in made) / sum(batch.labelled for batch in made)
    told = returned(
        answer_rows(
            model, template, measured, ("base", "tuned"), answer_token_limit(measured, template), threading.Event()
        )
    )
    return loss, {
        side: round(sum(names_fact(a.text, row) for a, row in zip(answers, measured)) / len(measured), 4)
        for side, answers in told.items()
    }


# --- running and reporting ---


def _report(asked, rounds: list[dict]) -> dict:
    what, steps = "playground's default demo beside transformers.Trainer + PEFT, CPU", asked.steps or "whole demo"
    found = report(what, LIBRARIES, rounds, hardware=hardware("cpu"), preset=PRESET, steps=steps)
    middle = found["medians"]
    pairs = [(our, their) for our in middle if our.startswith("ours") for their in middle if their in PEERS]
    return found | {
        "ratios": {f"{our} / {their}": ratios(middle[our], middle[their], COMPARED) for our, their in pairs}
    }


def _show(found: dict) -> None:
    print(
        f"\n{found['hardware']['name']}, {found['hardware']['cores']} cores, {gib(found['hardware']['capacity'])} GiB; steps: {found['steps']}\n"
    )
    print(f"{'arm':16}{'worked':>8}" + "".join(f"{c:>16}" for c in COLUMNS))
    for arm, row in found["medians"].items():
        cells = (form.format(row[c]) if row.get(c) is not None else "-" for c, form in COLUMNS.items())
        print(
            f"{arm:16}{row['worked']:>4} of {row['worked'] + row['failed']}" + "".join(f"{cell:>16}" for cell in cells)
        )
    print(f"\n{'ours / peer':36}" + "".join(f"{c:>16}" for c in COMPARED))
    for pair, row in found["ratios"].items():
        print(f"{pair:36}" + "".join(f"{row[c]:>16.2f}" if c in row else f"{'-':>16}" for c in COMPARED))
    print(failures(found["rounds"]))


if __name__ == "__main__":
    main()
