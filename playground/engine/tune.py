"""The job `tune`: encode rows, fine-tune, evaluate; and the same continued from a checkpoint."""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from peft import PeftModel

from playground.background import Stopped, run_in_background
from playground.data import source as data_source
from playground.data.batch import Example, encode
from playground.data.fit import fit_turns
from playground.data.row_notes import row_notes
from playground.data.source import Row, SelectedRows
from playground.data.template import Template, choose_template_for
from playground.engine import evaluation, predictions
from playground.engine.evaluation import EvalSet, HeldOutLoss, SampleAnswers
from playground.engine.job import JobContext, JobResult
from playground.engine.load import ensure_loaded
from playground.engine.model_slot import Adapter, ModelSlot
from playground.errors import problem
from playground.eval.answer_rows import answer_token_limit, answerable_rows
from playground.memory.release import release_memory
from playground.model import adapt
from playground.model.embedding import embedding_name, first_unknown_token, grow_embedding
from playground.model.language_part import max_context_length
from playground.model.load import LoadedModel, resolve_device
from playground.model.tokenizer import round_trip_notes
from playground.settings import Lora, Settings, Train
from playground.train import checkpoint
from playground.train.loop import Trainer, fine_tune, total_steps
from playground.train.memory_policy import MemoryPlan
from playground.train.prepare import prepare_trainer

MIN_MEASURED_STEPS = 2  # the first step allocates the optimizer's averages; the later ones are alike


@dataclass
class TrainingSet:
    """Encoded rows to train on and to evaluate on, and notes for the person about them."""

    template: Template
    examples: list[Example]
    eval_set: EvalSet
    rows: int
    notes: list[dict] = field(default_factory=list)


@dataclass
class TuneResult(JobResult):
    """What a fine-tune has learned and kept; one that was stopped has made fewer `steps` than `total_steps`.

    loss: held-out loss {"before", "after"}; recall and measures: as of evaluation.Comparison; parts: the ledger in
    bytes; checkpoint: whether the run can be resumed; adapter or model: the path that the main process saved to.
    """

    loss: dict[str, float | None]
    recall: dict | None
    measures: dict | None
    tokens_per_s: float
    steps: int
    total_steps: int
    rows: int
    template: str
    packed: bool
    parts: dict[str, int]
    checkpoint: bool
    adapter: str | None = None
    model: str | None = None


def tune(
    context: JobContext, slot: ModelSlot, settings: Settings, resumed: bool = False
) -> Generator[dict, None, TuneResult]:
    """Fine-tune with LoRA or in full, from the start or from the run's checkpoint; loads the model unless it is loaded.

    Raises Stopped where it was stopped before the first step, and PlaygroundError for rows, a model or processes that
    the settings don't fit.
    """
    is_full = settings.train.method == "full"
    context.team.check(settings)
    if not is_full:
        adapt.check_lora(settings.lora, settings.load, resolve_device(settings.load))
    loaded, training_set = yield from _load_model_and_rows(context, slot, settings)
    eval_set = training_set.eval_set
    answers: evaluation.Answers = {}
    if is_full:
        slot.invalidate()
        if loaded.dtype.itemsize == 2:
            yield {"kind": "note", "key": "note.full_bf16", "values": {}}
        answers = yield from evaluation.evaluate_answers(context, loaded, eval_set, ("base",))
    if context.predicts_memory:
        release_memory()
        outside = predictions.memory_outside_tensors(context.bytes_by_part())
        yield from predictions.predict_tune_memory(settings, loaded, training_set.examples, outside)
    trainer = prepare_trainer(loaded, settings, training_set.examples, eval_set.examples, context.team)
    context.optimizer = trainer.optimizer.inner
    yield from _plan_note(trainer.plan)

    if resumed:
        before = yield from _restore(context, trainer, training_set)
    else:
        before = yield from evaluation.evaluate_loss("before", trainer, eval_set, context.stop)
    last_step = yield from _train(context, loaded, trainer, training_set, settings.train)
    if last_step is None:
        raise Stopped
    yield {"kind": "phase", "name": "save"}
    saved_to = _save(context, loaded, is_full)
    slot.adapter = Adapter(context.run.id, training_set.template.name, settings.data.custom_format)
    after = yield from evaluation.evaluate_loss("after", trainer, eval_set, context.stop)
    context.team.leave()  # the rest is the main process's
    sides = ("tuned",) if is_full else ("base", "tuned")
    answers |= yield from evaluation.evaluate_answers(context, loaded, eval_set, sides)
    comparison = yield from evaluation.compare(context, eval_set, before, after, answers)
    parts = context.bytes_by_part()
    context.optimizer = None  # freed with the trainer; the adapter stays
    return TuneResult(
        loss={"before": before.mean if before else None, "after": after.mean if after else None},
        recall=comparison.recall,
        measures=comparison.measures,
        tokens_per_s=last_step["tokens_per_s"],
        steps=last_step["step"],
        total_steps=last_step["steps"],
        rows=training_set.rows,
        template=training_set.template.name,
        packed=trainer.batcher.packed,
        parts=parts,
        checkpoint=(context.run.folder / checkpoint.NAME).is_file(),
        adapter=str(saved_to) if saved_to and not is_full else None,
        model=str(saved_to) if saved_to and is_full else None,
    )


def _load_model_and_rows(
    context: JobContext, slot: ModelSlot, settings: Settings
) -> Generator[dict, None, tuple[LoadedModel, TrainingSet]]:
    """The model without any adapter, and the rows encoded for it."""
    yield {"kind": "phase", "name": "data"}
    rows = yield from run_in_background(lambda on_progress: data_source.read(settings.data, on_progress), context.stop)
    loaded = yield from ensure_loaded(context, slot, settings.load)
    yield {"kind": "phase", "name": "prepare"}
    slot.unload_adapter()
    training_set = _encode_rows(rows, settings, loaded)
    yield from training_set.notes
    return loaded, training_set


def _encode_rows(rows: SelectedRows, settings: Settings, loaded: LoadedModel) -> TrainingSet:
    """Encode rows with the template that suits model and data. Raises PlaygroundError where they don't fit."""
    train, data = settings.train, settings.data
    instructions = [row.instruction for row in rows.train]
    template, notes = choose_template_for(loaded, data.prompt_format, instructions, data.custom_format)
    positions = max_context_length(loaded.model.config)
    if positions and train.max_seq_length > positions:
        raise problem("error.length", length=train.max_seq_length, longest=positions)
    train_rows, shortened = fit_turns(rows.train, template, train.max_seq_length)
    examples, truncated = encode(train_rows, template, train.max_seq_length, data.train_on_prompt)
    notes = [*notes, *_know_tokens(loaded, template, train_rows, examples, settings.lora)]
    eval_rows, _ = fit_turns(_eval_rows(rows, train.eval_rows), template, train.max_seq_length)
    eval_examples = encode(eval_rows, template, train.max_seq_length)[0] if eval_rows else []
    questions = answerable_rows(eval_rows, template, train.max_seq_length, positions)
    eval_set = EvalSet(eval_examples, questions, template, answer_token_limit(eval_rows, template))
    texts = (text for row in rows.train for text in (row.output, row.instruction, row.input))
    notes = [*notes, *row_notes(rows.train, template), *round_trip_notes(loaded.tokenizer, texts)]
    notes += [{"kind": "note", "key": note.key, "values": note.values} for note in rows.notes]
    counts = {"rows": len(rows.train), "held_out": len(rows.held_out), "total": rows.total}
    notes.append({"kind": "note", "key": "note.data", "values": counts | {"template": template.name}})
    left_out = len(train_rows) - len(examples)
    notes += _length_notes(truncated - left_out, left_out, shortened, train.max_seq_length)
    return TrainingSet(template, examples, eval_set, len(rows.train), notes)


def _know_tokens(
    loaded: LoadedModel, template: Template, rows: list[Row], examples: list[Example], lora: Lora
) -> Iterator[dict]:
    """Grow the embedding for tokens that it has no row for, if it is trained; a `note` event says so.

    Such tokens were added to the tokenizer alone. Raises PlaygroundError for one if the embedding isn't trained.
    """
    unknown = first_unknown_token(loaded, (token for example in examples for token in example.ids))
    if unknown is None:
        return
    if adapt.is_named(embedding_name(loaded.model), lora.modules_to_save):
        grow_embedding(loaded.model, len(loaded.tokenizer))
        values = {"rows": len(loaded.tokenizer), "before": unknown.rows}
        yield {"kind": "note", "key": "note.embedding_grown", "values": values}
        return
    for row, encoded in zip(rows, template.encoded(rows)):
        found = first_unknown_token(loaded, [*encoded.prompt, *encoded.answer])
        if found:
            raise problem("error.token_in_row", row=row.number, token=found.token, id=found.id, rows=found.rows)


def _length_notes(cut: int, left_out: int, shortened: int, length: int) -> list[dict]:
    """What the maximum length does to the rows: answers cut, rows left out, and conversations without early turns."""
    counts = {"note.turns_left_out": shortened, "note.answers_cut": cut, "note.too_long": left_out}
    return [
        {"kind": "note", "key": key, "values": {"count": count, "length": length}}
        for key, count in counts.items()
        if count
    ]


def _eval_rows(rows: SelectedRows, count: int) -> list[Row]:
    """At most `count` of the held-out rows, evenly spaced."""
    return rows.held_out[:: max(1, math.ceil(len(rows.held_out) / count))] if count else []


def _plan_note(plan: MemoryPlan) -> Iterator[dict]:
    """What `auto` chose to recompute, where it did."""
    if plan.peak is not None:
        values = {"checkpointing": plan.policy.checkpointing, "tokens": plan.policy.tokens, "peak_bytes": plan.peak}
        yield {"kind": "note", "key": "note.plan", "values": values}


def _restore(
    context: JobContext, trainer: Trainer, training_set: TrainingSet
) -> Generator[dict, None, HeldOutLoss | None]:
    """Take the trainer to its checkpoint; return the held-out loss that was measured before the first step."""
    checkpoint.restore(trainer, training_set.examples, context.run.folder / checkpoint.NAME)
    yield {"kind": "note", "key": "note.resumed", "values": {"step": trainer.step}}
    return evaluation.recorded_loss_before(context.run, training_set.eval_set)


def _train(
    context: JobContext, loaded: LoadedModel, trainer: Trainer, training_set: TrainingSet, train: Train
) -> Generator[dict, None, dict | None]:
    """Train to the end or until it is stopped; return the last `step` event, or None where there was no step.

    Saves a checkpoint every `save_every` steps and where it was stopped; a finished run has none.
    """
    path, examples, last_step = context.run.folder / checkpoint.NAME, training_set.examples, None
    steps = total_steps(len(examples), train)
    samples = SampleAnswers(context, loaded, training_set.eval_set, train.sample_every, steps)
    yield {"kind": "phase", "name": "train"}
    first_step = trainer.step
    if not first_step:
        yield from samples.at(0) or ()
    context.peaks.start_phase()
    for event in fine_tune(trainer, examples, train, context.stop, samples.at):
        yield event
        if event["kind"] != "step":
            continue
        last_step = event
        is_due = train.save_every and event["step"] % train.save_every == 0 and event["step"] < event["steps"]
        if is_due and context.team.main:
            checkpoint.save(trainer, examples, path)
    if trainer.step - first_step >= MIN_MEASURED_STEPS:
        yield predictions.measured_memory_event("tune", context.peaks, context.bytes_by_part())
    if last_step and context.team.main:
        if last_step["step"] < last_step["steps"]:
            checkpoint.save(trainer, examples, path)
        else:
            path.unlink(missing_ok=True)
    return last_step


def _save(context: JobContext, loaded: LoadedModel, is_full: bool) -> Path | None:
    """Save the adapter or, after a full fine-tune, the model in the run's folder; None in all but the main process."""
    if not context.team.main:
        return None
    if not is_full:
        assert isinstance(loaded.model, PeftModel)
        adapt.save_lora(loaded.model, context.run.adapter)
        return context.run.adapter
    loaded.model.save_pretrained(context.run.model)
    loaded.tokenizer.save_pretrained(context.run.model)
    return context.run.model
