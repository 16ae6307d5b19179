"""The recipe of a run: everything that a script needs to repeat a fine-tune without this program."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from playground.errors import Problem, problem
from playground.runs import Run, last_result
from playground.settings import Load, Lora, Settings, Train, is_fast_int8, is_fast_nf4, is_float8

# Settings that the script repeats, and those that change neither the rows nor what is learned. One that is in neither,
# such as a new one, is named in the script as not repeated where it was changed.
REPEATED = {
    "lora": {
        *("r", "alpha", "dropout", "target_modules", "layers", "modules_to_save"),
        *("use_rslora", "use_dora", "loraplus_lr_ratio", "kind", "init"),
    },
    "train": {
        *("epochs", "max_steps", "lr", "schedule", "warmup", "batch_size", "micro_batch_size", "max_seq_length"),
        *("seed", "method", "optimizer", "gradient_checkpointing"),
    },
}
WITHOUT_EFFECT = {
    "lora": set[str](),
    "train": {
        "max_tokens_per_micro_batch",
        "compile",
        "save_every",
        "eval_rows",
        "measure_forgetting",
        "sample_every",
        "memory_snapshot",
        "parallel",
    },
}
CHECKPOINTING_OFF = ("off", "auto")
DTYPES = ("float32", "bfloat16", "float16")  # whose names the script has as code, so an edited run must not give others


@dataclass(frozen=True)
class RunFacts:
    """What a run's events say about how it trained.

    losses: mean nats per labelled token by step, from 1. tokens: of all rows so far, by step. steps: made;
    scheduled: planned. packed: whether rows were packed, None where the run didn't end by itself. dtype: "float32", …,
    "" where the model was loaded by an earlier run. recomputed: whether activations were recomputed.
    """

    losses: dict[int, float]
    tokens: dict[int, int]
    steps: int
    scheduled: int
    packed: bool | None
    dtype: str
    device: str
    recomputed: bool
    versions: dict[str, str]
    notes: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Everything that the script is written from.

    model: a Hub id, or "" where it has to be given as a folder. rows: as trained, {"prompt", "answer"} and, where the
    texts alone would give other tokens, "prompt_ids" and "answer_ids"; "masked" spans of tokens that are only read.
    by_length: whether rows of similar length go together. auto_class: of transformers. start: first token of a
    decoder behind an encoder, else None. rank_and_alpha: of the LoRA adapter that was trained
    (model/start_values.py). stored: whether the model's files are quantized already.
    """

    run: str
    model: str
    title: str
    settings: Settings
    facts: RunFacts
    rows: list[dict]
    by_length: bool
    target_modules: list[str]
    modules_to_save: list[str]
    auto_class: str
    pad: int
    start: int | None
    rank_and_alpha: tuple[int, float]
    stored: bool = False
    notes: tuple[Problem, ...] = field(default=())


def run_facts(run: Run) -> RunFacts:
    """Read a run's events. Raises PlaygroundError for a run that isn't a fine-tune or made no step."""
    events = list(run.events())
    first = events[0] if events else {}
    if first.get("job") != "tune":
        raise problem("repeat.error.job", run=run.id)
    steps = {event["step"]: event for event in events if event["kind"] == "step" and _is_step(event)}
    if not steps:
        raise problem("repeat.error.no_steps", run=run.id)
    said = [event for event in events if event["kind"] == "note"]
    plan: dict = next((note["values"] for note in reversed(said) if note.get("key") == "note.plan"), {})
    settings = run.settings()
    checkpointing = settings.train.gradient_checkpointing
    named = (note["values"].get("dtype") for note in said if note.get("key", "").startswith("dtype."))
    dtype = next((name for name in named if name in DTYPES), "")
    last = steps[max(steps)]
    packed = last_result(run).get("packed")
    grown = any(event.get("key") == "note.embedding_grown" for event in events)
    return RunFacts(
        losses={number: event["loss"] for number, event in steps.items()},
        tokens={number: event["tokens"] for number, event in steps.items()},
        steps=max(steps),
        scheduled=last["steps"],
        packed=packed if isinstance(packed, bool) else None,
        dtype="float32" if settings.load.bits == 32 else dtype,
        device=first.get("hardware", {}).get("device", "cpu"),
        recomputed=plan.get("checkpointing", checkpointing) not in CHECKPOINTING_OFF,
        versions=first.get("versions", {}),
        notes=(Problem("repeat.note.embedding"),) if grown else (),
    )


def setting_notes(settings: Settings, facts: RunFacts) -> list[Problem]:
    """What of these settings a script can't repeat exactly, or not at all."""
    notes = list(facts.notes)
    if settings.lora.dropout and settings.train.method != "full":
        notes.append(Problem("repeat.note.dropout", {"dropout": settings.lora.dropout}))
    if settings.load.bits == 8:
        notes.append(Problem(_note_on_8_bits(settings.load)))
    if is_fast_nf4(settings.load):
        notes.append(Problem("repeat.note.fast_nf4"))
    if facts.steps < facts.scheduled:
        notes.append(Problem("repeat.note.stopped", {"steps": facts.steps, "scheduled": facts.scheduled}))
    if unknown := unknown_settings(settings):
        notes.append(Problem("repeat.note.settings", {"names": unknown}))
    return notes


def _note_on_8_bits(load: Load) -> str:
    if is_fast_int8(load):
        return "repeat.note.fast_int8"
    return "repeat.note.float8" if is_float8(load) else "repeat.note.int8"


def unknown_settings(settings: Settings) -> list[str]:
    """Settings of the adapter and the training that were changed and that no script repeats."""
    groups: dict[str, tuple[Any, Any]] = {"lora": (settings.lora, Lora()), "train": (settings.train, Train())}
    return [
        f"{group}.{field.name}"
        for group, (chosen, default) in groups.items()
        for field in fields(chosen)
        if field.name not in REPEATED[group] | WITHOUT_EFFECT[group]
        and getattr(chosen, field.name) != getattr(default, field.name)
    ]


def warmup_steps(facts: RunFacts, train: Train) -> int:
    """Steps over which the learning rate rises."""
    return math.ceil(train.warmup * facts.scheduled)


def listed_losses(facts: RunFacts) -> Sequence[float | None]:
    """The loss of each step from the first one on; None where it wasn't recorded."""
    return [facts.losses.get(step) for step in range(1, facts.steps + 1)]


def _is_step(event: dict) -> bool:
    counts = all(type(event.get(name)) is int for name in ("step", "steps", "tokens"))
    return counts and event["step"] > 0 and isinstance(event.get("loss"), (int, float))
