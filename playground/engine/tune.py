"""The job `tune`: rows to examples, a fine-tune, what it learned; and the same taken up again from a checkpoint."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from playground.background import Stopped, run_in_background
from playground.data import source as data_source
from playground.data.batch import Example, encode
from playground.data.template import Template, choose_template_for
from playground.engine import evaluation, predictions
from playground.engine.evaluation import EvalSet, SampleAnswers
from playground.errors import problem
from playground.eval.answer_rows import answer_token_limit, answerable_rows
from playground.model import adapt
from playground.model.tokenizer import round_trip_notes
from playground.settings import Settings
from playground.train import checkpoint
from playground.train.loop import Trainer, fine_tune, total_steps
from playground.train.prepare import prepare_trainer

SETTLED = 2  # steps until a step is like every later one: the first makes the optimizer's averages


@dataclass
class TrainingSet:
    """What is taught and what is measured on."""

    template: Template
    examples: list[Example]
    measured: EvalSet
    rows: int = 0
    notes: list[dict] = field(default_factory=list)


def tune(bench, settings: Settings, resumed: bool) -> Iterator[dict]:
    """Fine-tune the model that the workbench holds, loading it first where it isn't; the result as `Workbench.tune` says."""
    run, team, stop, full = bench.run, bench.team, bench.stop, settings.train.method == "full"
    team.check(settings)
    yield {"kind": "phase", "name": "data"}
    rows = yield from run_in_background(lambda on_progress: data_source.read(settings.data, on_progress), stop)
    yield from bench.ensure_loaded(settings.load)
    yield {"kind": "phase", "name": "prepare"}
    bench.unload_adapter()
    loaded = bench.loaded
    lesson = _lesson(rows, settings, loaded)
    yield from lesson.notes
    bench.template, bench.form = lesson.template.name, lesson.template.form
    if full:
        bench.invalidate()
        if loaded.dtype.itemsize == 2:
            yield {"kind": "note", "key": "note.full_bf16", "values": {}}
        yield from evaluation.evaluate_answers(bench, lesson.measured, ("base",))
    yield from predictions.predict_tune_event(settings, loaded, lesson.examples, bench.predicts)
    trainer = bench.trainer = prepare_trainer(loaded, settings, lesson.examples, lesson.measured.examples, team)
    if trainer.plan.peak is not None:
        policy = trainer.plan.policy
        yield {
            "kind": "note",
            "key": "note.plan",
            "values": {"checkpointing": policy.checkpointing, "tokens": policy.tokens, "peak_bytes": trainer.plan.peak},
        }

    loss = {"before": None, "after": None}
    if resumed:
        checkpoint.restore(trainer, lesson.examples, run.folder / checkpoint.NAME)
        loss["before"] = evaluation.loss_before(run, lesson.measured)
        yield {"kind": "note", "key": "note.resumed", "values": {"step": trainer.step}}
    else:
        loss["before"] = yield from evaluation.evaluate_loss("before", bench, lesson.measured)
    last = yield from _train(bench, trainer, lesson, settings)
    if last is None:
        raise Stopped
    yield {"kind": "phase", "name": "save"}
    saved = _save(bench, full)
    loss["after"] = yield from evaluation.evaluate_loss("after", bench, lesson.measured)
    team.leave()  # the rest is the main process's
    yield from evaluation.evaluate_answers(bench, lesson.measured, ("tuned",) if full else ("base", "tuned"))
    found = yield from evaluation.report(bench, lesson.measured)
    parts = bench.parts()
    bench.trainer = None  # gradients and optimizer go; what was learned stays
    return {
        "loss": loss,
        **found,
        "tokens_per_s": last["tokens_per_s"],
        "steps": last["step"],
        "rows": lesson.rows,
        "template": lesson.template.name,
        "packed": trainer.batcher.packed,
        "parts": parts,
        **saved,
    }


def _lesson(rows, settings: Settings, loaded) -> TrainingSet:
    train, data = settings.train, settings.data
    template, notes = choose_template_for(
        loaded, data.prompt_format, [r.instruction for r in rows.train], data.custom_format
    )
    longest = getattr(loaded.model.config, "max_position_embeddings", None)
    if longest and train.max_seq_length > longest:
        raise problem("error.length", length=train.max_seq_length, longest=longest)
    examples, cut = encode(rows.train, template, train.max_seq_length, data.train_on_prompt)
    measured = rows.held_out[:: max(1, math.ceil(len(rows.held_out) / train.eval_rows))] if train.eval_rows else []
    apart, _ = encode(measured, template, train.max_seq_length) if measured else ([], 0)
    notes += round_trip_notes(
        loaded.tokenizer, (text for row in rows.train for text in (row.output, row.instruction, row.input))
    )
    notes += [{"kind": "note", "key": found.key, "values": found.values} for found in rows.notes]
    notes.append(
        {
            "kind": "note",
            "key": "note.data",
            "values": {
                "rows": len(rows.train),
                "held_out": len(measured),
                "total": rows.total,
                "template": template.name,
            },
        }
    )
    if cut:
        notes.append({"kind": "note", "key": "note.cut", "values": {"cut": cut, "length": train.max_seq_length}})
    found = EvalSet(
        apart,
        answerable_rows(measured, template, train.max_seq_length, longest),
        template,
        answer_token_limit(measured, template),
    )
    return TrainingSet(template, examples, found, len(rows.train), notes)


def _train(bench, trainer: Trainer, lesson: TrainingSet, settings: Settings):
    """The steps, with a checkpoint now and then and one where it was stopped; returns the last step's event, or None."""
    every, path, last = settings.train.save_every, bench.run.folder / checkpoint.NAME, None
    samples = SampleAnswers(
        bench, lesson.measured, settings.train.sample_every, total_steps(len(lesson.examples), settings.train)
    )
    yield {"kind": "phase", "name": "train"}
    begun = trainer.step
    if not begun:
        yield from samples.at(0) or ()
    bench.peaks.start_phase()
    for event in fine_tune(trainer, lesson.examples, settings.train, bench.stop, samples.at):
        yield event
        if event["kind"] != "step":
            continue
        last = event
        if every and event["step"] % every == 0 and event["step"] < event["steps"] and bench.team.main:
            checkpoint.save(trainer, lesson.examples, path)
    if trainer.step - begun >= SETTLED:
        yield predictions.measured_event("tune", bench.peaks, bench.parts())
    if last and bench.team.main:
        if last["step"] < last["steps"]:
            checkpoint.save(trainer, lesson.examples, path)
        else:
            path.unlink(missing_ok=True)
    return last


def _save(bench, full: bool) -> dict:
    """Keep what was learned in the run's folder: {"adapter": path} or {"model": path}."""
    run, loaded = bench.run, bench.loaded
    bench.adapter = run.id
    if not bench.team.main:
        return {}
    if not full:
        adapt.save_lora(loaded.model, run.adapter)
        return {"adapter": str(run.adapter)}
    loaded.model.save_pretrained(run.model)
    loaded.tokenizer.save_pretrained(run.model)
    return {"model": str(run.model)}
