"""The job `tune`: rows to examples, a fine-tune, what it learned; and the same taken up again from a checkpoint."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from playground import beside
from playground.chat.recall import recall
from playground.data import source as data_source
from playground.data.batch import Example, encode
from playground.data.source import Row
from playground.data.template import Template, choose_for
from playground.errors import problem
from playground.model import adapt
from playground.model.tokenizer import tried
from playground.settings import Settings
from playground.train import checkpoint
from playground.train.loop import Trainer, fine_tune, held_out_loss
from playground.train.prepare import prepare
from playground.watched import Stopped, watched

SETTLED = 2  # steps until a step is like every later one: the first makes the optimizer's averages
MEASURED_ROWS = 45  # held-out rows at most, evenly spread over the set: enough for a mean, quick on a CPU


@dataclass
class Lesson:
    """What is taught and what is measured on."""

    template: Template
    examples: list[Example]
    measured: list[Row]  # the rows of `apart`
    apart: list[Example]
    rows: int = 0
    notes: list[dict] = field(default_factory=list)


def tune(bench, settings: Settings, resumed: bool) -> Iterator[dict]:
    """Fine-tune the model that the workbench holds, loading it first where it isn't; the result as `Workbench.tune` says."""
    run, team, stop, full = bench.run, bench.team, bench.stop, settings.train.method == "full"
    team.check(settings)
    yield {"kind": "phase", "name": "data"}
    rows = yield from watched(lambda tell: data_source.read(settings.data, tell), stop)
    yield from bench.hold(settings.load)
    yield {"kind": "phase", "name": "prepare"}
    bench.bare()
    held = bench.loaded
    lesson = _lesson(rows, settings, held)
    yield from lesson.notes
    bench.template, bench.form = lesson.template.name, lesson.template.form
    found = {"base": None, "tuned": None}
    asked = [row for row in lesson.measured if row.key]
    if full:
        bench.changed()
        if held.dtype.itemsize == 2:
            yield {"kind": "note", "key": "note.full_bf16", "values": {}}
        found |= (yield from _asked(bench, lesson, asked, ("base",))) or {}
    yield from beside.of_tune(settings, held, lesson.examples, bench.predicts)
    trainer = bench.trainer = prepare(held, settings, lesson.examples, lesson.apart, team)
    if trainer.plan.peak is not None:
        dial = trainer.plan.dial
        yield {"kind": "note", "key": "note.plan", "values": {"checkpointing": dial.checkpointing, "tokens": dial.tokens, "peak_bytes": trainer.plan.peak}}

    loss = {"before": None, "after": None}
    if resumed:
        checkpoint.restore(trainer, lesson.examples, run.folder / checkpoint.NAME)
        loss["before"] = next((e["loss"] for e in run.events() if e["kind"] == "score" and e.get("when") == "before"), None)
        yield {"kind": "note", "key": "note.resumed", "values": {"step": trainer.step}}
    else:
        loss["before"] = yield from _score("before", bench, lesson)
    last = yield from _train(bench, trainer, lesson, settings)
    if last is None:
        raise Stopped
    yield {"kind": "phase", "name": "save"}
    saved = _save(bench, full)
    loss["after"] = yield from _score("after", bench, lesson)
    team.leave()  # the rest is the main process's
    found |= (yield from _asked(bench, lesson, asked, ("tuned",) if full else ("base", "tuned"))) or {}
    found = found if found["tuned"] is not None else None
    if found:
        yield {"kind": "score", "when": "recall", **found}
    parts = bench.parts()
    bench.trainer = None  # gradients and optimizer go; what was learned stays
    return {
        "loss": loss, "recall": found, "tokens_per_s": last["tokens_per_s"], "steps": last["step"], "rows": lesson.rows,
        "template": lesson.template.name, "packed": trainer.feed.packed, "parts": parts, **saved,
    }  # fmt: skip


def _lesson(rows, settings: Settings, held) -> Lesson:
    train, data = settings.train, settings.data
    template, notes = choose_for(held, data.template, [r.instruction for r in rows.train], data.form)
    longest = getattr(held.model.config, "max_position_embeddings", None)
    if longest and train.length > longest:
        raise problem("error.length", length=train.length, longest=longest)
    examples, cut = encode(rows.train, template, train.length, data.train_on_prompt)
    measured = rows.held_out[:: max(1, math.ceil(len(rows.held_out) / MEASURED_ROWS))]
    apart, _ = encode(measured, template, train.length) if measured else ([], 0)
    notes += tried(held.tokenizer, (text for row in rows.train for text in (row.output, row.instruction, row.input)))
    notes += [{"kind": "note", "key": found.key, "values": found.values} for found in rows.notes]
    notes.append({"kind": "note", "key": "note.data", "values": {"rows": len(rows.train), "held_out": len(measured), "total": rows.total, "template": template.name}})
    if cut:
        notes.append({"kind": "note", "key": "note.cut", "values": {"cut": cut, "length": train.length}})
    return Lesson(template, examples, measured, apart, len(rows.train), notes)


def _train(bench, trainer: Trainer, lesson: Lesson, settings: Settings):
    """The steps, with a checkpoint now and then and one where it was stopped; returns the last step's event, or None."""
    every, path, last = settings.train.save_every, bench.run.folder / checkpoint.NAME, None
    yield {"kind": "phase", "name": "train"}
    bench.peaks.begin()
    begun = trainer.step
    for event in fine_tune(trainer, lesson.examples, settings.train, bench.stop):
        yield event
        if event["kind"] != "step":
            continue
        last = event
        if every and event["step"] % every == 0 and event["step"] < event["steps"] and bench.team.main:
            checkpoint.save(trainer, lesson.examples, path)
    if trainer.step - begun >= SETTLED:
        yield beside.found("tune", bench.peaks, bench.parts())
    if last and bench.team.main:
        if last["step"] < last["steps"]:
            checkpoint.save(trainer, lesson.examples, path)
        else:
            path.unlink(missing_ok=True)
    return last


def _save(bench, full: bool) -> dict:
    """Keep what was learned in the run's folder: {"adapter": path} or {"model": path}."""
    run, held = bench.run, bench.loaded
    bench.adapter = run.id
    if not bench.team.main:
        return {}
    if not full:
        adapt.save_lora(held.model, run.adapter)
        return {"adapter": str(run.adapter)}
    held.model.save_pretrained(run.model)
    held.tokenizer.save_pretrained(run.model)
    return {"model": str(run.model)}


def _score(when: str, bench, lesson: Lesson):
    """The held-out loss as a `score` event; returns it, or None where there is nothing to measure on."""
    if not lesson.apart or bench.stop.is_set():
        return None
    yield {"kind": "phase", "name": "evaluate"}
    loss = yield from held_out_loss(bench.trainer, lesson.apart, bench.stop)
    if loss is None:
        return None
    yield {"kind": "score", "when": when, "loss": round(loss, 5)}
    return round(loss, 5)


def _asked(bench, lesson: Lesson, asked: list[Row], sides: tuple[str, ...]):
    """Recall on those sides, or None; only the main process asks."""
    if not asked or bench.stop.is_set() or not bench.team.main or bench.team.sharded:
        return None
    yield {"kind": "phase", "name": "compare"}
    return (yield from recall(bench.loaded.model, lesson.template, asked, bench.stop, sides))
