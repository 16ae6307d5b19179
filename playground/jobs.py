"""The jobs: load, tune, chat. Each is a generator of events over one `Workbench`, which holds the one model.

The worker process (engine.py) and the command line (__main__.py) run the same jobs.
"""

import math
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from peft import PeftModel

from playground import runs
from playground.chat.pair import Asked, answers
from playground.chat.recall import recall
from playground.data import source as data_source
from playground.data.batch import encode
from playground.data.template import Template, Turn, choose
from playground.errors import problem, told
from playground.memory import ledger, meter
from playground.model import adapt
from playground.model.load import Loaded, best_bits, device_of, give_back, load
from playground.model.source import obtain
from playground.settings import Generation, Load, Settings, check, generation_problems, problems
from playground.train.feed import Feed
from playground.train.loop import Masters, fine_tune, held_out_loss
from playground.watched import Stopped, watched

MEASURED_ROWS = 45  # held-out rows at most, evenly spread over the set: enough for a mean, quick on a CPU
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


class Workbench:
    """What one process holds: at most one model with at most one adapter, and the run that is written to."""

    def __init__(self, root: Path):
        self.root = root
        self.stop = threading.Event()
        self.run: runs.Run | None = None
        self._loaded: Loaded | None = None
        self._as: Load | None = None  # how it was loaded
        self._adapter: str | None = None  # id of the run whose adapter is on the model
        self._template = "auto"
        self._masters: Masters | None = None

    # --- jobs ---

    def load(self, settings: Settings) -> Iterator[dict]:
        """Load a model, after giving back whatever was held. The result: {"run", "seconds", "peak"}."""
        check(problems(settings))
        return self._job("load", settled(settings), self._load_only)

    def tune(self, settings: Settings) -> Iterator[dict]:
        """Fine-tune with LoRA; loads the model first where it isn't held already.

        The result: {"run", "seconds", "loss" {before, after}, "recall" {base, tuned} or None, "tokens_per_s", "steps",
        "peak" (bytes by kind), "stopped"}.
        """
        check(problems(settings))
        return self._job("tune", settled(settings), self._tune)

    def chat(self, settings: Settings, adapter: str | None, sides: dict[str, list[dict]], generation: Generation) -> Iterator[dict]:
        """Answer the last turn of each side's conversation, both sides in one batch.

        settings: how the model is loaded; adapter: the run whose adapter answers on the tuned side, or None; sides:
        {"base": turns, "tuned": turns}, a turn being {"instruction", "answer"}, the last one's answer None. Yields
        `answer` events {"base": text, "tuned": text}; they aren't kept in the run.
        """
        check(problems(settings) + generation_problems(generation))
        return self._job("chat", settled(settings), lambda s: self._chat(s, adapter, sides, generation), goes_on=True)

    def free(self) -> None:
        """Give back the model and everything with it."""
        self._loaded = self._as = self._adapter = self._masters = None
        give_back()

    # --- how a job runs ---

    def _job(self, kind: str, settings: Settings, work, goes_on: bool = False) -> Iterator[dict]:
        """Run `work(settings)`, its events kept in a run, memory metered all along, its end told whatever happens.

        A job that `goes_on` writes to the open run, if that is how the model was loaded; every other one opens its own.
        """
        if not (goes_on and self.run and self._as == settings.load):
            device = device_of(settings.load)
            facts = {"hardware": meter.hardware(device), "versions": {name: version(name) for name in LIBRARIES}}
            self.run = runs.create(self.root, kind, settings.to_dict(), **facts)
        run, began = self.run, time.time()
        gauge = meter.Meter(lambda now: run.append("memory", **now))
        yield {"kind": "opened", "run": run.id}
        gauge.take()
        gauge.start()
        try:
            result = yield from self._kept(run, work(settings))
            result = {"run": run.id, "seconds": round(time.time() - began, 2), "stopped": self.stop.is_set(), "peak": _peak(gauge), **(result or {})}
            yield from self._kept(run, iter([{"kind": "phase", "name": "idle"}, {"kind": "done", "job": kind, "result": result}]))
        except Stopped:
            run.append("phase", name="idle")
            yield run.append("done", job=kind, result={"run": run.id, "stopped": True, "peak": _peak(gauge)})
        except Exception as error:
            shown = self._explain(error, gauge)
            self._recover()
            run.append("phase", name="idle")
            run.append("failure", job=kind, **shown.to_dict())
            raise shown from error
        finally:
            gauge.stop()
            self.stop.clear()

    def _kept(self, run: runs.Run, events) -> Generator[dict, None, object]:
        """Pass events on, writing each to the run first; a new phase brings the ledger of that moment along."""
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                return end.value
            if event["kind"] == "answer":  # what people say to a model stays out of the run
                yield event
                continue
            kept = run.append(**event)
            if event["kind"] == "phase" or (event["kind"] == "step" and event["step"] <= 2):
                run.append("memory", **meter.reading(), parts=self._parts())
            yield kept

    def _parts(self) -> dict[str, int]:
        model = self._loaded.model if self._loaded else None
        return ledger.parts(model, self._masters.optimizer if self._masters else None)

    def _explain(self, error: Exception, gauge: meter.Meter):
        """An out-of-memory with what filled it; anything else as it is told everywhere."""
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            largest = max(self._parts().items(), key=lambda item: item[1])
            now = max(gauge.peak.get("device", 0), gauge.peak.get("rss", 0) if not torch.cuda.is_available() else 0)
            device = "cuda" if isinstance(error, torch.OutOfMemoryError) else "cpu"
            return problem("error.out_of_memory", used_bytes=now, capacity_bytes=meter.hardware(device)["capacity"], part=largest[0], part_bytes=largest[1])
        return told(error)

    def _recover(self) -> None:
        """After a failure: drop what was half made. The model itself stays if it was whole."""
        self._masters = None
        if self._loaded and self._adapter is None:
            self._loaded.model = adapt.remove_lora(self._loaded.model)
        give_back()

    # --- load ---

    def _load_only(self, settings: Settings):
        if self._loaded:
            yield {"kind": "phase", "name": "free"}
            self.free()
        yield from self._hold(settings.load)
        return {"dtype": str(self._loaded.dtype).removeprefix("torch."), "parts": self._parts()}

    def _hold(self, wanted: Load):
        """Make sure that the model is held just so; what was held otherwise is given back first."""
        if self._loaded and self._as == wanted:
            return
        if self._loaded:
            yield {"kind": "phase", "name": "free"}
            self.free()
        folder = yield from obtain(wanted.model, wanted.accept_terms, self.stop)
        yield {"kind": "phase", "name": "load"}
        self._loaded = yield from watched(lambda tell: load(folder, wanted, tell), self.stop)
        self._as = wanted
        yield {"kind": "note", "key": self._loaded.reason, "values": {"dtype": str(self._loaded.dtype).removeprefix("torch.")}}
        if self._loaded.device == "cpu" and wanted.bits < 16:
            yield {"kind": "note", "key": "note.cpu_quantized", "values": {"bits": wanted.bits}}

    def _bare(self) -> None:
        """Take the adapter off, if there is one."""
        self._masters = self._adapter = None
        self._loaded.model = adapt.remove_lora(self._loaded.model)

    # --- tune ---

    def _tune(self, settings: Settings):
        run = self.run
        rows = yield from self._rows(settings)
        yield from self._hold(settings.load)
        yield {"kind": "phase", "name": "prepare"}
        self._bare()
        held, train = self._loaded, settings.train
        template = choose(settings.data.template, held.tokenizer, [r.instruction for r in rows.train])
        self._template = template.name
        longest = getattr(held.model.config, "max_position_embeddings", None)
        if longest and train.length > longest:
            raise problem("error.length", length=train.length, longest=longest)
        examples, cut = encode(rows.train, template, train.length, settings.data.train_on_prompt)
        measured = rows.held_out[:: max(1, math.ceil(len(rows.held_out) / MEASURED_ROWS))]
        apart, _ = encode(measured, template, train.length) if measured else ([], 0)
        yield {"kind": "note", "key": "note.data", "values": {"rows": len(rows.train), "held_out": len(measured), "total": rows.total, "template": template.name}}
        if cut:
            yield {"kind": "note", "key": "note.cut", "values": {"cut": cut, "length": train.length}}
        held.model = adapt.add_lora(held.model, settings.lora, held.dtype, train.seed)
        self._masters = Masters(adapt.adapter_parameters(held.model), train.lr)
        feed = Feed(held.model, examples + apart, held.tokenizer.pad_token_id or 0, held.device)

        loss = {"before": None, "after": None}
        loss["before"] = yield from self._score("before", apart, feed)
        yield {"kind": "phase", "name": "train"}
        last = None
        for last in fine_tune(held.model, self._masters, examples, train, feed, self.stop):
            yield last
        if last is None:
            raise Stopped
        self._adapter = run.id
        yield {"kind": "phase", "name": "save"}
        adapt.save_lora(held.model, run.adapter)
        loss["after"] = yield from self._score("after", apart, feed)
        asked = [row for row in measured if row.key]
        found = None
        if asked and not self.stop.is_set():
            yield {"kind": "phase", "name": "compare"}
            found = yield from recall(held.model, template, asked, self.stop)
            if found:
                yield {"kind": "score", "when": "recall", **found}
        parts = self._parts()
        self._masters = None  # gradients and optimizer go; the adapter stays
        return {
            "loss": loss, "recall": found, "tokens_per_s": last["tokens_per_s"], "steps": last["step"], "rows": len(rows.train),
            "template": template.name, "packed": feed.packed, "parts": parts, "adapter": str(run.adapter),
        }  # fmt: skip

    def _rows(self, settings: Settings):
        yield {"kind": "phase", "name": "data"}
        return (yield from watched(lambda tell: data_source.read(settings.data, tell), self.stop))

    def _score(self, when: str, examples, feed: Feed):
        if not examples or self.stop.is_set():
            return None
        yield {"kind": "phase", "name": "evaluate"}
        loss = yield from held_out_loss(self._loaded.model, examples, feed, self.stop)
        if loss is None:
            return None
        yield {"kind": "score", "when": when, "loss": round(loss, 5)}
        return round(loss, 5)

    # --- chat ---

    def _chat(self, settings: Settings, adapter: str | None, sides: dict[str, list[dict]], generation: Generation):
        yield from self._hold(settings.load)
        held = self._loaded
        if self._adapter != adapter:
            self._bare()
            if adapter:
                run = runs.find(self.root, adapter)
                yield {"kind": "phase", "name": "prepare"}
                held.model = adapt.read_lora(held.model, run.adapter, held.dtype)
                self._adapter = adapter
                self._template = runs.result(run).get("template", "auto")
        wanted = self._template if adapter else settings.data.template
        template = choose(wanted, held.tokenizer, [turn["instruction"] for turns in sides.values() for turn in turns])
        names = [side for side in ("base", "tuned") if side in sides and (side == "base" or isinstance(held.model, PeftModel))]
        asked = [Asked(template.ids([Turn(t["instruction"], t.get("answer")) for t in sides[side]]), side == "tuned") for side in names]
        longest = getattr(held.model.config, "max_position_embeddings", None)
        used = max(len(a.ids) for a in asked) + generation.max_new_tokens
        if longest and used > longest:
            raise problem("error.context", used=used, longest=longest)
        yield {"kind": "phase", "name": "chat"}
        began, event = time.time(), {}
        for event in answers(held.model, held.tokenizer, asked, self._ends(template), generation, self.stop):
            if "texts" in event:
                yield {"kind": "answer", **dict(zip(names, event["texts"])), "tokens": event["tokens"]}
            else:
                yield {"kind": "progress", "done": event["tokens"], "total": generation.max_new_tokens, "unit": "tokens"}
        return {"tokens": event["tokens"], "tokens_per_s": round(event["tokens"] * len(asked) / (time.time() - began), 1), "adapter": adapter, "template": template.name}

    def _ends(self, template: Template) -> list[int]:
        own = self._loaded.model.generation_config.eos_token_id
        return list({*template.end_ids(), *(own if isinstance(own, list) else [own] if own is not None else [])})


def settled(settings: Settings) -> Settings:
    """The same settings with the bit width decided, where it was left to the hardware."""
    return replace(settings, load=replace(settings.load, bits=settings.load.bits or best_bits(device_of(settings.load))))


def _peak(gauge: meter.Meter) -> dict[str, int]:
    """Measured peaks in bytes, by kind."""
    peak = dict(gauge.peak)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["allocated"] = max(peak.get("allocated", 0), torch.cuda.max_memory_allocated())
        peak["reserved"] = max(peak.get("reserved", 0), torch.cuda.max_memory_reserved())
    return peak

