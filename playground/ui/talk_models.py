"""Figures of talk steps on a speaker's own models, which no stored answer and no recording has.

They are predicted, computed or read from this machine's runs once the step is shown. All text is escaped here.
"""

from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from playground import catalog
from playground.i18n import translate
from playground.planning.client import read_stored_answers
from playground.talk.steps import Step
from playground.ui import lab_figure
from playground.ui.lab_recorded import (
    bundled_points,
    language_badge,
    recorded_badge,
    recorded_figures,
    recorded_points,
)
from playground.ui.talk_bars import badge

WEIGHT_MODEL = "smollm2-135m-instruct"  # whose layer's picture is recorded
# What PEFT's README measured its table with, and rows of 64 tokens.
PEFT_RUN: dict[str, dict[str, Any]] = {
    "load": {"bits": 32},
    "lora": {"r": 8, "target_modules": "attention"},
    "train": {"batch_size": 8, "max_seq_length": 64, "gradient_checkpointing": "off"},
}
Ask = Callable[..., Any]  # the planner's: (question, **arguments) → its answer


def is_asked(step: Step) -> bool:
    """Whether a step's figure is made when it is shown, because its model has no stored or recorded one."""
    if step.kind == "weight":
        return bool(step.options.get("model", WEIGHT_MODEL) != WEIGHT_MODEL)
    if step.kind in ("guess", "savings"):
        planned = catalog.first_plan()["settings"]["load"]["model"]
        return bool(step.options.get("model", planned) != planned)
    if step.kind == "peft":
        return bool(set(step.options.get("models", ())) - {entry["model"] for entry in recorded_figures()["peft"]})
    if step.kind == "formats":
        return bool(set(step.options.get("models", ())) - set(recorded_figures()["points"]))
    return False


def stored(question: str) -> dict[str, Any]:
    """A question to the planning process with its stored "arguments" and "answer", or {}."""
    return next((entry for entry in read_stored_answers() if entry["id"] == question), {})


def savings_of(step: Step, ask: Ask | None) -> list[dict]:
    """The plan's waterfall for a step's model: the stored one, or asked for. Raises PlaygroundError."""
    known = stored("waterfall")
    if not is_asked(step):
        return list(known.get("answer", []))
    if ask is None:
        return []
    settings = known["arguments"]["settings"]
    own = settings | {"load": settings["load"] | {"model": step.options["model"]}}
    return list(ask("waterfall", **known["arguments"] | {"settings": own}))


def peft_entries(step: Step, ask: Ask | None) -> list[dict]:
    """PEFT's table for a step's models, in the form of the recorded one; "measured" None where PEFT didn't measure.

    Models whose prediction has to be asked for are left out without `ask`. Raises PlaygroundError.
    """
    recorded = {entry["model"]: entry for entry in recorded_figures()["peft"]}
    entries = []
    for model in step.options.get("models", recorded):
        if model in recorded:
            entries.append(recorded[model])
        elif ask is not None:
            predicted = {method: _predicted(model, method, ask) for method in ("full", "lora")}
            entries.append({"model": model, "predicted": predicted, "measured": {"full": None, "lora": None}})
    return entries


def _predicted(model: str, method: str, ask: Ask) -> int:
    groups = {**PEFT_RUN, "load": PEFT_RUN["load"] | {"model": model}, "train": PEFT_RUN["train"] | {"method": method}}
    return int(ask("predict_full_rows", settings=groups, device="cuda", capacity=0)["need"])


def formats_figure(step: Step, lang: str, root: Path | None) -> str:
    """Loss against size of a step's models: the recorded points, and of others those that were measured here.

    root: the folder of the runs; None leaves out what was measured here.
    """
    word, recorded = partial(translate, lang), recorded_points()
    models = step.options.get("models") or list(dict.fromkeys(model for model, _ in recorded))
    others = [model for model in models if not any(model == known for known, _ in recorded)]
    here, language = bundled_points(root, lang, others) if root else ({}, "")
    points: dict[tuple[str, str], lab_figure.Point] = {}
    for model in models:
        source = recorded if any(model == known for known, _ in recorded) else here
        points |= {key: point for key, point in source.items() if key[0] == model}
    drawn = {model for model, _ in points}
    missing = [catalog.display_name(model) for model in models if model not in drawn]
    sources = recorded_badge(word) if drawn & {model for model, _ in recorded} else ""
    if drawn - {model for model, _ in recorded}:
        sources += badge(word("talk.measured_here"))
        sources += language_badge(word, language) if language != lang else ""
    note = f"<p>{escape(word('talk.not_measured', models=', '.join(missing)))}</p>" if missing and root else ""
    return (lab_figure.figure(word, points) if points else "") + note + sources


def lora_shape(model: str) -> tuple[int, int]:
    """Rows and columns of a model's query projection, from its config."""
    entry = {**catalog.models(), **catalog.shapes()}[model]
    config = entry.get("config") or catalog.shapes()[entry["shape"]]["config"]
    columns = next(config[name] for name in ("hidden_size", "n_embd", "d_model") if name in config)
    heads = next((config[name] for name in ("num_attention_heads", "n_head", "num_heads") if name in config), 0)
    of_head = config.get("head_dim") or config.get("d_kv")
    return (int(heads * of_head) if heads and of_head else int(columns)), int(columns)
