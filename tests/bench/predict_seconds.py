"""Compare predicted with measured seconds: steps of a fine-tune, tokens of a chat, and loads.

    python tests/bench/predict_seconds.py                    # the CPU's cells; about 4 minutes on two cores
    python tests/bench/predict_seconds.py --device cuda      # shapes of real models with random weights, on one GPU
    python tests/bench/predict_seconds.py --loads            # loads instead, beside the other cells of the result file
    python tests/bench/predict_seconds.py --toy              # a toy instead of each model, to try the benchmark

A cell is model:bits:checkpointing:rows:adapter; on a CPU each has a new process, on a GPU one process measures all, so
that none imports while another is measured. Rows are a step's, as mix (32 rows, 5,024 tokens, at most 256 a row) or
rows x tokens; every cell also measures a chat's tokens (two rows, 1,024 tokens on CUDA, 256 on a CPU). What the machine
reaches is measured once, before the first cell, by playground/predict/calibration.py, and never fitted to the cells. A
cell's `forecasts` have predicted seconds by kind of kernel, its `calls` what the trace counts: [stage, kind,
operations, bytes, count]; with --profile, `profile` has the profiler's count and seconds by name of the kernel, of one
step and of eight tokens after a short prompt.
`percent_of_others` is what other processes used of all cores while a cell was measured; on a CPU a cell with more
than a calibration may have is `disturbed` and counts in no error.
A cell of loads is load:model:width, in predict_loads.py.
On a machine with other work, `--own-time` takes the seconds of the processor (one thread) instead of the clock's.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arms
import predict_loads
import random_models

import playground  # noqa: F401  # before torch: how its threads wait is decided here

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
CUDA_MODELS = {
    "llama": "meta-llama/Llama-2-7b-hf",
    "calm": "cyberagent/open-calm-7b",
    "qwen2-1b": "Qwen/Qwen2.5-1.5B",
    "qwen2": "Qwen/Qwen2.5-3B",
    "gemma": "google/gemma-2b",
    "bloom": "bigscience/bloom-1b7",
    "opt": "facebook/opt-2.7b",
}
CPU_MODELS = {
    "smollm2": "smollm2-135m-instruct",
    "gemma3": "gemma-3-270m",
    "bloom-toy": ("bloom", {"hidden_size": 512, "n_layer": 6, "n_head": 8, "vocab_size": 8192}),
    "neox-toy": (
        "gpt_neox",
        {
            "hidden_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "intermediate_size": 2048,
            "vocab_size": 8192,
        },
    ),
    "opt-toy": (
        "opt",
        {
            "hidden_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "ffn_dim": 2048,
            "vocab_size": 8192,
            "word_embed_proj_dim": 512,
        },
    ),
}
CUDA_CELLS = [
    *("qwen2-1b:16:off:mix:lora", "llama:16:off:mix:lora", "llama:4:all:mix:lora", "calm:16:all:mix:lora"),
    *("calm:4:2:mix:lora", "qwen2:16:off:16x512:lora", "qwen2:4:all:4x1024:lora", "qwen2:8:off:mix:lora"),
    *("llama:4:off:mix:lora", "qwen2-1b:4:off:4x128:lora", "qwen2-1b:32:off:mix:lora", "qwen2-1b:16:off:mix:full"),
    *("gemma:16:off:mix:lora", "gemma:4:all:8x256:lora", "bloom:16:all:mix:lora", "opt:4:off:mix:lora"),
]
CPU_CELLS = [
    *("smollm2:32:off:8x64:lora", "smollm2:32:all:8x64:lora", "smollm2:32:off:2x256:lora", "smollm2:4:off:4x64:lora"),
    *("smollm2:32:off:16x32:lora", "smollm2:8:off:4x64:lora", "smollm2:32:off:4x64:full", "gemma3:32:off:4x64:lora"),
    *("gemma3:4:all:4x64:lora", "gemma3:32:all:2x128:lora", "bloom-toy:32:off:8x64:lora", "neox-toy:32:all:8x64:lora"),
    *("neox-toy:4:off:8x64:lora", "opt-toy:32:off:8x128:lora", "opt-toy:8:all:4x64:lora"),
]
TOY = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "num_key_value_heads": 4,
    "vocab_size": 512,
}
STEPS = {"cuda": 9, "cpu": 3}
TOKENS = {"cuda": 24, "cpu": 10}
CONTEXT = {"cuda": 1024, "cpu": 256}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--only", action="append", metavar="CELL", help="may be given several times (all)")
    parser.add_argument("--loads", action="store_true", help="cells of loads; other cells of the result file stay")
    parser.add_argument("--toy", action="store_true", help="a toy of three layers instead of each model")
    parser.add_argument("--profile", action="store_true", help="time kernels, which slows later cells (CUDA)")
    parser.add_argument("--own-time", action="store_true", help="the processor's seconds instead of the clock's")
    parser.add_argument("--limit", type=float, default=300, help="seconds after which no cell is begun (CUDA)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.own_time:
        use_own_time()
    if options.cell:
        print(json.dumps(run_cell(options.cell, options)))
        return
    out = options.out or arms.PROJECT / f"tests/bench/results/predict_seconds_{options.device}.json"
    run_all(options, out)


def run_all(options: argparse.Namespace, out: Path) -> None:
    """Calibrate, then run every cell, and write the result file after each."""
    cells = options.only or (CUDA_CELLS if options.device == "cuda" else CPU_CELLS)
    results: list[dict] = []
    if options.loads:
        results = predict_loads.other_cells(out)
        cells = options.only or predict_loads.cells(options.device)
    with tempfile.TemporaryDirectory() as work:
        options.work, until = Path(work), time.time() + options.limit
        run = _run_here if options.device == "cuda" else _run_in_new_process
        for cell in (predict_loads.CALIBRATE if options.loads else "calibrate", *cells):
            if options.device == "cuda" and time.time() > until:
                results.append({"cell": cell, "failed": "no time left"})
                continue
            results.append({"cell": cell} | arms.attempt(lambda cell=cell: run(cell, options)))
            short = {k: v for k, v in results[-1].items() if k not in ("forecasts", "calls", "profile", "rates")}
            print(json.dumps(short), file=sys.stderr, flush=True)
            report = arms.report(
                "predicted and measured seconds",
                LIBRARIES,
                [],
                errors=summary(results),
                own_time=options.own_time,
                toy=options.toy,
                cells=results,
            )
            arms.write(out, report)
    print(json.dumps(report["errors"], indent=1))


def _run_in_new_process(cell: str, options: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--device", options.device, "--work", str(options.work), "--cell", cell]
    command += [flag for flag in ("--toy", "--own-time") if getattr(options, flag[2:].replace("-", "_"))]
    return arms.last_line(command)


def _run_here(cell: str, options: argparse.Namespace) -> dict:
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    from playground.memory.release import release_memory

    try:
        return run_cell(cell, options)
    finally:
        release_memory()


def run_cell(name: str, options: argparse.Namespace) -> dict:
    """Measure one cell, or calibrate and write what was measured."""
    if name == "calibrate":
        return calibrate(options)
    if name.startswith("load:"):
        return predict_loads.run_cell(name, options.device, options.work, options.toy)
    return measure_step_and_chat(name, options)


def calibrate(options: argparse.Namespace) -> dict:
    """Measure what the machine reaches, all code imported before: in the program it is too."""
    from dataclasses import asdict

    import playground.predict.phases
    import playground.train.loop  # noqa: F401
    from playground.memory.meter import hardware
    from playground.predict import calibration

    if options.device == "cuda":
        import bitsandbytes  # noqa: F401
        import torch

        torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")  # CUDA is there before, as in the program
    began = time.perf_counter()
    rates = asdict(calibration.measure(options.device))
    seconds = time.perf_counter() - began
    (options.work / "rates").write_text(json.dumps(rates), encoding="utf-8")
    return {"seconds": round(seconds, 2), "hardware": hardware(options.device), "rates": rates}


def measure_step_and_chat(name: str, options: argparse.Namespace) -> dict:
    """Predict and measure steps of a fine-tune and tokens of a chat."""
    import torch

    from playground.predict import phases
    from playground.predict.seconds import predict_seconds, predict_token_seconds
    from playground.settings import Settings
    from playground.speed.rates import Rates

    model, bits, policy, rows, adapter = name.split(":")
    device, examples = options.device, _examples(rows, options.toy)
    half = torch.bfloat16 if device == "cuda" else torch.float32
    dtype = torch.float32 if bits == "32" else half
    config = _config(model, options)
    train = {"batch_size": len(examples), "max_steps": STEPS[device], "gradient_checkpointing": policy}
    train |= {"compile": "off", "method": "full" if adapter == "full" else "lora", "max_seq_length": 4096}
    settings = Settings().with_values({"load": {"bits": int(bits)}, "train": train})
    target = phases.Target(device, dtype)
    lengths, labelled = [len(e.ids) for e in examples], [e.labelled for e in examples]
    began = time.perf_counter()
    chat = phases.predict_chat(config, settings, target, CONTEXT[device])["calls"]
    tune = phases.predict_tune(config, settings, target, lengths, labelled)
    tracing = time.perf_counter() - began
    network = without_values(config, dtype)
    rates = Rates(**json.loads((options.work / "rates").read_text(encoding="utf-8")))
    measured, details = _measure(network, settings, dtype, examples, options)
    if tune["batching"] != details["batching"]:
        tune = phases.predict_tune(config, settings, target, lengths, labelled, batching=details["batching"])
    forecasts = {
        "step": predict_seconds(tune["calls"], rates, "tune"),
        "token": predict_token_seconds(chat, rates),
    }
    return {
        "predicted": {what: one and round(one["seconds"], 5) for what, one in forecasts.items()},
        "measured": {what: round(value, 5) for what, value in measured.items()},
        "error": {
            what: one and round(100 * (one["seconds"] / measured[what] - 1), 1) for what, one in forecasts.items()
        },
        "tracing_s": round(tracing, 2),
        **details,
        "forecasts": forecasts,
        "calls": {"step": tune["calls"], "token": [one for one in chat if one.stage == "decode"]},
    }


def _measure(network: Any, settings: Any, dtype: Any, examples: list, options: argparse.Namespace) -> tuple[dict, dict]:
    """({"step", "token": seconds}, details)."""
    from playground.model.load import LoadedModel
    from playground.predict.calibration import BUSY_PERCENT, percent_of_others, processor_seconds
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer, try_batching

    device = options.device
    network = random_models.with_random_weights(network, settings.load.bits, device)
    loaded = LoadedModel(network, SimpleNamespace(pad_token_id=random_models.PAD), device, dtype, "")
    began = processor_seconds()
    token, token_profile = _token_seconds(loaded, CONTEXT[device], TOKENS[device], options.profile)
    batching = try_batching(loaded, examples, []).mode
    trainer = prepare_trainer(loaded, settings, examples, [], Team(device), batching=batching)
    seconds, profile = _step_seconds(trainer, examples, settings.train, device, options.profile)
    measured = {"step": statistics.median(seconds), "token": token}
    policy = trainer.plan.policy
    details = {"steps": [round(one, 5) for one in seconds], "batching": batching}
    details["profile"] = {"step": profile, "token": token_profile}
    others = percent_of_others(began, processor_seconds())
    details["percent_of_others"] = round(others, 1)
    details["disturbed"] = device == "cpu" and not options.own_time and others > BUSY_PERCENT
    return measured, details | {"policy": [policy.checkpointing, policy.tokens]}


def _token_seconds(loaded: Any, context: int, tokens: int, profiled: bool) -> tuple[float, dict]:
    """Seconds of a token of a greedy answer, the prompt left out: the difference of a long and a short answer.

    profiled: with the profile of an answer of eight tokens to a short prompt.
    """
    import torch

    from playground.predict.phase_traces import CHAT_ROWS

    ids = torch.full((CHAT_ROWS, context - tokens), 5, dtype=torch.long, device=loaded.device)

    def generate(count: int, prompt: int = context - tokens) -> float:
        began, row = clock(), ids[:, :prompt]
        with torch.no_grad():
            loaded.model.generate(
                row,
                attention_mask=torch.ones_like(row),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=random_models.PAD,
            )
        if loaded.device == "cuda":
            torch.cuda.synchronize()
        return clock() - began

    generate(2)
    seconds = (min(generate(tokens) for _ in range(2)) - min(generate(2) for _ in range(2))) / (tokens - 2)
    return seconds, _profile(lambda: generate(8, 8)) if profiled else {}


def _profile(run: Callable[[], Any]) -> dict[str, list[float]]:
    """{name of a kernel: [count, seconds]} of the 30 kernels that take most of the GPU's time."""
    import torch

    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    found = sorted(profiler.key_averages(), key=lambda one: -one.self_device_time_total)[:30]
    return {one.key[:90]: [one.count, round(one.self_device_time_total / 1e6, 6)] for one in found}


def _step_seconds(trainer: Any, examples: list, train: Any, device: str, profiled: bool) -> tuple[list[float], dict]:
    """Seconds of each step but the first two (one on a CPU); profiled: with the profile of one more.

    There the last step's event comes right after the one before, since events wait for the next step's work.
    """
    import threading
    from dataclasses import replace

    from playground.train.loop import fine_tune

    seconds, last = [], clock()
    for _ in fine_tune(trainer, examples, train, threading.Event()):
        seconds.append(clock() - last)
        last = clock()
    profile: dict[str, list[float]] = {}
    if profiled:
        more = replace(train, max_steps=train.max_steps + 1)
        profile = _profile(lambda: list(fine_tune(trainer, examples, more, threading.Event())))
    return seconds[2:-1] if device == "cuda" else seconds[1:], profile


def _config(model: str, options: argparse.Namespace) -> Any:
    from transformers import AutoConfig

    from playground.predict import meta_model

    chosen = CUDA_MODELS.get(model) or CPU_MODELS[model]
    config = meta_model.config_of(chosen) if isinstance(chosen, str) else AutoConfig.for_model(chosen[0], **chosen[1])
    if options.toy:
        for name, value in TOY.items():
            if hasattr(config, name):
                setattr(config, name, value)
        if hasattr(config, "layer_types") and config.layer_types:
            config.layer_types = config.layer_types[: config.num_hidden_layers]
    return config


def without_values(config: Any, dtype: Any) -> Any:
    """The model, to be filled with random weights."""
    from accelerate import init_empty_weights

    from playground.model.load import model_from_config

    with init_empty_weights(include_buffers=False):
        network = model_from_config(config, dtype)
    network.tie_weights()
    return network


def _examples(rows_and_tokens: str, toy: bool) -> list:
    """One step's examples: "mix", or rows x tokens."""
    from playground.data.batch import Example

    if rows_and_tokens == "mix":
        return random_models.example_rows()[:: 8 if toy else 1]
    rows, tokens = map(int, rows_and_tokens.split("x"))
    if toy:
        rows, tokens = min(rows, 2), min(tokens, 32)
    return [
        Example([5 + (7 * row + n) % 400 for n in range(tokens)], round(tokens * (1 - random_models.LABELLED)))
        for row in range(rows)
    ]


def summary(cells: list[dict]) -> dict:
    """Median and worst absolute error in %, of steps, tokens, loads and all, of cells that nothing disturbed."""
    result = {}
    for what in ("step", "token", "load", "all"):
        errors = [
            error
            for cell in cells
            if "error" in cell and not cell.get("disturbed")
            for name, error in cell["error"].items()
            if what in (name.partition(" ")[0], "all") and error is not None
        ]
        if errors:
            sizes = [abs(error) for error in errors]
            result[what] = {"count": len(sizes), "median": round(statistics.median(sizes), 1), "worst": max(sizes)}
    return result


def clock() -> float:
    """Seconds of the clock, or of the processor."""
    return _clock()


_clock = time.perf_counter


def use_own_time() -> None:
    """Take the processor's seconds instead of the clock's, also to calibrate; with one thread."""
    global _clock
    from playground.speed import kernels

    _clock = kernels.clock = time.process_time
    os.environ["OMP_NUM_THREADS"] = "1"


if __name__ == "__main__":
    main()
