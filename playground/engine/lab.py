"""The job `lab`: measure a model's loss, answer and size with its weights in one number format after another.

Formats that bitsandbytes has kernels for are loaded and computed with them. For the others the model is loaded
unquantized and its linear layers take the values that the format can hold, so quality is real and speed isn't: only
formats with a kernel have tokens a second.
"""

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from playground.background import run_in_background
from playground.chat.generate import Prompt, generate_answers
from playground.data.template import Turn
from playground.data.template_choice import choose_template_for
from playground.engine import predictions
from playground.engine.job import JobContext, JobResult
from playground.engine.load import ensure_loaded
from playground.engine.model_slot import ModelSlot
from playground.errors import problem
from playground.lab import layers
from playground.lab.formats import UNQUANTIZED, Format
from playground.lab.quantize import block_problems
from playground.lab.question import LabQuestion
from playground.lab.text_loss import token_losses, windows
from playground.memory.ledger import bytes_by_part
from playground.model.load import LoadedModel
from playground.model.tokenizer import model_eos_ids
from playground.runs.lab_points import find_points
from playground.settings import Generation, Load, Settings, raise_all, streamed_count

INTERVAL = 1.96  # standard errors, for 95 %


@dataclass
class LabResult(JobResult):
    """points: as the `lab_point` events have them, in the question's order."""

    points: list[dict] = field(default_factory=list)


@dataclass
class Measurements:
    """What is measured with, for one model: its text in windows, and the unquantized model's losses once known."""

    question: LabQuestion
    parts: list[list[int]]
    reference: Tensor | None = None


def lab(
    context: JobContext, slot: ModelSlot, settings: Settings, question: LabQuestion, root: Path
) -> Generator[dict, None, LabResult]:
    """Measure each format, but not again what an earlier run has measured.

    That is: with the same model, text and prompt, on the same kind of device and in the same dtype.

    Raises PlaygroundError for a model that isn't a decoder or has no linear layers, and for a text too short.
    """
    load = replace(settings.load, bits=settings.load.bits if settings.load.bits >= 16 else 16)
    formats = question.parsed_formats()
    device, dtype, measurements = yield from _begin(context, slot, load, question, formats)
    known = find_points(root, load.model, question.subject(), device, dtype, context.run.id)
    missing = [format for format in formats if format.name not in known or format.kind == UNQUANTIZED]
    if all(format.kind == UNQUANTIZED and format.name in known for format in missing):
        missing = []
    points = {name: point for name, point in known.items() if name not in {format.name for format in missing}}
    for format in formats:
        if format.name in points:
            yield {"kind": "lab_point", **points[format.name]}
    simulated = [format for format in missing if format.kind != "bitsandbytes"]
    for events in (
        _simulated(context, slot, load, simulated, measurements),
        _with_kernels(context, slot, load, [format for format in missing if format not in simulated], measurements),
    ):
        for event in events:
            if event["kind"] == "lab_point":
                points[event["format"]] = {name: value for name, value in event.items() if name not in ("kind", "t")}
            yield event
    return LabResult([points[format.name] for format in formats if format.name in points])


def _begin(
    context: JobContext, slot: ModelSlot, load: Load, question: LabQuestion, formats: list[Format]
) -> Generator[dict, None, tuple[str, str, Measurements]]:
    """Load the unquantized model; the device and the type that it computes in, and what to measure with."""
    loaded = yield from _load(context, slot, load)
    if loaded.model.config.is_encoder_decoder:
        raise problem("error.lab_seq2seq", family=loaded.model.config.model_type)
    widths = [layers.read_weight(layer).shape[1] for layer in layers.quantizable_layers(loaded.model).values()]
    raise_all(block_problems(formats, widths))
    parts = windows(loaded.model, loaded.tokenizer, question.full_text())
    asked = {name: value for name, value in asdict(question).items() if name != "text"}  # which may be private
    began = {"subject": question.subject(), "tokens": sum(len(part) - 1 for part in parts), **asked}
    dtype = str(loaded.dtype).removeprefix("torch.")
    yield {"kind": "lab_started", **began, "dtype": dtype}
    return loaded.device, dtype, Measurements(question, parts)


def _load(context: JobContext, slot: ModelSlot, load: Load) -> Generator[dict, None, LoadedModel]:
    """Load the base model without an adapter."""
    if streamed_count(load):  # their weights are read outside of a forward pass
        raise problem("error.streamed_lab")
    loaded = yield from ensure_loaded(context, slot, replace(load, streamed_layers="0"))
    slot.unload_adapter()
    return loaded


def _simulated(
    context: JobContext, slot: ModelSlot, load: Load, formats: list[Format], measurements: Measurements
) -> Iterator[dict]:
    """Points of formats whose values the loaded model's layers take; at the end they have their own again."""
    if not formats:
        return
    assert slot.loaded
    loaded = slot.loaded
    found = layers.quantizable_layers(loaded.model)
    unquantized = sum(layers.read_weight(layer).numel() for layer in found.values())
    rest = sum(parameter.numel() for parameter in loaded.model.parameters()) - unquantized
    outside = predictions.memory_outside_tensors(context.bytes_by_part())
    context.peaks.start_phase()
    with layers.original_weights(found) as originals:
        copies = sum(weight.numel() * weight.element_size() for weight in originals.values())
        if context.predicts_answers:
            longest = max(len(part) for part in measurements.parts)
            yield from predictions.predict_lab_memory(load, loaded, longest, copies, outside)
        for format in formats:
            yield {"kind": "phase", "name": "lab", "format": format.name}
            began = time.monotonic()
            stored, error = yield from run_in_background(
                partial(layers.set_format, found, originals, format, context.stop), context.stop
            )
            measured = yield from _measure(context, loaded, format, measurements)
            yield {
                "kind": "lab_point",
                **measured,
                "model_bits": round(layers.stored_bits(loaded.model, found, format)),
                "bytes": stored + rest * layers.STORED_BITS // 8,
                "weight_error": round(error, 5),
                "stored_as": {name: round(share, 3) for name, share in layers.stored_as(found, format).items()},
                "seconds": round(time.monotonic() - began, 2),
            }
        parts = context.bytes_by_part()
        if loaded.device == "cpu":
            parts |= {"weights": parts["weights"] + copies}
        yield predictions.measured_memory_event("lab", context.peaks, parts)


def _with_kernels(
    context: JobContext, slot: ModelSlot, load: Load, formats: list[Format], measurements: Measurements
) -> Iterator[dict]:
    """Points of formats that the model is loaded in, one load each."""
    for format in formats:
        plain = replace(load, bits=format.bits, double_quant=False, quant_type_8bit="int8")
        of_format = replace(plain, quant_type=format.variant) if format.bits == 4 else plain
        yield from _with_kernel(context, slot, of_format, format, measurements)


def _with_kernel(
    context: JobContext, slot: ModelSlot, load: Load, format: Format, measurements: Measurements
) -> Iterator[dict]:
    """The point of one; a function by itself, so that nothing names its model when the next one is loaded."""
    loaded = yield from _load(context, slot, load)
    yield {"kind": "phase", "name": "lab", "format": format.name}
    began = time.monotonic()
    measured = yield from _measure(context, loaded, format, measurements)
    parts = bytes_by_part(loaded.model)
    size = sum(parts.get(part, 0) for part in ("weights", "quant_constants"))
    yield {
        "kind": "lab_point",
        **measured,
        "model_bits": 8 * size,
        "bytes": size,
        "weight_error": None,
        "seconds": round(time.monotonic() - began, 2),
    }


def _measure(
    context: JobContext, loaded: LoadedModel, format: Format, measurements: Measurements
) -> Generator[dict, None, dict]:
    """Measure the current weights: the loss on the text, and the answer to the prompt."""
    losses = []
    for number, part in enumerate(token_losses(loaded.model, measurements.parts, context.stop)):
        losses.append(part)
        yield {"kind": "progress", "done": number + 1, "total": len(measurements.parts), "unit": "windows"}
    all_losses = torch.cat(losses).double()
    if format.kind == UNQUANTIZED:
        measurements.reference = all_losses
    loss = float(all_losses.mean())
    answer = yield from _answer(context, loaded, measurements.question)
    speed, has_kernel = answer.pop("tokens_per_s", None), _has_kernel(loaded, format)
    return {
        "format": format.name,
        "kernel": has_kernel,
        "loss": round(loss, 5) if math.isfinite(loss) else None,
        **_difference(all_losses, measurements.reference),
        **answer,
        "tokens_per_s": speed if has_kernel else None,
    }


def _has_kernel(loaded: LoadedModel, format: Format) -> bool:
    """Whether the model computes in this format, or else its weights only take the format's values."""
    return format.kind == "bitsandbytes" or (format.kind == UNQUANTIZED and loaded.dtype == torch.bfloat16)


def _difference(losses: Tensor, reference: Tensor | None) -> dict[str, float | None]:
    """How much more loss a token than unquantized, with half the width of its 95 % interval; None where unknown."""
    if reference is None or losses is reference or not losses.isfinite().all():
        return {"more_loss": None, "more_loss_interval": None}
    difference = losses - reference
    interval = INTERVAL * float(difference.std()) / math.sqrt(len(difference))
    return {"more_loss": round(float(difference.mean()), 5), "more_loss_interval": round(interval, 5)}


def _answer(context: JobContext, loaded: LoadedModel, question: LabQuestion) -> Generator[dict, None, dict]:
    """The greedy answer to the question's prompt: {"answer", "finish", "tokens_per_s"}; {} where none is wanted."""
    if not question.answer_tokens:
        return {}
    prompt = question.full_prompt()
    template, _ = choose_template_for(loaded, "auto", [prompt])
    ends = sorted({*template.end_ids(), *model_eos_ids(loaded.model)})
    row = Prompt(template.ids([Turn(prompt, None)]))
    limit = Generation(max_new_tokens=question.answer_tokens)
    event: dict = {}
    for event in generate_answers(loaded.model, loaded.tokenizer, [row], ends, limit, context.stop):
        yield {"kind": "progress", "done": event["tokens"], "total": question.answer_tokens, "unit": "tokens"}
    [end] = event["ends"]
    speed = round(end["tokens"] / max(end["seconds"], 1e-9), 1)
    return {"answer": template.answer(event["texts"][0]), "finish": end["finish"], "tokens_per_s": speed}
