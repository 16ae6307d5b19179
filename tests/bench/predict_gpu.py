"""Compare predicted with measured memory on one GPU: shapes of real models with random weights.

    python tests/bench/predict_gpu.py                     # every cell; about 10 minutes on an H100
    python tests/bench/predict_gpu.py --only 'llama*'

Each cell runs in a new process and is named model:bits:method:checkpointing:rows:attention. The method is LoRA r 8 on
all linear layers (lora), on others by name, or full; modules trained in full stand behind a plus. Rows are a step's,
as mix (32 rows, 5,024 tokens, at most 256 a row) or rows x tokens. Two phases are compared: tune (three steps) and chat
(two rows, 1,024 tokens). Cells load:model:bits read random weights from disk. Predictions are made from the config
alone before the model exists.
Errors are signed, in % of the measurement; device is everything in use on the GPU. Halves: `known` are the families
and settings that the prediction was built with; `held_out` are those that were measured only afterwards.
"""

import argparse
import fnmatch
import json
import math
import os
import statistics
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import SimpleNamespace

import arms
import random_models
from gpu_training import exclusive_gpu, used_bytes
from train_gpu import LIBRARIES

MODELS = {
    "calm": "cyberagent/open-calm-7b",
    "dolly": "databricks/dolly-v2-12b",
    "pythia": "EleutherAI/pythia-2.8b",
    "llama": "meta-llama/Llama-2-7b-hf",
    "bloom": "bigscience/bloom-1b7",
    "bloom-small": "bigscience/bloom-560m",
    "falcon": "tiiuae/falcon-7b",
    "opt": "facebook/opt-2.7b",
    "opt-1b": "facebook/opt-1.3b",
    "gptj": "EleutherAI/gpt-j-6b",
    "qwen2": "Qwen/Qwen2.5-3B",
    "qwen2-1b": "Qwen/Qwen2.5-1.5B",
    "gemma": "google/gemma-2b",
    "t5": "bigscience/T0_3B",
    "mt5": "bigscience/mt0-large",
    **{name: str(file) for name, file in random_models.SHAPE_FILES.items()},
}
USUAL = ["16:lora:off", "8:lora:all", "4:lora:off", "4:lora:2", "4:lora:all"]
KNOWN = [
    *(f"{model}:{how}:mix:sdpa" for model in ("calm", "llama", "qwen2") for how in USUAL),
    *(
        f"{model}:{bits}:lora:all:mix:{how}"
        for model, how in (("falcon", "sdpa"), ("gptj", "eager"), ("bloom", "eager"))
        for bits in (16, 4)
    ),
]
HELD_OUT = [
    *(f"{model}:{how}:mix:sdpa" for model in ("opt", "gemma") for how in USUAL),
    *(f"{how}:sdpa" for how in ("llama:4:lora:all:4x2048", "qwen2:4:lora:off:16x512", "calm:4:lora:all:8x1024")),
    *(f"{model}:32:lora:{policy}:mix:sdpa" for model, policy in (("qwen2", "all"), ("opt", "off"))),
    *(f"{how}:mix:sdpa" for how in ("qwen2-1b:16:full:off", "qwen2-1b:32:full:all", "opt-1b:16:full:all")),
    *(
        f"{how}:mix:eager"
        for how in (
            "qwen2:4:lora:all",
            "pythia:16:lora:off",
            "bloom-small:32:full:off",
            "bloom:8:lora:2",
            "gptj:8:lora:all",
        )
    ),
    *(
        f"{how}:mix:sdpa"
        for how in ("qwen2:4:q_proj,v_proj:off", "calm:4:query_key_value:2", "dolly:8:lora:all", "dolly:4:lora:all")
    ),
    *(
        f"{how}:mix:sdpa"
        for how in ("mt5:16:lora:off", "mt5:4:lora:all", "t5:16:lora:all", "t5:4:lora:2", "t5:4:lora:all")
    ),
    *(
        f"{how}:mix:sdpa"
        for how in (
            *("gemma3-4b:16:lora:all", "gemma3-4b:4:lora:off", "qwen2-vl-2b:16:lora:off", "qwen2-vl-2b:4:lora:all"),
            *("olmoe-1b-7b:16:lora:all", "olmoe-1b-7b:4:lora:off"),
            *("qwen2-1b:16:lora+embed_tokens:off", "qwen2-1b:4:lora+embed_tokens:all"),
        )
    ),
    "bloom:16:lora:all:4x1024:eager",
    "mt5:32:lora:off:mix:sdpa",
]
LOADS = [
    f"load:{model}:{bits}" for model, widths in (("qwen2-1b", (32, 16, 8, 4)), ("bloom", (16, 8, 4))) for bits in widths
]
CONTEXT = 1024  # tokens of a chat
COLORS = {"allocated": "#2563eb", "reserved": "#d97706", "device": "#059669"}
KINDS = tuple(COLORS)  # as result files name them; a prediction has "device" as "device_used"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--only", action="append", metavar="PATTERN")
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/predict_gpu.json")
    parser.add_argument("--ahead", type=int, default=7, help="processes that import and predict side by side")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(run_cell(options.cell, options.work)))
        return
    names = [
        name
        for name in (*LOADS, *KNOWN, *HELD_OUT)
        if not options.only or any(fnmatch.fnmatchcase(name, p) for p in options.only)
    ]
    cells: list[dict] = []
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(options.ahead) as pool:
        command = [sys.executable, __file__, "--work", work, "--cell"]
        env = os.environ | {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
        for model in dict.fromkeys(name.split(":")[1] for name in names if name in LOADS):
            arms.last_line([*command, f"save:{model}"], env)
        started = {
            pool.submit(arms.attempt, lambda name=name: arms.last_line([*command, name], env)): name for name in names
        }
        for done in as_completed(started):
            cells.append(
                {"cell": started[done], "half": "held_out" if started[done] in HELD_OUT else "known"} | done.result()
            )
            print(json.dumps(cells[-1]), file=sys.stderr, flush=True)
            report = arms.report("predicted and measured memory", LIBRARIES, [], errors=summary(cells), cells=cells)
            arms.write(options.out, report)
    options.out.with_suffix(".svg").write_text(figure(cells), encoding="utf-8")
    print(json.dumps(report["errors"], indent=1))


def run_cell(name: str, work: Path) -> dict:
    """Measure one cell; returns {"error", "measured", "predicted"}, each by phase and kind."""
    if name.startswith("save:"):
        return save_weights(name.split(":")[1], work)
    return measure_load(name, work) if name.startswith("load:") else measure_tune_and_chat(name, work)


def measure_tune_and_chat(name: str, work: Path) -> dict:
    """Predict and measure three steps of a fine-tune and a chat's first tokens."""
    import torch
    from accelerate import init_empty_weights

    from playground.memory.meter import hardware
    from playground.memory.release import release_memory
    from playground.model.load import LoadedModel, model_from_config
    from playground.predict import meta_model, phase_traces, phases
    from playground.settings import Load, Lora, Settings, Train
    from playground.train.loop import fine_tune
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer, try_batching

    model, bits, method, policy, rows, attention = name.split(":")
    examples, dtype = _examples(rows), torch.float32 if bits == "32" else torch.bfloat16
    train = Train(
        batch_size=len(examples),
        max_steps=3,
        gradient_checkpointing=policy,
        compile="off",
        method="full" if method == "full" else "lora",
    )
    target_modules, _, saved = method.partition("+")
    lora = Lora(
        r=random_models.RANK,
        target_modules="all-linear" if target_modules in ("lora", "full") else target_modules,
        modules_to_save=saved,
    )
    settings = Settings(load=Load(model=MODELS[model], bits=int(bits)), lora=lora, train=train)
    config, target = meta_model.config_of(MODELS[model]), phases.Target("cuda", dtype)
    config._attn_implementation = attention
    lengths, labelled = [len(e.ids) for e in examples], [e.labelled for e in examples]
    predicted = {"chat": phases.predict_chat(config, settings, target, CONTEXT)}
    with init_empty_weights(include_buffers=False):
        network = model_from_config(config, dtype)
    network.tie_weights()  # creating them without values untied them
    with exclusive_gpu(work):
        network = random_models.with_random_weights(network, int(bits), "cuda")
        loaded = LoadedModel(network, SimpleNamespace(pad_token_id=random_models.PAD), "cuda", dtype, "")
        release_memory()
        measured, used = {"held": _current_bytes()}, [0]
        torch.cuda.reset_peak_memory_stats()
        with torch.no_grad():
            for inputs in phase_traces.prefill_and_decode_inputs(loaded.model, CONTEXT):
                loaded.model(**inputs, use_cache=True)
        measured["chat"] = _peak_bytes(used_bytes())
        del inputs
        release_memory()
        batching = try_batching(loaded, examples, []).mode
        predicted["tune"] = phases.predict_tune(config, settings, target, lengths, labelled, batching=batching)
        release_memory()
        torch.cuda.reset_peak_memory_stats()
        trainer = prepare_trainer(loaded, settings, examples, [], Team("cuda"), batching=batching)
        for _ in fine_tune(trainer, examples, train, threading.Event()):
            used.append(used_bytes())
        measured["tune"] = _peak_bytes(max(used))
        return {
            "error": _errors(predicted, measured),
            "batching": [predicted["tune"]["batching"], trainer.batcher.mode],
            "measured": measured,
            "predicted": _for_result_file(predicted),
            "hardware": hardware("cuda"),
        }


def save_weights(model: str, work: Path) -> dict:
    """Write random weights to disk, for the cells that load them."""
    import torch
    from accelerate import init_empty_weights
    from toys import make_tokenizer

    from playground.model.load import model_from_config
    from playground.predict import meta_model

    config = meta_model.config_of(MODELS[model])
    with init_empty_weights(include_buffers=False):
        network = model_from_config(config, torch.bfloat16)
    network.tie_weights()
    random_models.with_random_weights(network, 16, "cuda").save_pretrained(work / model)
    make_tokenizer(False).save_pretrained(work / model)
    return {}


def measure_load(name: str, work: Path) -> dict:
    """Predict and measure loading from disk."""
    import torch

    from playground.memory.meter import hardware
    from playground.model.load import load_model
    from playground.predict import meta_model, phases
    from playground.settings import Load, Settings

    _, model, bits = name.split(":")
    settings = Settings(load=Load(model=MODELS[model], bits=int(bits)))
    predicted = {
        "load": phases.predict_load(
            meta_model.config_of(MODELS[model]),
            settings,
            phases.Target("cuda", torch.float32 if bits == "32" else torch.bfloat16),
        )
    }
    with exclusive_gpu(work):
        torch.ones(1, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        loaded = load_model(work / model, settings.load, lambda *_: None)
        measured = {"load": _peak_bytes(used_bytes()), "held": _current_bytes()}
        del loaded
    return {
        "error": _errors(predicted, measured),
        "measured": measured,
        "predicted": _for_result_file(predicted),
        "hardware": hardware("cuda"),
    }


def _examples(rows_and_tokens: str) -> list:
    """One step's examples: "mix", or rows x tokens."""
    from playground.data.batch import Example

    if rows_and_tokens == "mix":
        return random_models.example_rows()
    rows, tokens = map(int, rows_and_tokens.split("x"))
    return [
        Example([5 + (7 * row + n) % 400 for n in range(tokens)], round(tokens * (1 - random_models.LABELLED)))
        for row in range(rows)
    ]


def _errors(predicted: dict, measured: dict) -> dict:
    """Signed errors in % by phase and kind."""
    return {
        phase: {kind: round(100 * (sizes[kind] / measured[phase][kind] - 1), 2) for kind in KINDS}
        for phase, sizes in _for_result_file(predicted).items()
    }


def _for_result_file(predicted: dict) -> dict:
    """Predictions by phase, reduced to the bytes and parts, under the names of result files."""
    return {
        phase: {
            "parts": prediction["parts"],
            "allocated": prediction["allocated"],
            "reserved": prediction["reserved"],
            "device": prediction["device_used"],
        }
        for phase, prediction in predicted.items()
    }


def summary(cells: list[dict]) -> dict:
    """Median and worst absolute error in %, by half, phase and kind, over the cells that worked."""
    result = {}
    for half in ("known", "held_out", None):
        for phase in ("load", "chat", "tune", None):
            for kind in KINDS:
                sizes = [
                    abs(errors[kind])
                    for cell in cells
                    if "error" in cell and half in (cell["half"], None)
                    for cell_phase, errors in cell["error"].items()
                    if phase in (cell_phase, None)
                ]
                if sizes:
                    result[f"{half or 'all'} {phase or 'all'} {kind}"] = {
                        "count": len(sizes),
                        "median": round(statistics.median(sizes), 2),
                        "worst": max(sizes),
                    }
    return result


def figure(cells: list[dict]) -> str:
    """Draw every peak, predicted against measured, on logarithmic axes as an SVG; hollow: the held-out half."""
    size, edge, low, high, unit = 460, 56, 1.0, 64.0, 2**30

    def at(value: float) -> float:
        return (size - 2 * edge) * math.log(value / low) / math.log(high / low)

    marks = []
    for decade in (1, 2, 4, 8, 16, 32, 64):
        x, y = edge + at(decade), size - edge - at(decade)
        marks.append(f'<path d="M{x:.1f} {edge}V{size - edge}M{edge} {y:.1f}H{size - edge}" stroke="#d1d5db"/>')
        marks.append(f'<text x="{x:.1f}" y="{size - edge + 18}" text-anchor="middle">{decade}</text>')
        marks.append(f'<text x="{edge - 8}" y="{y + 4:.1f}" text-anchor="end">{decade}</text>')
    marks.append(f'<path d="M{edge} {size - edge}L{size - edge} {edge}" stroke="#6b7280" stroke-dasharray="4 3"/>')
    for cell in (c for c in cells if "error" in c):
        for phase in cell["predicted"]:
            for kind, color in COLORS.items():
                x, y = (at(cell[side][phase][kind] / unit) for side in ("measured", "predicted"))
                fill = "none" if cell["half"] == "held_out" else color
                style = f'fill="{fill}" fill-opacity=".5" stroke="{color}"'
                marks.append(f'<circle cx="{edge + x:.1f}" cy="{size - edge - y:.1f}" r="3" {style}/>')
    for n, (kind, color) in enumerate(COLORS.items()):
        marks.append(f'<circle cx="{edge + 14}" cy="{edge + 14 + 18 * n}" r="4" fill="{color}"/>')
        marks.append(f'<text x="{edge + 24}" y="{edge + 18 + 18 * n}">{kind}</text>')
    marks.append(f'<text x="{size / 2}" y="{size - 12}" text-anchor="middle">measured, GiB</text>')
    marks.append(f'<text transform="translate(16 {size / 2}) rotate(-90)" text-anchor="middle">predicted, GiB</text>')
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" font-family="sans-serif" font-size="12">'
    )
    return f'{opening}<rect width="100%" height="100%" fill="#fff"/>{"".join(marks)}</svg>\n'


def _current_bytes() -> dict:
    """Bytes now: allocated and reserved by this process, in use on the GPU."""
    import torch

    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    return {"allocated": allocated, "reserved": reserved, "device": used_bytes()}


def _peak_bytes(device: int) -> dict:
    """Peaks in bytes of this process, with what was in use on the GPU at most."""
    import torch

    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "device": device,
    }


if __name__ == "__main__":
    main()
