"""Models larger than the card: their layers streamed from main memory, on a GPU that the program itself caps.

    python tests/bench/larger_gpu.py                  # every cell; 6 minutes on an H100
    python tests/bench/larger_gpu.py --only 'calm*'
    python tests/bench/larger_gpu.py --cpu --only 'toy*'   # does it run? tiny, nothing is capped

A cell is shape/bits/GiB of the card (0: all of it)/rows of a step; 32 rows are 5,024 tokens. Weights are random, made
on the GPU layer by layer from the config, quantized there, and moved to main memory where the layer is streamed. How
many are, the planner chooses, as it does for `tune`. Everything else as the program plans it by itself; r 8 on all
linear layers.
tokens_per_s: over the steps after the first two. stall: share of that time that the GPU waited for weights.
written_per_s: tokens of an answer of one row. Predicted before anything is made, measured by torch (allocated), the
driver (device) and the system (main memory, resident).
"""

import argparse
import fnmatch
import gc
import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arms
import random_models
from train_gpu import LIBRARIES

CELLS = (
    "calm/16/24/32",
    "calm/16/8/32",
    "neox/4/8/32",
    "llama70b/4/16/32",
    "llama70b/4/0/32",
    "neox/16/24/32",
    "calm/16/8/64",
    "calm/16/24/64",
    "neox/4/0/32",
    "neox/16/0/32",
)
SHAPES = {"calm": "cyberagent/open-calm-7b", "neox": "gpt-neox-20b", "llama70b": "llama-3-70b", "toy": ""}
STEPS, ANSWER_TOKENS = 5, 6
COLUMNS = {
    "streamed": "{}",
    "tokens_per_s": "{:,.0f}",
    "stall": "{:.0%}",
    "plan": "{}",
    "allocated_gib": "{:.2f}",
    "predicted_gib": "{:.2f}",
    "device_gib": "{:.2f}",
    "predicted_device_gib": "{:.2f}",
    "main_gib": "{:.2f}",
    "predicted_main_gib": "{:.2f}",
    "copied_gib_per_s": "{:.1f}",
    "written_per_s": "{:.2f}",
    "build_s": "{:.1f}",
    "choose_s": "{:.1f}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--only", action="append", metavar="PATTERN")
    parser.add_argument(
        "--cell", action="append", metavar="NAME", help="this cell; shape/bits/GiB/rows/n streams n layers"
    )
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/larger_gpu.json")
    parser.add_argument("--add", action="store_true", help="add these cells to those that --out holds already")
    parser.add_argument("--checkpointing", default="auto", help="of all cells, instead of what the program plans")
    parser.add_argument("--cpu", action="store_true", help="tiny, to try it out")
    options = parser.parse_args()
    patterns = options.only or ["*"]
    from playground.memory.meter import hardware

    device = "cpu" if options.cpu else "cuda"
    names = options.cell or [name for name in CELLS if any(fnmatch.fnmatchcase(name, p) for p in patterns)]
    if options.cpu:
        names = options.cell or ["toy/16/0/32", "toy/4/0/32"]
    rounds = json.loads(options.out.read_text())["rounds"] if options.add and options.out.is_file() else []
    for name in names:
        began = time.perf_counter()
        result = arms.attempt(lambda name=name: measure_cell(name, device, options.checkpointing))
        rounds.append({"arm": name, "round": 1, **result, "cell_s": round(time.perf_counter() - began, 1)})
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
        report = arms.report("models larger than the card", LIBRARIES, rounds, hardware=hardware(device))
        arms.write(options.out, report)
    print(arms.table({r["arm"]: arms.medians([r]) for r in rounds}, COLUMNS) + arms.failures(rounds))


def measure_cell(name: str, device: str, checkpointing: str) -> dict:
    """Predict and measure one cell."""
    from playground.memory.card_limit import limit_cuda_memory
    from playground.memory.release import release_memory
    from playground.settings import Load, Lora, Settings, Train

    shape, bits, gib, rows, *streamed = name.split("/")
    load = Load(model=SHAPES[shape], bits=int(bits), simulate_gpu_gib=float(gib))
    train = Train(batch_size=int(rows), max_steps=STEPS, compile="off", gradient_checkpointing=checkpointing)
    settings = Settings(load=load, lora=Lora(r=random_models.RANK), train=train)
    examples = random_models.example_rows() * (int(rows) // random_models.BATCH)
    config = config_of(shape)
    began = time.perf_counter()
    predicted, settings = _predict(config, settings, examples, device, *map(int, streamed))
    chosen = time.perf_counter() - began
    try:
        with limit_cuda_memory(load, device):
            measured = _measure(config, settings, examples, device)
    finally:
        gc.collect()
        release_memory()
    return predicted | measured | {"choose_s": round(chosen, 1)}


def config_of(shape: str) -> Any:
    from transformers import AutoConfig

    from playground.predict import meta_model

    if shape == "toy":
        from toys import toy_config

        return toy_config("llama", num_hidden_layers=8, vocab_size=512)
    file = random_models.SHAPE_FILES.get(SHAPES[shape])
    return AutoConfig.for_model(**json.loads(file.read_text())) if file else meta_model.config_of(SHAPES[shape])


def _predict(config: Any, settings: Any, examples: list, device: str, count: int | None = None) -> tuple[dict, Any]:
    """Predictions in GiB, and the settings with the number of layers that the planner (or the caller) streams."""
    import torch

    from playground.memory.meter import hardware
    from playground.predict import phases
    from playground.predict.streamed_choice import choose_streamed_layers

    layers = config.get_text_config().num_hidden_layers
    whole = hardware(device)["capacity"]
    capacity = min(int(settings.load.simulate_gpu_gib * 2**30) or whole, whole)
    target = phases.Target("cuda", torch.bfloat16, capacity)
    lengths, labelled = [len(e.ids) for e in examples], [e.labelled for e in examples]

    def tune(settings: Any) -> dict:
        return phases.predict_tune(config, settings, target, lengths, labelled)

    if count is None:
        count = choose_streamed_layers(tune, settings, layers, capacity)
        count = (4 if device == "cpu" else count) if count is not None else layers
    settings = replace(settings, load=replace(settings.load, streamed_layers=str(count)))
    tuned, loaded = tune(settings), phases.predict_load(config, settings, target)
    return {
        "streamed": f"{count} of {layers}",
        "predicted_gib": arms.gib(tuned["allocated"]),
        "predicted_device_gib": arms.gib(tuned["device_used"]),
        "predicted_load_gib": arms.gib(loaded["allocated"]),
        "predicted_main_gib": arms.gib(tuned.get("main_memory", 0)),
        "predicted_plan": f"{tuned['checkpointing']}, {tuned['budget']} tokens",
    }, settings


def _measure(config: Any, settings: Any, examples: list, device: str) -> dict:
    import psutil
    import torch
    from peer import synchronize

    from playground.model.load import LoadedModel
    from playground.train.loop import fine_tune
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer

    on_cuda = device == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    network, streamed = build(config, settings.load, device)
    result: dict[str, Any] = {"build_s": round(time.perf_counter() - began, 1)}
    if on_cuda:
        result["load_gib"] = arms.gib(torch.cuda.max_memory_allocated())
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    tokenizer = SimpleNamespace(pad_token_id=random_models.PAD, decode=lambda ids, **_: " ".join(map(str, ids)))
    loaded = LoadedModel(network, tokenizer, device, torch.bfloat16, "", streamed=streamed)
    trainer, ends = prepare_trainer(loaded, settings, examples, [], Team(device)), []
    copied = stalled = 0.0
    for event in fine_tune(trainer, examples, settings.train, threading.Event()):
        if event["kind"] == "note":
            result.setdefault("notes", []).append(event["key"])
        if event["kind"] != "step":
            continue
        synchronize()
        ends.append(time.perf_counter())
        if len(ends) == 2:
            copied, _ = (streamed.copied, streamed.take_stall()) if streamed else (0, 0)
        result["loss"] = event["loss"]
    between = len(ends) - (2 if on_cuda else 1) - 1  # the last report on CUDA waits for no further step
    seconds = ends[-1] - ends[1]
    stalled = streamed.take_stall() if streamed else 0.0
    step, policy = seconds / between, trainer.plan.policy
    result |= {
        "tokens_per_s": round(sum(len(e.ids) for e in examples) / step),
        "step_s": round(step, 3),
        "stall": round(stalled / seconds, 4),
        "copied_gib_per_s": round((streamed.copied - copied) / 2**30 / seconds, 1) if streamed else 0.0,
        "plan": f"{policy.checkpointing}, {policy.tokens} tokens",
        "main_gib": arms.gib(psutil.Process().memory_info().rss),
    }
    if on_cuda:
        result |= peaks_on_gpu()
    del trainer
    return result | _answer(loaded, settings)


def peaks_on_gpu() -> dict[str, float]:
    """Peaks of this process in GiB: allocated and reserved by torch, and in use on the whole GPU."""
    import torch

    free, total = torch.cuda.mem_get_info()
    cached = torch.cuda.max_memory_reserved() - torch.cuda.memory_reserved()
    return {
        "allocated_gib": arms.gib(torch.cuda.max_memory_allocated()),
        "reserved_gib": arms.gib(torch.cuda.max_memory_reserved()),
        "device_gib": arms.gib(total - free + cached),
    }


def _answer(loaded: Any, settings: Any) -> dict:
    from playground.chat.generate import Prompt, generate_answers
    from playground.memory.release import release_memory
    from playground.settings import Generation

    release_memory()
    times = []
    prompts = [Prompt(list(range(5, 69)), "default")]
    options = Generation(max_new_tokens=ANSWER_TOKENS)
    for event in generate_answers(loaded.model, loaded.tokenizer, prompts, [], options, threading.Event()):
        times.append((event["tokens"], time.perf_counter()))
    (first, began), (last, ended) = times[0], times[-1]
    return {"written_per_s": round((last - first) / (ended - began), 2) if last > first else None}


def build(config: Any, load: Any, device: str, shares: Any = None) -> tuple[Any, Any]:
    """A model with random weights, made and quantized on the device layer by layer, and its streamed layers.

    shares: where all layers are split over processes, which make the same weights.
    """
    import torch
    from accelerate import init_empty_weights

    from playground import compat
    from playground.model.load import model_from_config
    from playground.model.streamed_load import layer_names
    from playground.model.streaming import StreamedLayers, streamed_numbers
    from playground.settings import streamed_count

    with init_empty_weights(include_buffers=False):
        model = model_from_config(config, torch.bfloat16)
    torch.manual_seed(0)
    layers = layer_names(model)
    count = len(layers) if shares else streamed_count(load)
    streamed = None
    if count:
        streamed = StreamedLayers(list(layers.values()), streamed_numbers(count, len(layers)), device, shares)
    unquantized = random_models._unquantized_modules(model) if load.bits < 16 else []
    for number, name in enumerate(layers):
        _fill(model, f"{name}.", load.bits, unquantized, device, ())
        if streamed and number in streamed.numbers:
            streamed.add(model.get_submodule(name).requires_grad_(False))
    _fill(model, "", load.bits, unquantized, device, tuple(f"{name}." for name in layers))
    if streamed:
        streamed.start()
    if load.bits < 16:
        setattr(model, f"is_loaded_in_{load.bits}bit", True)  # the flag by which PEFT recognizes a quantized model
    compat.disable_cpu_repacking(model.modules())
    return model.requires_grad_(False).eval(), streamed


def _fill(model: Any, prefix: str, bits: int, unquantized: list[str], device: str, done: tuple[str, ...]) -> None:
    """Give the modules below a prefix random values on the device, quantized where a load does that.

    done: prefixes of modules that have theirs.
    """
    from torch import nn

    for name, module in list(model.named_modules()):
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        empty = any(tensor.device.type != device for tensor in own)
        if not name.startswith(prefix) or not empty or name.startswith(done):
            continue
        random_models._fill_parameters(name, module, device, {})
        random_models._fill_buffers(module, model.config, device)
        excluded = any(name == one or name.endswith("." + one) for one in unquantized)
        if bits < 16 and type(module) is nn.Linear and not excluded:
            model.set_submodule(name, random_models._quantized(module, bits))


if __name__ == "__main__":
    main()
