"""Measure the talk's models at full shape on one GPU, by bits: loading, three steps of LoRA, answers of base and tuned.

    python tests/bench/models_gpu.py                      # every model at 32, 16, 8 and 4 bits; 10 minutes on an H100
    python tests/bench/models_gpu.py --only '*t5*' --bits 4

Weights are random, made on the GPU from the config: neither memory nor speed depends on the values, and no hub is
needed. Reading files is not measured. A step is 32 rows of 5,024 tokens in all, r 8 on all linear layers, everything
else as the program plans it by itself. held_gib: the weights once loaded. step_s: from the report of the first step
to that of the last, over the steps between: on CUDA a step is reported once the next one's kernels are under way, and
the last two with nothing between. An answer is 32 tokens a side.
"""

import argparse
import fnmatch
import json
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arms
import random_models
from gpu_training import exclusive_gpu
from train_gpu import LIBRARIES

TALK_MODELS = [
    "openai-community/gpt2-xl",
    "bigscience/T0_3B",
    "google-t5/t5-3b",
    "EleutherAI/gpt-j-6b",
    "facebook/opt-6.7b",
    "huggyllama/llama-7b",
    "cyberagent/open-calm-7b",
    "tiiuae/falcon-7b",
    "bigscience/bloom-7b1",
    "stabilityai/stablelm-base-alpha-7b",
    "databricks/dolly-v2-12b",
    "bigscience/mt0-xxl",
]
BIT_WIDTHS = (4, 8, 16, 32)
PROMPT_TOKENS, ANSWER_TOKENS = 64, 32
COLUMNS = {
    "held_gib": "{:.2f}",
    "step_gib": "{:.2f}",
    "predicted_gib": "{:.2f}",
    "step_s": "{:.2f}",
    "tokens_per_s": "{:,.0f}",
    "chat_gib": "{:.2f}",
    "written_per_s": "{:.1f}",
    "plan": "{}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--only", default="*", metavar="PATTERN")
    parser.add_argument("--bits", type=int, action="append", choices=BIT_WIDTHS)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/models_gpu.json")
    parser.add_argument("--ahead", type=int, default=7, help="processes that import and predict side by side")
    parser.add_argument("--cpu", action="store_true", help="to try it out on small models")
    parser.add_argument("--model", action="append", help="other models instead")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(measure_cell(*options.cell.rsplit(":", 1), options.work, "cpu" if options.cpu else "cuda")))
        return
    names = [
        f"{model}:{bits}"
        for model in options.model or TALK_MODELS
        if fnmatch.fnmatchcase(model, options.only)
        for bits in options.bits or BIT_WIDTHS
    ]
    rounds: list[dict] = []
    hardware = None
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(options.ahead) as pool:
        command = [sys.executable, __file__, "--work", work, *(["--cpu"] if options.cpu else []), "--cell"]
        env = os.environ | {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
        started = {
            pool.submit(arms.attempt, lambda name=name: arms.last_line([*command, name], env)): name for name in names
        }
        for done in as_completed(started):
            rounds.append({"arm": started[done], "round": 1} | done.result())
            hardware = rounds[-1].pop("hardware", hardware)
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
            rounds.sort(key=lambda r: names.index(r["arm"]))
            report = arms.report("the talk's models at full shape", LIBRARIES, rounds, hardware=hardware)
            arms.write(options.out, report)
    print(arms.table(report["medians"], COLUMNS) + arms.failures(rounds))


def measure_cell(model: str, bits: str, work: Path, device: str) -> dict:
    """Measure one model at one bit width: GiB allocated at the peaks, seconds, tokens a second."""
    import torch
    from accelerate import init_empty_weights
    from peer import synchronize

    from playground.chat.generate import Prompt, generate_answers
    from playground.memory.meter import hardware
    from playground.memory.release import release_memory
    from playground.model.load import LoadedModel, model_from_config
    from playground.predict import meta_model, phases
    from playground.settings import Generation, Load, Lora, Settings, Train
    from playground.train.loop import fine_tune
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer

    examples = random_models.example_rows()
    dtype, machine = torch.float32 if bits == "32" else torch.bfloat16, hardware(device)
    train = Train(batch_size=len(examples), max_steps=3, compile="off")
    settings = Settings(load=Load(model=model, bits=int(bits)), lora=Lora(r=random_models.RANK), train=train)
    config = meta_model.config_of(model)
    predicted = phases.predict_tune(
        config,
        settings,
        phases.Target(device, dtype, machine["capacity"]),
        [len(e.ids) for e in examples],
        [e.labelled for e in examples],
    )
    with init_empty_weights(include_buffers=False):
        network = model_from_config(config, dtype)
    network.tie_weights()  # creating them without values untied them
    on_cuda = device == "cuda"
    peak = torch.cuda.max_memory_allocated if on_cuda else lambda: 0
    reset_peak = torch.cuda.reset_peak_memory_stats if on_cuda else lambda: None
    with exclusive_gpu(work):
        tokenizer = SimpleNamespace(pad_token_id=random_models.PAD, decode=lambda ids, **_: " ".join(map(str, ids)))
        network = random_models.with_random_weights(network, int(bits), device)
        loaded = LoadedModel(network, tokenizer, device, dtype, "")
        release_memory()
        result: dict[str, Any] = {"held_gib": arms.gib(torch.cuda.memory_allocated() if on_cuda else 0)}
        reset_peak()
        trainer, ends = prepare_trainer(loaded, settings, examples, [], Team(device)), [time.perf_counter()]
        for event in fine_tune(trainer, examples, train, threading.Event()):
            synchronize()
            ends += [time.perf_counter()] if event["kind"] == "step" else []
        between = train.max_steps - (2 if on_cuda else 1)  # the last report on CUDA waits for no further step
        step, policy = (ends[-1] - ends[1]) / between, trainer.plan.policy
        result |= {
            "step_gib": arms.gib(peak()),
            "step_s": round(step, 3),
            "tokens_per_s": round(sum(len(e.ids) for e in examples) / step),
        }
        result["plan"] = f"{policy.checkpointing}, {policy.tokens} tokens"
        del trainer
        release_memory()
        reset_peak()
        prompts = [Prompt(list(range(5, 5 + PROMPT_TOKENS)), tuned) for tuned in (False, True)]
        times = []
        for event in generate_answers(
            loaded.model, tokenizer, prompts, [], Generation(max_new_tokens=ANSWER_TOKENS), threading.Event()
        ):
            times.append((event["tokens"], time.perf_counter()))
        (first, began), (last, ended) = times[0], times[-1]
        speed = len(prompts) * (last - first) / (ended - began)
        result |= {"chat_gib": arms.gib(peak()), "written_per_s": round(speed, 1)}
    return result | {"predicted_gib": arms.gib(predicted["allocated"]), "hardware": machine}


if __name__ == "__main__":
    main()
