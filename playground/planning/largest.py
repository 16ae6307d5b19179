"""Find the largest model of the catalog that one GPU, or several, take: to chat with and to fine-tune with LoRA.

Fine-tuning is predicted for one row at a time on each GPU and every layer recomputed, the least that it takes; larger
batches are split until they fit. Over several GPUs the weights are split (FSDP2). Where they can't be, those of models
with an encoder at 8 and 4 bits, each GPU has the whole model (DDP).
"""

from collections.abc import Callable, Iterable
from typing import Any

from playground import catalog
from playground.catalog.cards import cards, verdict
from playground.model.language_part import max_context_length
from playground.planning import several
from playground.planning.forecast import resolve_target
from playground.predict import meta_model, phases
from playground.settings import BIT_WIDTHS, Settings

JOBS = ("chat", "tune")  # that a model may be too large for
TRIED_BITS = tuple(bits for bits in BIT_WIDTHS if bits < 32)
SETUP_BITS = (8, 4)  # of the table of setups: LLM.int8()'s own, and 4 bits

OnProgress = Callable[..., Any]


def required_memory(
    model: str, bits: int, job: str, device: str = "cuda", context: int = 1024, length: int = 256, gpus: int = 1
) -> int:
    """Bytes that a model needs to "chat", or to "tune" with LoRA, of each of so many GPUs.

    Bytes of a GPU for the device "cuda", of main memory for "cpu". context, length: tokens of the chat, which is on a
    single GPU, and of the row.
    """
    config = meta_model.config_of(model)
    is_split = gpus > 1 and (bits >= 16 or not config.is_encoder_decoder)
    train = {
        "batch_size": gpus,
        "max_seq_length": length,
        "gradient_checkpointing": "all",
        "num_processes": gpus,
        "parallel": "fsdp2" if is_split else "ddp",
    }
    chosen = Settings().with_values({"load": {"model": model, "bits": bits}, "train": train})
    settings, target = resolve_target(chosen, device, 0)
    if job == "chat":
        return phases.predict_chat(config, settings, target, context)["need"]
    return several.predict_tune(config, settings, target)["need"]


def largest_models(
    context: int = 1024, length: int = 256, gpus: int = 1, on_progress: OnProgress = lambda *step: None
) -> list[dict]:
    """For each GPU size and bit width, the catalog's largest model to chat with and the largest to fine-tune.

    gpus: how many of that size fine-tune together; a chat is on a single one. Models that can't take so many tokens
    are left out. on_progress: called with the models tried, all models and "models". Returns [{"card", "gib", "gpus",
    "bits", "chat": {"id", "name", "need" (bytes of each GPU)} or None, "tune": the same}], cards in the catalog's
    order.
    """
    rows = [
        {"card": card["id"], "gib": card["gib"], "gpus": gpus, "bits": bits, **dict.fromkeys(JOBS)}
        for card in cards()
        for bits in TRIED_BITS
    ]
    _fill(rows, {"chat": context, "tune": length}, on_progress)
    return rows


def largest_for_setups(length: int = 256, on_progress: OnProgress = lambda *step: None) -> list[dict]:
    """The largest model to fine-tune on each of the catalog's setups of GPUs, at each of SETUP_BITS.

    Returns [{"setup" (its id), "gib" (of each GPU), "gpus", "bits", "tune": as of `largest_models`}], in the catalog's
    order.
    """
    rows = [
        {"setup": setup["id"], "gib": setup["gib"], "gpus": setup["count"], "bits": bits, "tune": None}
        for setup in catalog.setups().values()
        for bits in SETUP_BITS
    ]
    _fill(rows, {"tune": length}, on_progress)
    return rows


def _fill(table: list[dict], tokens: dict[str, int], on_progress: OnProgress) -> None:
    """Write into each row, which has "gib", "gpus" and "bits", the largest model for each job. tokens: of each job."""
    sizes = tokens.get("chat", 0), tokens["tune"]
    models = sorted(catalog.shapes().values(), key=lambda entry: -entry["parameters"])
    for tried, entry in enumerate(models):
        if all(row[job] for row in table for job in tokens):
            break
        on_progress(tried, len(models), "models")
        longest = max_context_length(meta_model.config_of(entry["id"]))
        for (bits, job, gpus), rows in _open_rows(table, tokens).items():
            # Where even the weights at that width don't fit, there is nothing to trace.
            rows = [row for row in rows if entry["parameters"] * bits / 8 < gpus * row["gib"] * 2**30]
            if not rows or (longest and longest < tokens[job]):
                continue
            need = required_memory(entry["id"], bits, job, "cuda", *sizes, gpus)
            for row in rows:
                if verdict(need, row["gib"] * 2**30) != "no":
                    row[job] = {"id": entry["id"], "name": entry["name"], "need": need}


def _open_rows(table: list[dict], jobs: Iterable[str]) -> dict[tuple[int, str, int], list[dict]]:
    """The rows that have no model for a job yet, by bit width, job and its number of GPUs."""
    found: dict[tuple[int, str, int], list[dict]] = {}
    for row in table:
        for job in jobs:
            if row[job] is None:
                found.setdefault((row["bits"], job, row["gpus"] if job == "tune" else 1), []).append(row)
    return found
