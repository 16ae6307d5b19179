"""Measure what a machine reaches, in a few seconds: its kernels (speed/kernels.py), and what calling an operator costs.

What the processor takes to call one, through this program's own
code and its libraries', is what a step and a token of a toy model take, divided by their calls in its trace: the toy's
kernels have next to nothing to compute. Nothing here knows the models that are predicted later.
"""

import contextlib
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import psutil
import torch

from playground import compat
from playground.memory import meter
from playground.memory.release import release_memory
from playground.predict.load_calibration import measure_loads
from playground.predict.work import Calls
from playground.speed import kernels
from playground.speed.rates import Rates, keep_rates, kept_rates

MAX_SECONDS = {"cpu": 4.0, "cuda": 4.5}  # after which of the toys only the least is measured
BUSY_SECONDS, BUSY_PERCENT = 0.3, 20  # of the processor used by others: what is measured then isn't the machine
FREE_BYTES = 3 * 2**30  # of a GPU that a calibration needs, and more
LAYERS, WIDTH = 4, 64  # of the toy
TOY_SECONDS = {"cpu": 0.6, "cuda": 1.5}  # that are left for the toy, which took 0.5 on two cores; on a GPU for four
FORWARDS = 20  # of a toy, the fastest of which counts
LEAST_STEPS = 4  # of the toy, the first two of which don't count


def measure_once(device: str) -> None:
    """Measure this machine and keep what it reaches, unless that is known, or other work disturbs it.

    What loads take is measured at the next opportunity, so that nothing waits for both. PLAYGROUND_CALIBRATE=0 in the
    environment: never.
    """
    kept = kept_rates(device, meter.hardware(device)["name"])
    if os.environ.get("PLAYGROUND_CALIBRATE") == "0" or (kept and kept.loads):
        return
    if psutil.cpu_percent(BUSY_SECONDS) > BUSY_PERCENT:
        return
    if device == "cuda" and torch.cuda.mem_get_info()[0] < FREE_BYTES:
        return
    before = processor_seconds()
    rates = replace(kept, loads=measure_loads(device)) if kept else measure(device)
    if percent_of_others(before, processor_seconds()) <= BUSY_PERCENT:
        keep_rates(rates)
    release_memory()


def processor_seconds() -> tuple[float, float, float]:
    """Seconds since the start that all cores could have computed, were idle, and worked for this process."""
    all_cores, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = all_cores.idle + getattr(all_cores, "iowait", 0.0)
    guests = getattr(all_cores, "guest", 0.0) + getattr(all_cores, "guest_nice", 0.0)  # in user and nice as well
    return sum(all_cores) - guests, idle, own.user + own.system


def percent_of_others(before: tuple[float, float, float], after: tuple[float, float, float]) -> float:
    """What part of the processor other processes used between two moments."""
    total, idle, own = (late - early for late, early in zip(after, before))
    return 100 * (total - idle - own) / total if total > 0 else 0.0


def measure(device: str) -> Rates:
    """Measure the machine as it is now: other work on it makes it slower."""
    compat.leave_out_cudnn_attention()  # loaded models do without it too
    until = kernels.clock() + MAX_SECONDS[device]
    with torch.no_grad(), _same_random_numbers():
        tables, kernel = kernels.measure_kernels(device, until - TOY_SECONDS[device])
    rates = Rates(device, meter.hardware(device)["name"], tables, {}, kernel)
    return _measure_calls(rates, device, until)


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Leave the random numbers of whatever comes after as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        yield


def _measure_calls(rates: Rates, device: str, until: float) -> Rates:
    """These rates with the seconds of calling operators, and of what is between two tokens of a chat.

    On a GPU also those that operators of quantized weights take more, of the toy with such layers, and those of
    recomputed layers. A CPU's kernels of these kinds are measured with their calls (speed/kernels.py). until: the
    moment of the clock after which nothing is repeated more often than it has to be.
    """
    loaded = _toy(device)
    chat, token = _chat_seconds(loaded, until), _token_seconds(loaded, until)
    between = max(0.0, token - chat.seconds)
    chat = chat._replace(seconds=min(chat.seconds, token)).of_processor(rates)
    tune = _tune_seconds(loaded, until).of_processor(rates)
    calls = {"chat": min(chat.per_call, tune.per_call), "tune": tune.per_call}  # training calls more for an operator
    rates = replace(rates, call=calls, token=between)
    if device == "cuda":
        four, eight = _toy(device, 4), _toy(device, 8)
        found = {
            "gemv_4bit": _chat_seconds(four, until, 4),
            "product:int8": _chat_seconds(eight, until, 8),
            "dequantize": _tune_seconds(four, until, 4),
            "recompute": _tune_seconds(_toy(device), until, checkpointing="all"),
        }
        rates = replace(rates, more={what: timed.more_per_call(what, rates) for what, timed in found.items()})
    return rates


class _Timed(NamedTuple):
    """A phase of the toy: its seconds, and the calls in its trace. A GPU computes while the processor calls."""

    phase: str
    seconds: float
    calls: list[Calls]

    def of_processor(self, rates: Rates) -> "_Timed":
        """The same with the seconds that calling takes: a CPU's kernels take part of them."""
        if rates.device != "cpu":
            return self
        computing = [one for one in self.calls if one.kind != "view"]
        kernels = sum(one.count * (rates.seconds(one.kind, one.operations, one.bytes) or 0.0) for one in computing)
        return self._replace(seconds=self.seconds - kernels)

    @property
    def per_call(self) -> float:
        return max(0.0, self.seconds) / sum(one.count for one in self.calls)

    def more_per_call(self, kind_or_stage: str, rates: Rates) -> float:
        """Seconds of a call of this kind, or in this stage, beyond those of any call."""
        count = sum(c.count for c in self.calls if c.kind.startswith(kind_or_stage) or c.stage == kind_or_stage)
        other = sum(one.count for one in self.calls) * rates.call[self.phase]
        return max(0.0, self.seconds - other) / count if count else 0.0


def _toy(device: str, bits: int = 16) -> Any:
    """A loaded model of a few narrow layers."""
    from transformers import LlamaConfig

    from playground.model.load import LoadedModel, model_from_config

    config = LlamaConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=128, vocab_size=512
    )
    dtype = kernels.half_types(device)[0]
    with _same_random_numbers():
        model: Any = model_from_config(config, dtype)
        for name, layer in [*model.named_modules()] if bits < 16 else []:
            if isinstance(layer, torch.nn.Linear) and name != "lm_head":
                model.set_submodule(name, _quantizable(layer, bits))
        if bits < 16:
            setattr(model, f"is_loaded_in_{bits}bit", True)  # the flag by which PEFT recognizes a quantized model
            compat.disable_cpu_repacking(model.modules())
        model = model.to(device).requires_grad_(False).eval()
    return LoadedModel(model, cast(Any, SimpleNamespace(pad_token_id=2)), device, dtype, "")


def _quantizable(layer: torch.nn.Linear, bits: int) -> torch.nn.Module:
    """The layer as bitsandbytes' one, quantized once it is moved to a GPU."""
    from bitsandbytes import nn as bnb

    if bits == 4:
        four = bnb.Linear4bit(layer.in_features, layer.out_features, False, layer.weight.dtype, quant_type="nf4")
        four.weight = bnb.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=four)
        return four
    eight = bnb.Linear8bitLt(
        layer.in_features, layer.out_features, False, has_fp16_weights=False, threshold=kernels.INT8_THRESHOLD
    )
    eight.weight = bnb.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    return eight


def _chat_seconds(loaded: Any, until: float, bits: int = 16) -> _Timed:
    """The model's forward pass for a token of a chat."""
    from playground.predict import phases
    from playground.predict.phase_traces import prefill_and_decode_inputs
    from playground.settings import Settings

    context, model = 64, loaded.model
    target = phases.Target(loaded.device, loaded.dtype)
    settings = Settings().with_values({"load": {"bits": bits}})
    calls = phases.predict_chat(model.config, settings, target, context)["calls"]
    with torch.no_grad():
        for inputs in prefill_and_decode_inputs(model, context):
            model(**inputs, use_cache=True)
        forward = _fastest(lambda: model(**inputs, use_cache=True).logits[0, 0, 0].item(), FORWARDS, until)
    return _Timed("chat", forward, [one for one in calls if one.stage == "decode"])


def _token_seconds(loaded: Any, until: float) -> float:
    """Seconds of a token of an answer as the library generates it."""
    from playground.predict.phase_traces import CHAT_ROWS

    ids = torch.ones(CHAT_ROWS, 8, dtype=torch.long, device=loaded.device)

    def generate(tokens: int) -> float:
        options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 2}
        run = partial(loaded.model.generate, ids, attention_mask=torch.ones_like(ids), **options)
        return _fastest(run, 2, until)

    with torch.no_grad():
        return (generate(20) - generate(4)) / 16


def _tune_seconds(loaded: Any, until: float, bits: int = 16, checkpointing: str = "off") -> _Timed:
    """A step of a fine-tune."""
    import threading

    from playground.data.batch import Example
    from playground.predict import phases
    from playground.settings import Settings
    from playground.train.loop import fine_tune
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer

    steps, rows, length = 10, 8, 16
    train = {"batch_size": rows, "max_steps": steps, "gradient_checkpointing": checkpointing, "compile": "off"}
    train |= {"max_tokens_per_micro_batch": 1024}
    settings = Settings().with_values({"load": {"bits": bits}, "train": train})
    examples = [Example([5 + (row + n) % 400 for n in range(length)], length // 2) for row in range(rows)]
    trainer = prepare_trainer(loaded, settings, examples, [], Team(loaded.device, launched=False))
    seconds, last, stop = [], kernels.clock(), threading.Event()
    for _ in fine_tune(trainer, examples, settings.train, stop):
        now = kernels.clock()
        seconds.append(now - last)
        last = now
        if now > until and len(seconds) >= LEAST_STEPS:
            stop.set()
    target = phases.Target(loaded.device, loaded.dtype)
    config, labelled = trainer.batcher.model.config, [e.labelled for e in examples]
    mode = trainer.batcher.mode
    calls = phases.predict_tune(config, settings, target, [length] * rows, labelled, batching=mode)["calls"]
    return _Timed("tune", statistics.median(seconds[2:]), calls)


def _fastest(run: Callable[[], Any], repeats: int, until: float) -> float:
    """Seconds of the fastest of so many; of fewer, but two, where the time is over."""
    seconds: list[float] = []
    while len(seconds) < repeats and (len(seconds) < 2 or kernels.clock() < until):
        start = kernels.clock()
        run()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        seconds.append(kernels.clock() - start)
    return min(seconds)
