"""Time forecasts of the planning process: the first one of a model, and one after each move of a slider.

    python tests/bench/plan_speed.py                     # a few minutes

An arm is a 7B shape at a bit width, each round in a new process on one thread, its libraries loaded already. `first`
is the first forecast; then each slider moves, and the next forecast is timed: {slider}_s on the clock, {slider}_cpu_s
in seconds of the processor, which is what the clock shows on a quiet core. `checked`: whether the last forecast's
fine-tune is to the byte what a trace of all layers says (playground/predict/layer_extrapolation.py left out), and
what such a trace takes, `all_layers_cpu_s`.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import arms

MODELS = {"calm": "cyberagent/open-calm-7b", "llama": "meta-llama/Llama-2-7b-hf"}
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
SLIDERS = {
    "batch": ("train", "batch_size", (12, 20, 28)),
    "length": ("train", "max_seq_length", (192, 320, 512)),
    "r": ("lora", "r", (4, 16, 32)),
    "context": ("", "", (512, 768, 1536)),
    "tokens": ("train", "max_tokens_per_micro_batch", (1024, 2048, 4096)),
    "checkpointing": ("train", "gradient_checkpointing", ("all", "2", "4")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/plan_speed.json")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(time_arm(*options.arm.split(":"))))
        return
    from playground.memory.meter import hardware

    rounds, env = [], os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    for n in range(options.rounds):
        for arm in (f"{model}:{bits}" for model in MODELS for bits in (16, 8, 4)):
            rounds.append(
                {"arm": arm, "round": n}
                | arms.attempt(lambda arm=arm: arms.last_line([sys.executable, __file__, "--arm", arm], env))
            )
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    report = arms.report("seconds of a forecast", LIBRARIES, rounds, hardware=hardware("cpu"))
    arms.write(options.out, report)
    print(json.dumps(report["medians"], indent=1))


def time_arm(model: str, bits: str) -> dict:
    """Median seconds of a first forecast, of one after each slider, and of one that traces all layers."""
    import statistics

    from playground.planning import forecast
    from playground.predict import phases, trace_cache
    from playground.settings import Load, Settings, Train

    settings = Settings(load=Load(model=MODELS[model], bits=int(bits)), train=Train(batch_size=8, max_seq_length=256))
    context, capacity = 1024, 24 * 2**30
    seconds: dict[str, list[float]] = {}

    def time_forecast(name: str) -> dict:
        clock, cpu = time.perf_counter(), time.process_time()
        result = forecast.forecast(settings, context, capacity)
        seconds.setdefault(f"{name}_s", []).append(time.perf_counter() - clock)
        seconds.setdefault(f"{name}_cpu_s", []).append(time.process_time() - cpu)
        return result

    time_forecast("first")
    for name, (group, field, values) in SLIDERS.items():
        initial_settings, initial_context = settings, context
        for value in values:
            context = value if not group else context
            settings = (
                replace(settings, **{group: replace(getattr(settings, group), **{field: value})}) if group else settings
            )
            last = time_forecast(name)
        settings, context = initial_settings, initial_context
    settings = replace(settings, train=replace(settings.train, gradient_checkpointing=SLIDERS["checkpointing"][2][-1]))
    trace_cache.choose_shallow_model = lambda *_: None
    clock = time.process_time()
    all_layers = phases.predict_tune.__wrapped__(*_predict_tune_arguments(settings, capacity))
    seconds["all_layers_cpu_s"] = [time.process_time() - clock]
    return {name: round(statistics.median(values), 3) for name, values in seconds.items()} | {
        "checked": str(
            all(all_layers[name] == value for name, value in last["phases"]["tune"].items() if name != "time")
        )
    }


def _predict_tune_arguments(settings: Any, capacity: int) -> tuple:
    """The arguments with which a forecast calls `predict_tune`."""
    from playground.planning import forecast
    from playground.predict import meta_model

    resolved, target = forecast.resolve_target(settings, "cuda", capacity)
    return (
        meta_model.config_of(settings.load.model),
        resolved,
        target,
        [settings.train.max_seq_length] * settings.train.batch_size,
    )


if __name__ == "__main__":
    main()
