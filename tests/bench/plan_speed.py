"""How long a forecast takes in the planning process: the first one of a model, and one after each move of a slider.

    python tests/bench/plan_speed.py                     # a few minutes

An arm is a 7B shape at a bit width, each round in a fresh process on one thread, its libraries loaded already. `first` is the first
forecast; then each slider moves, and the next forecast is timed: {slider}_s on the clock, {slider}_cpu_s in seconds of the
processor, which is what the clock says on a quiet core. In the end `checked`: whether the last forecast's fine-tune is to the
byte what a trace of all layers says (playground/memory/few.py left out), and what such a trace takes, `all_layers_cpu_s`.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import arms  # beside this file

MODELS = {"calm": "cyberagent/open-calm-7b", "llama": "meta-llama/Llama-2-7b-hf"}
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
MOVES = {
    "batch": ("train", "batch_size", (12, 20, 28)),
    "length": ("train", "max_seq_length", (192, 320, 512)),
    "r": ("lora", "r", (4, 16, 32)),
    "context": ("", "", (512, 768, 1536)),
    "tokens": ("train", "max_tokens_per_micro_batch", (1024, 2048, 4096)),
    "checkpointing": ("train", "gradient_checkpointing", ("all", "2", "4")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/plan_speed.json")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.arm:
        print(json.dumps(timed(*asked.arm.split(":"))))
        return
    from playground.memory.meter import hardware

    found, env = [], os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    for n in range(asked.rounds):
        for arm in (f"{model}:{bits}" for model in MODELS for bits in (16, 8, 4)):
            found.append(
                {"arm": arm, "round": n}
                | arms.attempt(lambda arm=arm: arms.last_line([sys.executable, __file__, "--arm", arm], env))
            )
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    told = arms.report("seconds of a forecast", LIBRARIES, found, hardware=hardware("cpu"))
    arms.write(asked.out, told)
    print(json.dumps(told["medians"], indent=1))


def timed(model: str, bits: str) -> dict:
    import statistics

    from playground.planning import forecast
    from playground.predict import phases, trace_cache
    from playground.settings import Load, Settings, Train

    settings = Settings(load=Load(model=MODELS[model], bits=int(bits)), train=Train(batch_size=8, max_seq_length=256))
    context, capacity, took = 1024, 24 * 2**30, {}

    def ask(name: str) -> dict:
        clock, cpu = time.perf_counter(), time.process_time()
        found = forecast.forecast(settings, context, capacity)
        took.setdefault(f"{name}_s", []).append(time.perf_counter() - clock)
        took.setdefault(f"{name}_cpu_s", []).append(time.process_time() - cpu)
        return found

    ask("first")
    for name, (group, field, values) in MOVES.items():
        before, was = settings, context
        for value in values:
            context = value if not group else context
            settings = (
                replace(settings, **{group: replace(getattr(settings, group), **{field: value})}) if group else settings
            )
            last = ask(name)
        settings, context = before, was
    settings = replace(settings, train=replace(settings.train, gradient_checkpointing=MOVES["checkpointing"][2][-1]))
    trace_cache.few = lambda *_: None
    clock = time.process_time()
    whole = phases.predict_tune.__wrapped__(*_asked(settings, capacity))
    took["all_layers_cpu_s"] = [time.process_time() - clock]
    return {name: round(statistics.median(values), 3) for name, values in took.items()} | {
        "checked": str(whole == last["phases"]["tune"])
    }


def _asked(settings, capacity: int) -> tuple:
    """What the planner asks predict.tune."""
    from playground.planning import forecast
    from playground.predict import meta_model

    settled, place = forecast.resolve_target(settings, "cuda", capacity)
    return (
        meta_model.config_of(settings.load.model),
        settled,
        place,
        [settings.train.max_seq_length] * settings.train.batch_size,
    )


if __name__ == "__main__":
    main()
