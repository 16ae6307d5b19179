"""The jobs: load, tune, chat. Each is a generator of events over one `Workbench`, which holds the one model.

The worker process (engine.py) and the command line (__main__.py) run the same jobs.
"""

import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from peft import PeftModel

from playground import beside, catalog, pretended, runs, tuning
from playground.chat.pair import Asked, answers
from playground.data.template import Template, Turn, choose_for
from playground.errors import PlaygroundError, problem, told
from playground.memory import ledger, meter, shape
from playground.model import adapt
from playground.model.load import Loaded, best_bits, device_of, give_back, left_whole, load
from playground.model.source import knows_config, local, obtain
from playground.model.tokenizer import own_ends
from playground.settings import Generation, Load, Settings, check, generation_problems, problems
from playground.train import checkpoint
from playground.train.loop import Trainer
from playground.train.parallel import Team, lost
from playground.watched import Stopped, watched

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


class Workbench:
    """What one process holds: at most one model with at most one adapter, and the run that is written to."""

    def __init__(self, root: Path):
        self.root = root
        self.stop = threading.Event()
        self.run: runs.Run | None = None
        self.team: Team | None = None
        self.peaks = beside.Peaks("cpu")
        self.loaded: Loaded | None = None
        self.adapter: str | None = None  # id of the run whose adapter is on the model
        self.template, self.form = "auto", ""  # how its rows were written
        self.trainer: Trainer | None = None
        self._as: Load | None = None  # how it was loaded; None for weights that aren't as they were loaded any more

    # --- jobs ---

    def load(self, settings: Settings) -> Iterator[dict]:
        """Load a model, after giving back whatever was held. The result: {"run", "seconds", "peak"}."""
        check(problems(settings))
        return self._job("load", settled(settings), self._load_only)

    def tune(self, settings: Settings) -> Iterator[dict]:
        """Fine-tune with LoRA or in full; loads the model first where it isn't held already.

        The result: {"run", "seconds", "loss" {before, after}, "recall" {base, tuned} or None, "measures"
        (chat/measure.py's figures by name) or None, "tokens_per_s", "steps", "peak" (bytes by kind), "stopped", "adapter" or "model" (path)}.
        """
        check(problems(settings))
        return self._job("tune", settled(settings), lambda s: tuning.tune(self, s, False))

    def resume(self, run_id: str) -> Iterator[dict]:
        """Go on with a fine-tune that left a checkpoint, in the same run and with its settings; the result as of `tune`."""
        run = runs.find(self.root, run_id)
        if not (run.folder / checkpoint.NAME).is_file():
            raise problem("error.no_checkpoint", run=run_id)
        settings = settled(Settings().with_values(run.settings()))
        return self._job("tune", settings, lambda s: tuning.tune(self, s, True), resumed=run)

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
        self.loaded = self._as = self.adapter = self.trainer = None
        give_back()

    # --- how a job runs ---

    def _job(self, kind: str, settings: Settings, work, goes_on: bool = False, resumed: runs.Run | None = None) -> Iterator[dict]:
        """Run `work(settings)`, its events kept in a run, memory metered all along, its end told whatever happens.

        A job that `goes_on` writes to the open run, if that is how the model was loaded; one that is `resumed` to its
        own of before; every other one opens its own.
        """
        device = device_of(settings.load)
        self.team = Team(device)
        if not self.team.main:
            self.run = runs.Unwritten(resumed.folder if resumed else self.root / "unwritten")
        elif resumed:
            self.run = resumed
        elif not (goes_on and self.run and self._as == replace(settings.load, anyway=False)):
            self.run = runs.create(self.root, kind, settings.to_dict(), **_facts(settings.load, device))
        run, began = self.run, time.time()
        self.team.watch(lambda: run.append("failure", job=kind, **problem("error.rank_died").to_dict()))
        self.peaks = peaks = beside.Peaks(device)

        def metered(now: dict[str, int]) -> None:
            peaks.see(now)
            run.append("memory", **now)

        gauge = meter.Meter(metered)
        yield {"kind": "opened", "run": run.id}
        gauge.take()
        gauge.start()
        try:
            with pretended.card(settings.load, device):
                result = yield from self._kept(run, work(settings))
            result = {"run": run.id, "seconds": round(time.time() - began, 2), "stopped": self.stop.is_set(), "peak": peaks.job(), **(result or {})}
            yield from self._kept(run, iter([{"kind": "phase", "name": "idle"}, {"kind": "done", "job": kind, "result": result}]))
        except Stopped:
            run.append("phase", name="idle")
            yield run.append("done", job=kind, result={"run": run.id, "stopped": True, "peak": peaks.job()})
        except Exception as error:
            shown, ledger_then = self._explain(error, settings.load, device)
            with self.team.telling() as first:
                if first:
                    run.append("phase", name="idle")
                    run.append("failure", job=kind, **shown.to_dict(), **ledger_then)
            self._recover()
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
                run.append("memory", **meter.reading(), parts=self.parts())
            yield kept

    def parts(self) -> dict[str, int]:
        return ledger.parts(self.loaded.model if self.loaded else None, self.trainer.optimizer.inner if self.trainer else None)

    def _explain(self, error: Exception, load: Load, device: str) -> tuple[PlaygroundError, dict]:
        """What went wrong as it is told, and of an out-of-memory the ledger then: {"parts", "peak", "capacity"} in bytes."""
        if self.team.size > 1 and lost(error):
            return problem("error.rank_died"), {}
        if not meter.ran_out(error):
            return told(error), {}
        full = isinstance(error, torch.OutOfMemoryError)
        peak, capacity = self.peaks.read(), pretended.capacity(load, "cuda" if full else device)
        if full and load.card:
            peak["device"] = min(peak["device"], peak["reserved"] + pretended.RUNTIME)  # what others have taken isn't on that card
        used = peak["device"] if full else peak["rss"]
        parts = beside.whole(self.parts(), peak)
        largest = max((part for part in parts if part != "runtime"), key=parts.get, default="weights")  # runtime: nobody can do anything about that
        return (
            problem("error.out_of_memory", used_bytes=used, capacity_bytes=capacity, part=largest, part_bytes=parts.get(largest, 0)),
            {"parts": parts, "peak": peak, "capacity": capacity},
        )  # fmt: skip

    def _recover(self) -> None:
        """After a failure: drop what was half made. The model itself stays if it was whole."""
        self.trainer = None
        if self.loaded and self.adapter is None and not self.team.sharded:
            self.loaded.model = adapt.remove_lora(self.loaded.model)
            self.loaded.model.requires_grad_(False)
        give_back()

    # --- load ---

    def _load_only(self, settings: Settings):
        if self.loaded:
            yield {"kind": "phase", "name": "free"}
            self.free()
        yield from self.hold(settings.load)
        return {"dtype": str(self.loaded.dtype).removeprefix("torch."), "parts": self.parts()}

    def hold(self, wanted: Load):
        """Make sure that the model is held just so; what was held otherwise is given back first."""
        wanted, anyway = replace(wanted, anyway=False), wanted.anyway
        if self.loaded and self._as == wanted:
            return
        if self.loaded:
            yield {"kind": "phase", "name": "free"}
            self.free()
        foretold = yield from self._foretell(wanted, anyway)  # before anything large is fetched, if it can be
        with self.team.turns():
            folder = yield from obtain(wanted.model, wanted.accept_terms, self.stop)
        if not foretold:
            yield from self._foretell(replace(wanted, model=str(folder)), anyway)
        yield {"kind": "phase", "name": "load"}
        self.peaks.begin()
        self.loaded = yield from watched(lambda tell: load(folder, wanted, tell, self.team.load_device), self.stop)
        self._as = wanted
        yield beside.found("load", self.peaks, self.parts())
        yield {"kind": "note", "key": self.loaded.reason, "values": {"dtype": str(self.loaded.dtype).removeprefix("torch.")}}
        if self.loaded.device == "cpu" and wanted.bits < 16:
            yield {"kind": "note", "key": "note.cpu_quantized", "values": {"bits": wanted.bits}}
        whole = left_whole(self.loaded.model) if wanted.bits < 16 else 0
        if whole > 0.01:
            yield {"kind": "note", "key": "note.left_whole", "values": {"percent": round(100 * whole), "bits": wanted.bits}}

    def _foretell(self, wanted: Load, anyway: bool) -> Generator[dict, None, bool]:
        """Say what loading will take; return whether that could be said. Raises PlaygroundError where it won't fit, unless `anyway`."""
        said = {}
        if self.predicts and knows_config(wanted.model):
            here = local(wanted.model)  # says what is wrong with a path
            for said in beside.of_load(wanted, shape.config_of(str(here or wanted.model)), self.team.device):
                yield said
                if said.get("verdict") == "no" and not anyway:
                    name = catalog.name_of(wanted.model)
                    raise problem("error.too_large", model=name, bits=wanted.bits, need_bytes=said["need"], capacity_bytes=said["capacity"])
        return bool(said)

    @property
    def predicts(self) -> bool:
        """Whether phases are predicted: one process alone has everything that is predicted."""
        return self.team.size == 1 and not self.team.sharded

    def bare(self) -> None:
        """Take the adapter off, if there is one."""
        self.trainer = self.adapter = None
        self.loaded.model = adapt.remove_lora(self.loaded.model)

    def changed(self) -> None:
        """The held weights are about to be trained themselves: they're no longer what was loaded."""
        self._as = None

    # --- chat ---

    def _chat(self, settings: Settings, adapter: str | None, sides: dict[str, list[dict]], generation: Generation):
        run = runs.find(self.root, adapter) if adapter else None
        if not run or not run.model.is_dir():
            return (yield from self._answer(settings, run, sides, generation))
        template, form = _written(run)
        told: dict[str, str] = {}  # a full fine-tune is a model of its own: one after the other, for there is room for one
        for side, model in (("base", settings.load.model), ("tuned", str(run.model))):
            if side in sides:
                alone = replace(settings, load=replace(settings.load, model=model), data=replace(settings.data, template=template, form=form))
                for event in self._answer(alone, None, {"base": sides[side]}, generation):
                    if event["kind"] == "answer":
                        told[side] = event.pop("base")
                        event |= told
                    yield event
        return {"adapter": adapter, "template": template}

    def _answer(self, settings: Settings, run: runs.Run | None, sides: dict[str, list[dict]], generation: Generation):
        """Answer both sides in one batch over the held model, `run`'s adapter on the tuned one."""
        yield from self.hold(settings.load)
        held, adapter = self.loaded, run.id if run else None
        if self.adapter != adapter:
            self.bare()
            if run:
                yield {"kind": "phase", "name": "prepare"}
                held.model = adapt.read_lora(held.model, run.adapter, held.dtype)
                self.adapter = adapter
                self.template, self.form = _written(run)
        wanted, form = (self.template, self.form) if adapter else (settings.data.template, settings.data.form)
        encoder = held.model.config.is_encoder_decoder
        template, notes = choose_for(held, wanted, [turn["instruction"] for turns in sides.values() for turn in turns], form)
        yield from notes
        names = [side for side in ("base", "tuned") if side in sides and (side == "base" or isinstance(held.model, PeftModel))]
        asked = [Asked(template.ids([Turn(t["instruction"], t.get("answer")) for t in sides[side]]), side == "tuned") for side in names]
        longest = getattr(held.model.config, "max_position_embeddings", None)
        prompt = max(len(a.ids) for a in asked)
        used = max(prompt, generation.max_new_tokens) if encoder else prompt + generation.max_new_tokens
        if longest and used > longest:
            raise problem("error.context", used=used, longest=longest)
        yield {"kind": "phase", "name": "chat"}
        self.peaks.begin()
        began, event = time.time(), {}
        for event in answers(held.model, held.tokenizer, asked, self._ends(template), generation, self.stop):
            if "texts" in event:
                yield {"kind": "answer", **dict(zip(names, map(template.answer, event["texts"]))), "tokens": event["tokens"]}
            else:
                yield {"kind": "progress", "done": event["tokens"], "total": generation.max_new_tokens, "unit": "tokens"}
        result = {"tokens": event["tokens"], "tokens_per_s": round(event["tokens"] * len(asked) / (time.time() - began), 1), "adapter": adapter, "template": template.name}
        measured = beside.found("chat", self.peaks, self.parts())
        yield from beside.of_chat(settings, held, len(asked) * generation.num_beams, prompt + event["tokens"], self.predicts)  # so late that no answer waits for it
        yield measured
        return result

    def _ends(self, template: Template) -> list[int]:
        return list({*template.end_ids(), *own_ends(self.loaded.model)})


def settled(settings: Settings) -> Settings:
    """The same settings with the bit width decided, where it was left to the hardware."""
    return replace(settings, load=replace(settings.load, bits=settings.load.bits or best_bits(device_of(settings.load))))


def _written(run: runs.Run) -> tuple[str, str]:
    """The name of the template that a run's rows were written in, and its form, if it is an own one."""
    return runs.result(run).get("template", "auto"), run.settings().get("data", {}).get("form", "")


def _facts(load: Load, device: str) -> dict:
    """What a run is done with and on; `capacity` is of the card that is pretended, if one is."""
    hardware = meter.hardware(device)
    most = pretended.capacity(load, device)
    return {"hardware": hardware | {"capacity": most, "pretended": most < hardware["capacity"]}, "versions": {name: version(name) for name in LIBRARIES}}
