"""Prediction beside measurement: what a job says before a phase, and what was found once it was over.

A phase is load, chat or tune. Said is a `prediction` event: {"phase", "parts", and bytes by kind: "allocated", "reserved"
and "device" on CUDA, "rss" on a CPU; "need", the one of them that decides, "capacity", "verdict"}. Found is a `measured` event: {"phase", "parts", "peak": bytes
by kind}. accuracy.py pairs them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from transformers import PreTrainedConfig

from playground.data.batch import Example, batches
from playground.errors import told
from playground.memory import meter, predict
from playground.memory.cards import verdict
from playground.model.load import Loaded, half_type
from playground.pretended import capacity, room
from playground.settings import Load, Settings, Train
from playground.train.loop import total_steps

WORKING = ("activations", "loss", "kv_cache", "buffers")  # parts of which only the sum can be measured
TRIED = 8  # epochs whose batches are looked through for the heaviest


class Peaks:
    """The most that was taken, in bytes by kind: in this phase, and in the whole job."""

    def __init__(self, device: str):
        self._device = device
        self.phase: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._reset()

    def see(self, reading: dict[str, int]) -> None:
        """One of the meter's readings; what another job has left on a card doesn't belong to one on the CPU."""
        self.phase = _larger(self.phase, reading if self._device == "cuda" else {"rss": reading["rss"]})

    def begin(self) -> None:
        """A phase begins: what was taken before doesn't count for it."""
        self._before, self.phase = self.job(), {}
        self._reset()

    def read(self) -> dict[str, int]:
        """This phase's so far; what torch counts itself is exact, the rest is as often as the meter looked, and once more now."""
        self.see(meter.reading())
        exact = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()} if self._on_card() else {}
        return _larger(self.phase, exact)

    def job(self) -> dict[str, int]:
        return _larger(self._before, self.read())

    def _reset(self) -> None:
        if self._on_card():
            torch.cuda.reset_peak_memory_stats()
        self.see(meter.reading())

    def _on_card(self) -> bool:
        return self._device == "cuda" and torch.cuda.is_initialized()


def of_load(load: Load, config: PreTrainedConfig, device: str) -> Iterator[dict]:
    """What loading a model of this config will take."""
    yield from _said("load", load, device, half_type(load, device)[0], lambda place: predict.load(config, Settings(load=load), place))


def of_tune(settings: Settings, held: Loaded, examples: Sequence[Example], wanted: bool = True) -> Iterator[dict]:
    """What the heaviest step of a fine-tune on these rows will take; `wanted` False yields nothing, as in the following."""

    if wanted:
        yield from _said("tune", settings.load, held.device, held.dtype, lambda place: tune(held.model.config, settings, place, examples))


def tune(config: PreTrainedConfig, settings: Settings, place: predict.Place, examples: Sequence[Example]) -> dict:
    """`predict.tune` of the heaviest step on these rows, with its rows' "lengths" and how many tokens of each are "labelled"."""
    for alike in (config.is_encoder_decoder, True):
        rows = heaviest(examples, settings.train, alike)
        found = predict.tune(config, settings, place, [len(e.ids) for e in rows], [e.labelled for e in rows])
        if alike or found["feed"] != "padded":  # only padded rows are put together by their length
            return found | {"lengths": [len(e.ids) for e in rows], "labelled": [e.labelled for e in rows]}


def of_chat(settings: Settings, held: Loaded, rows: int, context: int, wanted: bool = True) -> Iterator[dict]:
    """What an answer took by the same reckoning: `rows` sequences (sides × beams) of `context` tokens."""
    shared = max(2, -(-rows * context // predict.CHATTING))  # it reckons with that many rows: with as many tokens in all, the KV cache is as large
    if wanted:
        yield from _said("chat", settings.load, held.device, held.dtype, lambda place: predict.chat(held.model.config, settings, place, shared))


def found(phase: str, peaks: Peaks, parts: dict[str, int]) -> dict:
    """The `measured` event of a phase that is over; parts: the ledger as the phase left it."""
    return {"kind": "measured", "phase": phase, "parts": completed(parts, peaks.read()), "peak": peaks.read()}


def completed(parts: dict[str, int], peak: dict[str, int]) -> dict[str, int]:
    """The parts of a measured peak: exact ones, and what is left over. On a CPU that can't be told from the program itself."""
    known = sum(parts.values())
    rest = {"working": peak["allocated"] - known, "runtime": peak["device"] - peak["allocated"]} if "allocated" in peak else {}
    return {part: size for part, size in (parts | rest).items() if size > 0}


def whole(parts: dict[str, int], peak: dict[str, int]) -> dict[str, int]:
    """The same with everything in it, also on a CPU; parts: empty while a model is loaded, when all that is allocated is weights."""
    if "allocated" in peak and not any(parts.values()):
        parts = {"weights": peak["allocated"]}
    found = completed(parts, peak)
    return found if "allocated" in peak else found | {"rest_cpu": peak["rss"] - sum(found.values())}


def heaviest(examples: Sequence[Example], train: Train, alike: bool) -> list[Example]:
    """The batch of a run that holds the most tokens, with their padding where rows of like length are put together."""

    def size(batch: Sequence[Example]) -> int:
        lengths = [len(e.ids) for e in batch]
        return max(lengths) * len(lengths) if alike else sum(lengths)

    steps = total_steps(len(examples), train)
    epochs = min(TRIED, math.ceil(steps * train.batch / len(examples)))
    run = (batch for n in range(epochs) for batch in batches(examples, train.batch, train.seed + n, alike))
    return max(islice(run, steps), key=size)


def _said(phase: str, load: Load, device: str, dtype: torch.dtype, predicted: Callable[[predict.Place], dict]) -> Iterator[dict]:
    """A prediction as an event. One that fails must not fail the job: not every model can be built without its weights."""
    try:
        said, most = predicted(predict.Place(device, dtype, room(load, device))), capacity(load, device)
        said |= {"rss": said.pop("resident")} if "resident" in said else {}
        need = said.get("device") or said.get("rss") or said["allocated"]
        yield {"kind": "prediction", "phase": phase, **said, "need": need, "capacity": most, "verdict": verdict(need, most)}
        if load.card and device == "cpu":
            card = int(load.card * 2**30)
            need = predicted(predict.Place("cuda", dtype, card))["device"]
            yield {"kind": "note", "key": f"note.card_{verdict(need, card)}", "values": {"job": phase, "need_bytes": need, "card_bytes": card}}
    except Exception as error:
        yield {"kind": "note", "key": "note.not_predicted", "values": {"job": phase, "detail": str(told(error)).split("\n")[0][:200]}}


def _larger(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {kind: max(one.get(kind, 0), other.get(kind, 0)) for kind in {**one, **other}}
