"""The talk's models at full shape on one card, by bits: held, three steps of LoRA, base and tuned answering in one batch.

    python tests/bench/models_gpu.py                      # every model at 32, 16, 8 and 4 bits; 10 minutes on an H100
    python tests/bench/models_gpu.py --only '*t5*' --bits 4

Weights are random, made on the card from the config: neither memory nor speed depends on the values, and no hub is needed.
Read from files they aren't here. A step is 32 rows of 5,024 tokens in all, r 8 on all linear layers, everything else as the
program plans it by itself. step_s: from the report of the first step to that of the last, over the steps between: on CUDA a step is
reported once the next one's kernels are under way, and the last two with nothing between. An answer is 32 tokens a side.
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

import arms  # beside this file
from train_gpu import LIBRARIES, turn

TALK = [
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
WIDTHS = (4, 8, 16, 32)
PROMPT, ANSWER = 64, 32  # tokens
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="*", metavar="PATTERN")
    parser.add_argument("--bits", type=int, action="append", choices=WIDTHS)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/models_gpu.json")
    parser.add_argument("--ahead", type=int, default=7, help="processes that import and predict side by side")
    parser.add_argument("--cpu", action="store_true", help="to try it out on small models")
    parser.add_argument("--model", action="append", help="other models instead")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.cell:
        print(json.dumps(cell(*asked.cell.rsplit(":", 1), asked.work, "cpu" if asked.cpu else "cuda")))
        return
    names = [
        f"{model}:{bits}"
        for model in asked.model or TALK
        if fnmatch.fnmatchcase(model, asked.only)
        for bits in asked.bits or WIDTHS
    ]
    rounds, card = [], None
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(asked.ahead) as pool:
        command = [sys.executable, __file__, "--work", work, *(["--cpu"] if asked.cpu else []), "--cell"]
        env = os.environ | {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
        started = {
            pool.submit(arms.attempt, lambda name=name: arms.last_line([*command, name], env)): name for name in names
        }
        for done in as_completed(started):
            rounds.append({"arm": started[done], "round": 1} | done.result())
            card = rounds[-1].pop("hardware", card)
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
            rounds.sort(key=lambda r: names.index(r["arm"]))
            found = arms.report("the talk's models at full shape", LIBRARIES, rounds, hardware=card)
            arms.write(asked.out, found)
    print(arms.table(found["medians"], COLUMNS) + arms.failures(rounds))


def cell(model: str, bits: str, work: Path, device: str) -> dict:
    """What one model at one bit width took: GiB allocated at its peaks, seconds, tokens a second."""
    import torch
    from accelerate import init_empty_weights

    from playground.chat.generate import Prompt, generate_answers
    from playground.memory.meter import hardware
    from playground.memory.release import release_memory
    from playground.model.load import LoadedModel, model_class
    from playground.predict import meta_model, phases
    from playground.settings import Generation, Load, Lora, Settings, Train
    from playground.train.loop import fine_tune
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer

    examples, dtype, card = arms.rows(), torch.float32 if bits == "32" else torch.bfloat16, hardware(device)
    train = Train(batch_size=len(examples), max_steps=3, compile="off")
    settings = Settings(load=Load(model=model, bits=int(bits)), lora=Lora(r=arms.RANK), train=train)
    config = meta_model.config_of(model)
    predicted = phases.predict_tune(
        config,
        settings,
        phases.Target(device, dtype, card["capacity"]),
        [len(e.ids) for e in examples],
        [e.labelled for e in examples],
    )
    with init_empty_weights(include_buffers=False):
        network = model_class(config).from_config(config, dtype=dtype)
    network.tie_weights()  # which making them without values undid
    peak, mark = (
        (torch.cuda.max_memory_allocated, torch.cuda.reset_peak_memory_stats)
        if device == "cuda"
        else (lambda: 0, lambda: None)
    )
    with turn(work):
        tokenizer = SimpleNamespace(pad_token_id=arms.PAD, decode=lambda ids, **_: " ".join(map(str, ids)))
        loaded = LoadedModel(arms.made_up(network, int(bits), device), tokenizer, device, dtype, "")
        release_memory()
        found = {"held_gib": arms.gib(torch.cuda.memory_allocated() if device == "cuda" else 0)}
        mark()
        trainer, ends = prepare_trainer(loaded, settings, examples, [], Team(device)), [time.perf_counter()]
        for event in fine_tune(trainer, examples, train, threading.Event()):
            arms.wait()
            ends += [time.perf_counter()] if event["kind"] == "step" else []
        between = train.max_steps - (
            2 if device == "cuda" else 1
        )  # the last report on CUDA waits for no step of its own
        step, policy = (ends[-1] - ends[1]) / between, trainer.plan.policy
        found |= {
            "step_gib": arms.gib(peak()),
            "step_s": round(step, 3),
            "tokens_per_s": round(sum(len(e.ids) for e in examples) / step),
        }
        found["plan"] = f"{policy.checkpointing}, {policy.tokens} tokens"
        del trainer
        release_memory()
        mark()
        both, times = [Prompt(list(range(5, 5 + PROMPT)), tuned) for tuned in (False, True)], []
        for event in generate_answers(
            loaded.model, tokenizer, both, [], Generation(max_new_tokens=ANSWER), threading.Event()
        ):
            times.append((event["tokens"], time.perf_counter()))
        (first, began), (last, ended) = times[0], times[-1]
        found |= {"chat_gib": arms.gib(peak()), "written_per_s": round(len(both) * (last - first) / (ended - began), 1)}
    return found | {"predicted_gib": arms.gib(predicted["allocated"]), "hardware": card}


if __name__ == "__main__":
    main()
