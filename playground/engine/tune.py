"""The job `tune`: encode rows, fine-tune, evaluate; and the same continued from a checkpoint."""

import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from playground.background import Stopped, run_in_background
from playground.data import source as data_source
from playground.engine import evaluation, predictions
from playground.engine.adapter_start import check_start
from playground.engine.evaluation import Comparison, EvalSet, HeldOutLoss
from playground.engine.forgetting import Forgetting
from playground.engine.job import JobContext, JobResult
from playground.engine.load import ensure_loaded
from playground.engine.model_slot import Adapter, ModelSlot
from playground.engine.offloading import check_offloading, offloading_note
from playground.engine.product_check import check_products
from playground.engine.saving import remove_checkpoints, save_trained, settle_checkpoints
from playground.engine.training import Trained, train
from playground.engine.training_set import TrainingSet, encode_rows
from playground.engine.visitor_room import raise_if_no_room
from playground.memory.release import release_memory
from playground.model import adapt
from playground.model.load import LoadedModel, resolve_device
from playground.settings import Settings
from playground.settings.limits import raise_if_too_many_rows, raise_if_too_many_steps
from playground.train import checkpoint
from playground.train.loop import total_steps
from playground.train.memory_policy import MemoryPlan
from playground.train.prepare import build_trainer, make_trainable, try_batching
from playground.train.trainer import Trainer


@dataclass
class TuneResult(JobResult):
    """What a fine-tune has learned and kept; one that was stopped has made fewer `steps` than `total_steps`.

    loss: held-out loss {"before", "after"}; recall and measures: as of evaluation.Comparison; forgetting: by language,
    as of eval.neutral_text.forgetting_figures; parts: the ledger in bytes; checkpoint: whether the run can be resumed;
    best: {"step", "loss"} of the weights that were kept, where the held-out loss was measured during training; ended:
    "early" where it no longer fell; adapter or model: the path that the main process saved to.
    """

    loss: dict[str, float | None]
    recall: dict | None
    measures: dict | None
    forgetting: dict | None
    tokens_per_s: float
    steps: int
    total_steps: int
    rows: int
    template: str
    packed: bool
    parts: dict[str, int]
    checkpoint: bool
    best: dict | None = None
    ended: str | None = None
    adapter: str | None = None
    model: str | None = None


def tune(
    context: JobContext, slot: ModelSlot, settings: Settings, resumed: bool = False
) -> Generator[dict, None, TuneResult]:
    """Fine-tune with LoRA or in full, from the start or from the run's checkpoint; loads the model unless it is loaded.

    With `lora.start_from` the adapter of another fine-tune is trained on, with a new optimizer. A run that is resumed
    and has no checkpoint yet begins with its first step again.

    Raises Stopped where it was stopped before the first step, and PlaygroundError for rows, a model or processes that
    the settings don't fit.
    """
    is_full = settings.train.method == "full"
    context.team.check(settings)
    if not is_full:
        adapt.check_lora(settings.lora, settings.load, resolve_device(settings.load))
    loaded, training_set = yield from _load_model_and_rows(context, slot, settings)
    resumed = resumed and (context.run.folder / checkpoint.NAME).is_file()
    start = yield from check_start(context.run.folder.parent, loaded, settings, resumed)
    check_offloading(loaded.model.config, settings, context.team.device)
    base_answers = (yield from _answer_untrained(context, slot, loaded, training_set)) if is_full else None
    batching = yield from _predict_memory(context, loaded, settings, training_set)
    forgetting = Forgetting(context, loaded, training_set.examples, settings.train.measure_forgetting)
    yield from forgetting.measure_base()
    trainer, start_peak = yield from _prepare_trainer(context, loaded, settings, training_set, start, batching)
    before = yield from (_restore if resumed else _begin)(context, trainer, training_set)
    trained = yield from train(context, loaded, trainer, training_set, settings.train, start_peak)
    if trained is None:
        raise Stopped
    yield {"kind": "phase", "name": "save"}
    saved_to = yield from save_trained(context, trainer, loaded, is_full)
    slot.adapter = Adapter(context.run.id, training_set.template.name, settings.data.custom_format)
    loss, comparison = yield from _compare(context, loaded, trainer, training_set.eval_set, before, base_answers)
    forgotten = yield from forgetting.measure_tuned()
    settle_checkpoints(context, trained.finished, is_saved=saved_to is not None)
    saved = {"model" if is_full else "adapter": str(saved_to)} if saved_to else {}
    result = _result(context, training_set, trainer, trained, loss, comparison, forgotten, saved)
    context.optimizer = None  # freed with the trainer; the adapter stays
    return result


def _load_model_and_rows(
    context: JobContext, slot: ModelSlot, settings: Settings
) -> Generator[dict, None, tuple[LoadedModel, TrainingSet]]:
    """The model without any adapter, and the rows encoded for it."""
    yield {"kind": "phase", "name": "data"}
    rows = yield from run_in_background(lambda on_progress: data_source.read(settings.data, on_progress), context.stop)
    raise_if_too_many_rows(len(rows.train))
    loaded = yield from ensure_loaded(context, slot, settings.load, settings)
    yield {"kind": "phase", "name": "prepare"}
    slot.unload_adapter()
    training_set = encode_rows(rows, settings, loaded)
    raise_if_too_many_steps(total_steps(len(training_set.examples), settings.train))
    yield from training_set.notes
    return loaded, training_set


def _answer_untrained(
    context: JobContext, slot: ModelSlot, loaded: LoadedModel, training_set: TrainingSet
) -> Generator[dict, None, evaluation.Answers]:
    """Answer the questions with the base model before a full fine-tune, which changes its weights in memory."""
    slot.invalidate()
    if loaded.dtype.itemsize == 2:
        yield {"kind": "note", "key": "note.full_bf16", "values": {}}
    return (yield from evaluation.evaluate_answers(context, loaded, training_set.eval_set, ("base",)))


def _predict_memory(
    context: JobContext, loaded: LoadedModel, settings: Settings, training_set: TrainingSet
) -> Generator[dict, None, str | None]:
    """Predict the fine-tune's memory; return the mode in which its rows are batched, where that was tried.

    It isn't while the model's matrices wait in their files, to be split over the processes.
    """
    release_memory()
    outside = predictions.memory_outside_tensors(context.bytes_by_part())
    examples, held_out = training_set.examples, training_set.eval_set.examples
    batcher = None if loaded.pages else try_batching(loaded, examples, held_out)
    yield from predictions.predict_tune_memory(settings, loaded, examples, outside, batcher, context.team)
    return batcher.mode if batcher else None


def _common_stop(context: JobContext) -> threading.Event:
    """What stops an evaluation: of several processes, which gather weights together, all do it wholly or none does."""
    if context.team.size == 1:
        return context.stop
    stop = threading.Event()
    if context.team.any(context.stop.is_set()):
        stop.set()
    return stop


def _prepare_trainer(
    context: JobContext,
    loaded: LoadedModel,
    settings: Settings,
    training_set: TrainingSet,
    start: Path | None,
    batching: str | None,
) -> Generator[dict, None, tuple[Trainer, dict[str, int]]]:
    """Make the model trainable and build its trainer, with notes of what it chose.

    Returns it with the measured peak of computing the adapter's start values. Raises PlaygroundError where what is
    trained is more than a visitor may still write.
    """
    start_peak = yield from _make_trainable(context, loaded, settings, start)
    examples, held_out = training_set.examples, training_set.eval_set.examples
    trainer = build_trainer(loaded, settings, examples, held_out, context.team, batching=batching)
    context.optimizer = trainer.optimizer.inner
    raise_if_no_room(context.run.folder.parent, checkpoint.trained_bytes(trainer))
    yield from _plan_note(trainer.plan)
    yield from offloading_note(settings, trainer.optimizer)
    yield from _form_note(settings)
    return trainer, start_peak


def _make_trainable(
    context: JobContext, loaded: LoadedModel, settings: Settings, start: Path | None
) -> Generator[dict, None, dict[str, int]]:
    """Add the adapter, with progress where its start values take minutes (a decomposition of every adapted weight).

    Returns the measured peak of computing them, where they were.
    """
    if settings.train.method == "full" or settings.lora.init == "default":
        make_trainable(loaded, settings, start)
        return {}
    context.peaks.start_phase()
    yield from run_in_background(lambda on_progress: make_trainable(loaded, settings, start, on_progress), context.stop)
    peak = context.peaks.phase_peak()
    release_memory()  # what the decompositions took
    return peak


def _plan_note(plan: MemoryPlan) -> Iterator[dict]:
    """What `auto` chose to recompute, where it did."""
    if plan.peak is not None:
        values = {"checkpointing": plan.policy.checkpointing, "tokens": plan.policy.tokens, "peak_bytes": plan.peak}
        yield {"kind": "note", "key": "note.plan", "values": values}


def _form_note(settings: Settings) -> Iterator[dict]:
    """As what adapter MiSS or PiSSA is trained and saved, since its folder names other numbers than the settings."""
    r, alpha = adapt.lora_rank_and_alpha(settings.lora)
    if settings.train.method != "full" and (r, alpha) != (settings.lora.r, settings.lora.alpha):
        kind = "miss" if settings.lora.kind == "miss" else "pissa"
        yield {"kind": "note", "key": f"note.form_{kind}", "values": {"r": settings.lora.r, "saved": r, "alpha": alpha}}


def _begin(
    context: JobContext, trainer: Trainer, training_set: TrainingSet
) -> Generator[dict, None, HeldOutLoss | None]:
    """What comes before the first step; returns the held-out loss then."""
    remove_checkpoints(context)  # what another beginning of this run has left
    yield from check_products(trainer, training_set.examples)
    return (yield from evaluation.evaluate_loss("before", trainer, training_set.eval_set, _common_stop(context)))


def _restore(
    context: JobContext, trainer: Trainer, training_set: TrainingSet
) -> Generator[dict, None, HeldOutLoss | None]:
    """Take the trainer to its checkpoint; return the held-out loss that was measured before the first step."""
    checkpoint.restore(trainer, training_set.examples, context.run.folder / checkpoint.NAME)
    yield {"kind": "note", "key": "note.resumed", "values": {"step": trainer.step}}
    return evaluation.recorded_loss_before(context.run, training_set.eval_set)


def _compare(
    context: JobContext,
    loaded: LoadedModel,
    trainer: Trainer,
    eval_set: EvalSet,
    before: HeldOutLoss | None,
    base_answers: evaluation.Answers | None,
) -> Generator[dict, None, tuple[dict[str, float | None], Comparison]]:
    """Measure the tuned model on the held-out rows, and compare it with the base model.

    base_answers: None where the base model can still be asked, the adapter being left out. Returns the held-out loss
    {"before", "after"} and the comparison. From here on, the main process is alone.
    """
    after = yield from evaluation.evaluate_loss("after", trainer, eval_set, _common_stop(context))
    context.team.leave()  # the rest is the main process's
    sides = ("base", "tuned") if base_answers is None else ("tuned",)
    answers = yield from evaluation.evaluate_answers(context, loaded, eval_set, sides)
    comparison = yield from evaluation.compare(context, eval_set, before, after, (base_answers or {}) | answers)
    return {"before": before.mean if before else None, "after": after.mean if after else None}, comparison


def _result(
    context: JobContext,
    training_set: TrainingSet,
    trainer: Trainer,
    trained: Trained,
    loss: dict[str, float | None],
    comparison: Comparison,
    forgetting: dict | None,
    saved: dict[str, str],
) -> TuneResult:
    """The job's result. saved: {"adapter" or "model": path}, or {}."""
    return TuneResult(
        loss=loss,
        recall=comparison.recall,
        measures=comparison.measures,
        forgetting=forgetting,
        tokens_per_s=trained.last_step["tokens_per_s"],
        steps=trained.last_step["step"],
        total_steps=trained.last_step["steps"],
        rows=training_set.rows,
        template=training_set.template.name,
        packed=trainer.batcher.packed,
        parts=context.bytes_by_part(),
        checkpoint=context.run.has_file(checkpoint.NAME),
        best=trained.best,
        ended="early" if trained.ended_early else None,
        **saved,
    )
