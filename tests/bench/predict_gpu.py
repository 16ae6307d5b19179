"""Predicted memory beside measured, on one card: shapes of real models with random weights, a fresh process a cell.

    python tests/bench/predict_gpu.py                     # every cell; about 6 minutes on an H100
    python tests/bench/predict_gpu.py --only 'llama*'

A cell is family-bits-dial, with LoRA r 8 on all linear layers, and two phases are compared in it: tune (32 rows, 5,024
tokens at most 256 a row, three steps) and chat (two rows, 1,024 tokens). Predictions are made from the config alone
before the model is there. Errors are signed, in % of what was measured; device is all of the card that is in use.
"""

import argparse
import fnmatch
import json
import os
import statistics
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import SimpleNamespace

import arms  # beside this file
from train_gpu import LIBRARIES, _in_use, turn

MODELS = {
    "gpt_neox": "cyberagent/open-calm-7b", "gpt_neox-12b": "databricks/dolly-v2-12b", "llama": "meta-llama/Llama-2-7b-hf", "bloom": "bigscience/bloom-1b7",
    "falcon": "tiiuae/falcon-7b", "opt": "facebook/opt-2.7b", "gptj": "EleutherAI/gpt-j-6b", "qwen2": "Qwen/Qwen2.5-3B", "gemma": "google/gemma-2b",
}  # fmt: skip
CELLS = [
    *(f"{family}:{bits}:{dial}" for family in ("gpt_neox", "llama", "qwen2", "opt") for bits, dial in ((16, "off"), (8, "all"), (4, "off"), (4, "2"), (4, "all"))),
    *(f"{family}:{bits}:{dial}" for family in ("gpt_neox-12b", "bloom", "falcon", "gptj", "gemma") for bits, dial in ((16, "all"), (4, "all"))),
]  # fmt: skip
KINDS = ("allocated", "reserved", "device")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", metavar="PATTERN")
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/predict_gpu.json")
    parser.add_argument("--ahead", type=int, default=7, help="processes that import and predict side by side")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.cell:
        print(json.dumps(cell(asked.cell, asked.work)))
        return
    names = [name for name in CELLS if not asked.only or any(fnmatch.fnmatchcase(name, p) for p in asked.only)]
    cells = []
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(asked.ahead) as pool:
        command = [sys.executable, __file__, "--work", work, "--cell"]
        env = os.environ | {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
        started = {pool.submit(arms.attempt, lambda name=name: arms.last_line([*command, name], env)): name for name in names}
        for done in as_completed(started):
            cells.append({"cell": started[done]} | done.result())
            print(json.dumps(cells[-1]), file=sys.stderr, flush=True)
            found = arms.report("predicted memory beside measured", LIBRARIES, [], errors=summary(cells), cells=cells)
            arms.write(asked.out, found)
    print(json.dumps(found["errors"], indent=1))


def cell(name: str, work: Path) -> dict:
    """{phase: {"predicted", "measured", "error" in %}} of one cell."""
    import torch
    from transformers import AutoModelForCausalLM

    from playground.memory import predict, shape
    from playground.memory.meter import hardware
    from playground.model.load import Loaded, give_back
    from playground.settings import Load, Lora, Settings, Train
    from playground.train.loop import fine_tune
    from playground.train.parallel import Team
    from playground.train.prepare import prepare

    family, bits, dial = name.split(":")
    model, examples = MODELS[family], arms.rows()
    train = Train(batch=arms.BATCH, steps=3, checkpointing=dial, compile="off")
    settings = Settings(load=Load(model=model, bits=int(bits)), lora=Lora(r=arms.RANK), train=train)
    config, place = shape.config_of(model), predict.Place("cuda", torch.bfloat16)
    lengths = [len(e.ids) for e in examples]
    predicted = {"chat": predict.chat(config, settings, place, 1024), "tune": predict.tune(config, settings, place, lengths, [e.labelled for e in examples])}
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with turn(work):
        held = Loaded(arms.made_up(network, int(bits), "cuda"), SimpleNamespace(pad_token_id=arms.PAD), "cuda", torch.bfloat16, "")
        give_back()
        measured, most = {"load": _now()}, [0]
        torch.cuda.reset_peak_memory_stats()
        with torch.no_grad():
            ids = torch.randint(5, 400, (predict.CHATTING, 1023), device="cuda")
            made = held.model(input_ids=ids, use_cache=True, logits_to_keep=1)
            held.model(input_ids=ids[:, :1], past_key_values=made.past_key_values, use_cache=True, position_ids=torch.full((predict.CHATTING, 1), 1023, device="cuda"))
        measured["chat"] = _peaks(_in_use())
        del made
        give_back()
        torch.cuda.reset_peak_memory_stats()
        trainer = prepare(held, settings, examples, [], Team("cuda"))
        for _ in fine_tune(trainer, examples, train, threading.Event()):
            most.append(_in_use())
        measured["tune"] = _peaks(max(most))
        errors = {phase: {kind: round(100 * (predicted[phase][kind] / measured[phase][kind] - 1), 2) for kind in KINDS} for phase in predicted}
        return {
            "error": errors, "feed": [predicted["tune"]["feed"], trainer.feed.mode], "measured": measured,
            "predicted": {phase: {k: v for k, v in told.items() if k in (*KINDS, "parts")} for phase, told in predicted.items()}, "hardware": hardware("cuda"),
        }  # fmt: skip


def summary(cells: list[dict]) -> dict:
    """Median and worst absolute error in %, by phase and kind, over the cells that worked."""
    found = {}
    for phase in ("tune", "chat"):
        for kind in KINDS:
            sizes = [abs(c["error"][phase][kind]) for c in cells if "error" in c]
            if sizes:
                found[f"{phase} {kind}"] = {"cells": len(sizes), "median": round(statistics.median(sizes), 2), "worst": max(sizes)}
    return found


def _now() -> dict:
    import torch

    return {"allocated": torch.cuda.memory_allocated(), "reserved": torch.cuda.memory_reserved(), "device": _in_use()}


def _peaks(device: int) -> dict:
    import torch

    return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved(), "device": device}


if __name__ == "__main__":
    main()
