"""Predict what a fine-tune costs at a cutoff: memory, steps, and seconds on a GPU or at a measured speed."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from playground.catalog.cards import verdict
from playground.data.lengths import Lengths, cutoff_effect, padding
from playground.errors import PlaygroundError, problem
from playground.planning import several
from playground.planning.auto_streaming import predict_as_run, streamed_facts
from playground.planning.durations import run_durations
from playground.planning.forecast import check_context_length, resolve_target
from playground.predict.heaviest import predict_heaviest_step
from playground.settings import Settings, Train
from playground.train.loop import total_steps

NOT_PREDICTED: dict[str, Any] = {
    "padding": None,
    "steps": 0,
    "epochs": 0.0,
    "memory": None,
    "trouble": None,
    "measured": None,
}


@dataclass(frozen=True)
class Machine:
    """The hardware that a fine-tune is priced for.

    device: "cuda" or "cpu"; capacity: bytes of its memory, 0: no limit; name: a GPU's id in the catalog, or a
    device's name.
    """

    device: str = "cuda"
    capacity: int = 0
    name: str = ""


def cutoff_cost(
    lengths: Lengths,
    settings: Settings,
    config: PreTrainedConfig,
    machine: Machine,
    measured: dict | None = None,
    scale: float = 1.0,
) -> dict:
    """The cost of a fine-tune on rows of these lengths, with settings.train.max_seq_length as the cutoff.

    measured: speed of an earlier run (runs.measured_speed), used if it streamed as many layers. scale: rows of the
    whole set for each counted row; steps and seconds are those of the whole set. Returns data.lengths.cutoff_effect's
    keys and

        "cutoff", "padding" (data.lengths.padding), "steps", "epochs",
        "memory": {"bytes" (of each of the "gpus"), "gpus", "capacity", "verdict", "checkpointing", "budget",
        "batching", "tokens", "rows", "trainable", "streamed" (auto_streaming.streamed_facts)} or None,
        "trouble": the error as a dict where memory can't be predicted, else None,
        "estimates": durations.run_durations' result,
        "measured": {"seconds", "run", "tokens_per_s"} or None.
    """
    train, kept = settings.train, lengths.within(settings.train.max_seq_length)
    cost = cutoff_effect(lengths, train.max_seq_length, settings.data.train_on_prompt)
    cost |= {"cutoff": train.max_seq_length, **NOT_PREDICTED, "estimates": []}
    if not cost["kept"]:
        error = problem("error.all_too_long", rows=cost["rows"], length=train.max_seq_length)
        return cost | {"trouble": error.to_dict()}
    rows = round(cost["kept"] * scale)
    steps = total_steps(rows, train)
    epochs = epochs_of(rows, train)
    cost |= {"padding": padding(kept, train.batch_size, train.seed), "steps": steps, "epochs": round(epochs, 3)}
    if measured:
        seconds = cost["tokens"] * scale * epochs / measured["tokens_per_s"]
        cost["measured"] = measured | {"seconds": round(seconds, 1)}
    try:
        check_context_length(config, train.max_seq_length)
        settings, target = resolve_target(settings, machine.device, machine.capacity)
        own = several.checked_target(config, settings, target) if machine.device == "cuda" else target
        examples = kept.examples(settings.data.train_on_prompt)
        _, prediction = predict_as_run(
            config, settings, target, "tune", lambda chosen: predict_heaviest_step(config, chosen, own, examples)
        )
    except PlaygroundError as error:
        return cost | {"trouble": error.to_dict()}
    cost["memory"] = _memory(prediction, machine.capacity, own.processes)
    cost["memory"]["streamed"] = streamed_facts(config, settings, target, prediction)
    if measured and measured["streamed"] != prediction.get("streamed_layers", 0):
        cost["measured"] = None
    # no calls: of an offloaded optimizer or streamed layers, whose seconds aren't known; nor are those of several GPUs
    if own.processes == 1 and prediction["calls"]:
        cost["estimates"] = run_durations(prediction, machine.device, machine.name, steps)
    return cost


def epochs_of(rows: int, train: Train) -> float:
    """How often a run sees each of its rows."""
    return train.max_steps * train.batch_size / rows if train.max_steps else train.epochs


def _memory(prediction: dict, capacity: int, gpus: int) -> dict:
    need = prediction["need"]
    policy = {name: prediction[name] for name in ("checkpointing", "budget", "batching", "tokens", "rows", "trainable")}
    fit = verdict(need, capacity) if capacity else None
    return {"bytes": need, "gpus": gpus, "capacity": capacity, "verdict": fit, **policy}
