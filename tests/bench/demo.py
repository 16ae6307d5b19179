"""Compare the default demo with its peer: start-up, training speed, memory, and recall.

    python tests/bench/demo.py                       # two rounds of every arm; run it on an otherwise idle machine
    python tests/bench/demo.py --steps 3 --rounds 1 --only ours  # does it run? no meaningful figures

Arms, each in a new process, on the CPU, interleaved over the rounds (every other round backwards):
  app          `python app.py`: seconds to the first 200 of GET /, and until the page says that its engine is ready
  ours         `python -m playground tune`: the preset demo-en in the bit width that this CPU is faster at
  ours-bits16, ours-bits32   the same with `--bits`, where that isn't the default
  peer-{f32,bf16}-{all,same} transformers.Trainer over peft.get_peft_model, as their own guides write it; same model,
               rows, tokens, LoRA settings, batch, epochs, rate, schedule, seed. all: adapters on all layers;
               same: as ours

Compared are train_s: ours from the event `train` to the next phase, the peer's around `Trainer.train()`. Tokens: all
tokens of the trained rows, prompts included, padding not. peak_train: this process's resident memory from loading to
the end of training, read ten times a second by playground.memory.meter in both; peak_all: evaluation included. recall
and loss_after: both by playground's own functions on the same held-out rows, outside train_s. wall_s: the whole
process (ours also measures the loss before training). Ratios are of medians, ours / peer. A failed arm stays in the
table and in the JSON with its error.
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
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from arms import PROJECT, attempt, failures, gib, last_line, ratios, report, return_value, write
from peer import hf_trainer

from playground import catalog
from playground.data.batch import Example, encode
from playground.data.row import Row
from playground.data.source import read
from playground.data.template import Template
from playground.data.template_choice import choose_template
from playground.eval.answer_rows import answer_rows, answer_token_limit
from playground.eval.metrics import names_fact
from playground.memory.meter import Meter, hardware
from playground.model import adapt
from playground.model.dtype import default_bits
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
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--steps", type=int, default=0, help="stop every fine-tune after this many steps; 0: the whole demo"
    )
    parser.add_argument("--out", type=Path, default=PROJECT / "tests/bench/results/demo.json")
    parser.add_argument("--only", action="append", metavar="ARM", help="only this arm; may be given several times")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)  # what a peer's own process is started with
    options = parser.parse_args()
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "GRADIO_ANALYTICS_ENABLED": "False", "TOKENIZERS_PARALLELISM": "false"}
    if options.peer:
        print(json.dumps(train_peer(*PEERS[options.peer], options.steps)))
        return
    arms = {name: run for name, run in _arms(options.steps).items() if not options.only or name in options.only}
    rounds: list[dict] = []
    for number in range(options.rounds):
        for name in list(arms)[:: -1 if number % 2 else 1]:
            began, load = time.time(), round(os.getloadavg()[0], 2)
            result = attempt(arms[name])
            seconds = round(time.time() - began, 2)
            rounds.append({"round": number + 1, "arm": name, "load_average": load, "wall_s": seconds} | result)
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
            write(options.out, _report(options.steps, rounds))
    _print(_report(options.steps, rounds))
    sys.exit(any("failed" in r for r in rounds))


def _arms(steps: int) -> dict[str, Callable[[], dict]]:
    """{name: function that runs the arm}."""
    default = default_bits("cpu")
    arms = {"app": time_start, "ours": lambda: train_ours([], steps)}
    arms |= {
        f"ours-bits{bits}": lambda bits=bits: train_ours(["--bits", str(bits)], steps)
        for bits in (16, 32)
        if bits != default
    }
    return arms | {
        name: lambda name=name: last_line([sys.executable, __file__, "--steps", str(steps), "--peer", name])
        for name in PEERS
    }


def time_start() -> dict:
    """Seconds from starting app.py to its first page, and to the engine being ready, as the page itself learns it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log", "w+") as log:
        began = time.perf_counter()
        command = [sys.executable, "app.py", "--host", "127.0.0.1", "--port", str(port), "--runs", f"{folder}/runs"]
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_until(lambda: urllib.request.urlopen(url, timeout=60).status == 200, process, 0.02)
            page = time.perf_counter() - began
            with urllib.request.urlopen(f"{url}/config", timeout=60) as answer:
                parts = json.load(answer)["components"]
            chart = next(c["id"] for c in parts if "since" in c["props"].get("server_fns", []))  # the live chart
            _wait_until(lambda: _engine_state(url, chart) == "ready", process, 0.1)
            return {"first_page_s": round(page, 2), "engine_ready_s": round(time.perf_counter() - began, 2)}
        except Exception as error:
            log.seek(0)
            raise RuntimeError(f"{error!r}\n{log.read()[-1500:]}") from error
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # page and engine, before their temporary folder goes
            process.wait()


def _engine_state(url: str, chart: int) -> str:
    """The engine's state, requested from the page's server as the live chart does."""
    body = json.dumps({"session_hash": "bench", "component_id": chart, "fn_name": "since", "data": {}}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/gradio_api/component_server", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["engine"]


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen, pause: float) -> None:
    """Wait until a condition holds. Raises RuntimeError after 300 s, or when the process ends."""
    end = time.time() + 300
    while time.time() < end and process.poll() is None:
        try:
            if condition():
                return
        except OSError:
            pass  # the server doesn't listen yet
        time.sleep(pause)
    raise RuntimeError(f"no success within 300 s; exit status: {process.poll()}")


def train_ours(flags: list[str], steps: int) -> dict:
    """Run the demo by the command line; figures from its JSON and from its run's events."""
    command = [sys.executable, "-m", "playground", "tune", "--preset", PRESET, "--max-steps", str(steps), *flags]
    with tempfile.TemporaryDirectory() as folder:
        result = last_line([*command, "--runs", folder])
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


def train_peer(dtype: str, layers: str, steps: int) -> dict:
    """Run the same fine-tune with Trainer and PEFT, in this process.

    bf16: weights in bfloat16 under `bf16=True`; on a CPU with AVX-512 bf16 but no AMX the peer is far slower
    without it.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    settings = Settings().with_values(catalog.presets()[PRESET]["settings"])
    lora, train, half = settings.lora, settings.train, dtype == "bf16"
    meter, began = Meter(lambda now: None).start(), time.perf_counter()
    folder = local_folder(settings.load.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if half else torch.float32)
    template, examples, held_out = _rows(settings, tokenizer)
    last = model.config.num_hidden_layers
    same_layers = list(range(last - lora.layers, last)) if layers == "same" and lora.layers else None
    set_seed(train.seed)
    lora_config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        task_type="CAUSAL_LM",
        # names instead of "all-linear": PEFT refuses layers_to_transform together with a string
        target_modules=adapt.resolve_target_modules(model, lora.target_modules),
        layers_to_transform=same_layers,
    )
    model = get_peft_model(model, lora_config)
    with tempfile.TemporaryDirectory() as out:
        arguments: dict[str, Any] = {
            "use_cpu": True,
            "bf16": half,
            "dataloader_pin_memory": False,
            "include_num_input_tokens_seen": "non_padding",
        }
        trainer, _ = hf_trainer(model, tokenizer, examples, replace(train, max_steps=steps), out, **arguments)
        start = time.perf_counter()
        trainer.train()
        train_s = time.perf_counter() - start
    meter.take()
    peak, tokens = meter.peak["rss"], int(trainer.state.num_input_tokens_seen)
    loss, recall = _evaluate(model, template, held_out, examples, settings)
    meter.stop()
    return {
        "bits": "16" if half else "32",
        "job_s": round(time.perf_counter() - began, 2),
        "train_s": round(train_s, 2),
        "steps": trainer.state.global_step,
        "tokens": tokens,
        "tokens_per_s": round(tokens / train_s, 1),
        "peak_train_gib": gib(peak),
        "peak_all_gib": gib(meter.peak["rss"]),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "threads": torch.get_num_threads(),
        "loss_after": round(loss, 5),
        **{f"recall_{side}": share for side, share in recall.items()},
    }


def _rows(settings: Settings, tokenizer: Any) -> tuple[Template, list[Example], Sequence[Row]]:
    """The template, the training examples and the held-out rows, as playground's own job chooses them."""
    rows = read(settings.data)
    template = choose_template(settings.data.prompt_format, tokenizer, [r.instruction for r in rows.train])
    examples, _ = encode(rows.train, template, settings.train.max_seq_length, settings.data.train_on_prompt)
    return template, examples, rows.held_out[:: max(1, -(-len(rows.held_out) // settings.train.eval_rows))]


def _evaluate(
    model: Any, template: Template, held_out: Sequence[Row], examples: list[Example], settings: Settings
) -> tuple[float, dict[str, float]]:
    """Loss and recall of the peer's adapter on the held-out rows, by the same functions as ours."""
    import torch

    apart, _ = encode(held_out, template, settings.train.max_seq_length)
    loss_module = Loss(model.eval())
    batcher = Batcher(loss_module, examples + apart, template.tokenizer.pad_token_id or 0, "cpu")
    made = [batcher.batch(part) for part in batcher.micro_batches(sorted(apart, key=lambda e: len(e.ids)), 16)]
    with torch.no_grad():
        loss = sum(loss_module(batch).item() for batch in made) / sum(batch.labelled for batch in made)
    limit = answer_token_limit(held_out, template)
    answers = return_value(answer_rows(model, template, held_out, ("base", "tuned"), limit, threading.Event()))
    return loss, {
        side: round(sum(names_fact(a.text, row) for a, row in zip(of_side, held_out)) / len(held_out), 4)
        for side, of_side in answers.items()
    }


def _report(steps: int, rounds: list[dict]) -> dict:
    what = "playground's default demo and transformers.Trainer + PEFT, CPU"
    result = report(what, LIBRARIES, rounds, hardware=hardware("cpu"), preset=PRESET, steps=steps or "whole demo")
    medians = result["medians"]
    pairs = [(ours, peer) for ours in medians if ours.startswith("ours") for peer in medians if peer in PEERS]
    return result | {
        "ratios": {f"{ours} / {peer}": ratios(medians[ours], medians[peer], COMPARED) for ours, peer in pairs}
    }


def _print(result: dict) -> None:
    machine = result["hardware"]
    capacity = gib(machine["capacity"])
    print(f"\n{machine['name']}, {machine['cores']} cores, {capacity} GiB; steps: {result['steps']}\n")
    print(f"{'arm':16}{'worked':>8}" + "".join(f"{c:>16}" for c in COLUMNS))
    for arm, row in result["medians"].items():
        cells = (form.format(row[c]) if row.get(c) is not None else "-" for c, form in COLUMNS.items())
        print(
            f"{arm:16}{row['worked']:>4} of {row['worked'] + row['failed']}" + "".join(f"{cell:>16}" for cell in cells)
        )
    print(f"\n{'ours / peer':36}" + "".join(f"{c:>16}" for c in COMPARED))
    for pair, row in result["ratios"].items():
        print(f"{pair:36}" + "".join(f"{row[c]:>16.2f}" if c in row else f"{'-':>16}" for c in COMPARED))
    print(failures(result["rounds"]))


if __name__ == "__main__":
    main()
