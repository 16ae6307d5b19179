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

from playground import catalog, runs
from playground.background import Stopped, run_in_background
from playground.chat.generate import Prompt, generate_answers
from playground.data.template import Template, Turn, choose_template_for
from playground.engine import predictions, tune
from playground.errors import PlaygroundError, as_playground_error, problem
from playground.memory import card_limit, ledger, meter
from playground.memory.peaks import PeakTracker
from playground.memory.release import release_memory
from playground.model import adapt
from playground.model.load import LoadedModel, default_bits, load_model, resolve_device, unquantized_share
from playground.model.source import config_available, fetch_model, local_folder
from playground.model.tokenizer import model_eos_ids
from playground.predict import meta_model
from playground.settings import Generation, Load, Settings, generation_problems, problems, raise_all
from playground.train import checkpoint
from playground.train.loop import Trainer
from playground.train.parallel import Team, is_lost_peer

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


class Workbench:
    """What one process holds: at most one model with at most one adapter, and the run that is written to."""

    def __init__(self, root: Path):
        self.root = root
        self.stop = threading.Event()
        self.run: runs.Run | None = None
        self.team: Team | None = None
        self.peaks = PeakTracker("cpu")
        self.loaded: LoadedModel | None = None
        self.adapter: str | None = None  # id of the run whose adapter is on the model
        self.template, self.form = "auto", ""  # how its rows were written
        self.trainer: Trainer | None = None
        self._as: Load | None = None  # how it was loaded; None for weights that aren't as they were loaded any more

    # --- jobs ---

    def load(self, settings: Settings) -> Iterator[dict]:
        """Load a model, after giving back whatever was held. The result: {"run", "seconds", "peak"}."""
        raise_all(problems(settings))
        return self._job("load", resolve_bits(settings), self._load_only)

    def tune(self, settings: Settings) -> Iterator[dict]:
        """Fine-tune with LoRA or in full; loads the model first where it isn't held already.

        The result: {"run", "seconds", "loss" {before, after}, "recall" {base, tuned} or None, "measures"
        (chat/measure.py's figures by name) or None, "tokens_per_s", "steps", "peak" (bytes by kind), "stopped", "adapter" or "model" (path)}.
        """
        raise_all(problems(settings))
        return self._job("tune", resolve_bits(settings), lambda s: tune.tune(self, s, False))

    def resume(self, run_id: str) -> Iterator[dict]:
        """Go on with a fine-tune that left a checkpoint, in the same run and with its settings; the result as of `tune`."""
        run = runs.find(self.root, run_id)
        if not (run.folder / checkpoint.NAME).is_file():
            raise problem("error.no_checkpoint", run=run_id)
        settings = resolve_bits(run.settings())
        return self._job("tune", settings, lambda s: tune.tune(self, s, True), resumed=run)

    def chat(
        self, settings: Settings, adapter: str | None, sides: dict[str, list[dict]], generation: Generation
    ) -> Iterator[dict]:
        """Answer the last turn of each side's conversation, both sides in one batch.

        settings: how the model is loaded; adapter: the run whose adapter answers on the tuned side, or None; sides:
        {"base": turns, "tuned": turns}, a turn being {"instruction", "answer"}, the last one's answer None. Yields
        `answer` events {"base": text, "tuned": text}; they aren't kept in the run.
        """
        raise_all(problems(settings) + generation_problems(generation))
        return self._job(
            "chat", resolve_bits(settings), lambda s: self._chat(s, adapter, sides, generation), goes_on=True
        )

    def free(self) -> None:
        """Give back the model and everything with it."""
        self.loaded = self._as = self.adapter = self.trainer = None
        release_memory()

    # --- how a job runs ---

    def _job(
        self, kind: str, settings: Settings, work, goes_on: bool = False, resumed: runs.Run | None = None
    ) -> Iterator[dict]:
        """Run `work(settings)`, its events kept in a run, memory metered all along, its end told whatever happens.

        A job that `goes_on` writes to the open run, if that is how the model was loaded; one that is `resumed` to its
        own of before; every other one opens its own.
        """
        device = resolve_device(settings.load)
        self.team = Team(device)
        if not self.team.main:
            self.run = runs.NullRun(resumed.folder if resumed else self.root / "unwritten")
        elif resumed:
            self.run = resumed
        elif not (goes_on and self.run and self._as == replace(settings.load, force=False)):
            self.run = runs.create(self.root, kind, settings, **_facts(settings.load, device))
        run, began = self.run, time.time()
        self.team.watch(lambda: run.append("error", job=kind, **problem("error.rank_died").to_dict()))
        self.peaks = peaks = PeakTracker(device)

        def metered(now: dict[str, int]) -> None:
            peaks.update(now)
            run.append("memory", **now)

        gauge = meter.Meter(metered)
        yield {"kind": "opened", "run": run.id}
        gauge.take()
        gauge.start()
        try:
            with card_limit.limit_cuda_memory(settings.load, device):
                result = yield from self._kept(run, work(settings))
            result = {
                "run": run.id,
                "seconds": round(time.time() - began, 2),
                "stopped": self.stop.is_set(),
                "peak": peaks.job_peak(),
                **(result or {}),
            }
            yield from self._kept(
                run, iter([{"kind": "phase", "name": "idle"}, {"kind": "done", "job": kind, "result": result}])
            )
        except Stopped:
            run.append("phase", name="idle")
            yield run.append("done", job=kind, result={"run": run.id, "stopped": True, "peak": peaks.job_peak()})
        except Exception as error:
            shown, ledger_then = self._explain(error, settings.load, device)
            with self.team.telling() as first:
                if first:
                    run.append("phase", name="idle")
                    run.append("error", job=kind, **shown.to_dict(), **ledger_then)
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
                run.append("memory", **meter.read_memory(), parts=self.parts())
            yield kept

    def parts(self) -> dict[str, int]:
        return ledger.bytes_by_part(
            self.loaded.model if self.loaded else None, self.trainer.optimizer.inner if self.trainer else None
        )

    def _explain(self, error: Exception, load: Load, device: str) -> tuple[PlaygroundError, dict]:
        """What went wrong as it is told, and of an out-of-memory the ledger then: {"parts", "peak", "capacity"} in bytes."""
        if self.team.size > 1 and is_lost_peer(error):
            return problem("error.rank_died"), {}
        if not meter.is_out_of_memory(error):
            return as_playground_error(error), {}
        full = isinstance(error, torch.OutOfMemoryError)
        peak, capacity = self.peaks.phase_peak(), card_limit.capacity(load, "cuda" if full else device)
        if full and load.simulate_gpu_gib:
            peak["device_used"] = min(
                peak["device_used"], peak["reserved"] + card_limit.MAX_RUNTIME_BYTES
            )  # what others have taken isn't on that card
        used = peak["device_used"] if full else peak["rss"]
        parts = predictions.full_ledger(self.parts(), peak)
        largest = max(
            (part for part in parts if part != "runtime"), key=parts.get, default="weights"
        )  # runtime: nobody can do anything about that
        return (
            problem(
                "error.out_of_memory",
                used_bytes=used,
                capacity_bytes=capacity,
                part=largest,
                part_bytes=parts.get(largest, 0),
            ),
            {"parts": parts, "peak": peak, "capacity": capacity},
        )

    def _recover(self) -> None:
        """After a failure: drop what was half made. The model itself stays if it was whole."""
        self.trainer = None
        if self.loaded and self.adapter is None and not self.team.sharded:
            self.loaded.model = adapt.remove_lora(self.loaded.model)
            self.loaded.model.requires_grad_(False)
        release_memory()

    # --- load ---

    def _load_only(self, settings: Settings):
        if self.loaded:
            yield {"kind": "phase", "name": "free"}
            self.free()
        yield from self.ensure_loaded(settings.load)
        return {"dtype": str(self.loaded.dtype).removeprefix("torch."), "parts": self.parts()}

    def ensure_loaded(self, wanted: Load):
        """Make sure that the model is held just so; what was held otherwise is given back first."""
        wanted, anyway = replace(wanted, force=False), wanted.force
        if self.loaded and self._as == wanted:
            return
        if self.loaded:
            yield {"kind": "phase", "name": "free"}
            self.free()
        foretold = yield from self._foretell(wanted, anyway)  # before anything large is fetched, if it can be
        with self.team.turns():
            folder = yield from fetch_model(wanted.model, wanted.accept_terms, self.stop)
        if not foretold:
            yield from self._foretell(replace(wanted, model=str(folder)), anyway)
        yield {"kind": "phase", "name": "load"}
        self.peaks.start_phase()
        self.loaded = yield from run_in_background(
            lambda on_progress: load_model(folder, wanted, on_progress, self.team.load_device), self.stop
        )
        self._as = wanted
        yield predictions.measured_event("load", self.peaks, self.parts())
        yield {
            "kind": "note",
            "key": self.loaded.reason,
            "values": {"dtype": str(self.loaded.dtype).removeprefix("torch.")},
        }
        if self.loaded.device == "cpu" and wanted.bits < 16:
            yield {"kind": "note", "key": "note.cpu_quantized", "values": {"bits": wanted.bits}}
        whole = unquantized_share(self.loaded.model) if wanted.bits < 16 else 0
        if whole > 0.01:
            yield {
                "kind": "note",
                "key": "note.left_whole",
                "values": {"percent": round(100 * whole), "bits": wanted.bits},
            }

    def _foretell(self, wanted: Load, anyway: bool) -> Generator[dict, None, bool]:
        """Say what loading will take; return whether that could be said. Raises PlaygroundError where it won't fit, unless `anyway`."""
        said = {}
        if self.predicts and config_available(wanted.model):
            here = local_folder(wanted.model)  # says what is wrong with a path
            for said in predictions.predict_load_event(
                wanted, meta_model.config_of(str(here or wanted.model)), self.team.device
            ):
                yield said
                if said.get("verdict") == "no" and not anyway:
                    name = catalog.display_name(wanted.model)
                    raise problem(
                        "error.too_large",
                        model=name,
                        bits=wanted.bits,
                        need_bytes=said["need"],
                        capacity_bytes=said["capacity"],
                    )
        return bool(said)

    @property
    def predicts(self) -> bool:
        """Whether phases are predicted: one process alone has everything that is predicted."""
        return self.team.size == 1 and not self.team.sharded

    def unload_adapter(self) -> None:
        """Take the adapter off, if there is one."""
        self.trainer = self.adapter = None
        self.loaded.model = adapt.remove_lora(self.loaded.model)

    def invalidate(self) -> None:
        """The held weights are about to be trained themselves: they're no longer what was loaded."""
        self._as = None

    # --- chat ---

    def _chat(self, settings: Settings, adapter: str | None, sides: dict[str, list[dict]], generation: Generation):
        run = runs.find(self.root, adapter) if adapter else None
        if not run or not run.model.is_dir():
            return (yield from self._answer(settings, run, sides, generation))
        template, form = _written(run)
        texts: dict[
            str, str
        ] = {}  # a full fine-tune is a model of its own: one after the other, for there is room for one
        for side, model in (("base", settings.load.model), ("tuned", str(run.model))):
            if side in sides:
                alone = replace(
                    settings,
                    load=replace(settings.load, model=model),
                    data=replace(settings.data, prompt_format=template, custom_format=form),
                )
                for event in self._answer(alone, None, {"base": sides[side]}, generation):
                    if event["kind"] == "answer":
                        texts[side] = event.pop("base")
                        event |= texts
                    yield event
        return {"adapter": adapter, "template": template}

    def _answer(self, settings: Settings, run: runs.Run | None, sides: dict[str, list[dict]], generation: Generation):
        """Answer both sides in one batch over the held model, `run`'s adapter on the tuned one."""
        yield from self.ensure_loaded(settings.load)
        loaded, adapter = self.loaded, run.id if run else None
        if self.adapter != adapter:
            self.unload_adapter()
            if run:
                yield {"kind": "phase", "name": "prepare"}
                loaded.model = adapt.load_lora(loaded.model, run.adapter, loaded.dtype)
                self.adapter = adapter
                self.template, self.form = _written(run)
        wanted, form = (
            (self.template, self.form) if adapter else (settings.data.prompt_format, settings.data.custom_format)
        )
        encoder = loaded.model.config.is_encoder_decoder
        template, notes = choose_template_for(
            loaded, wanted, [turn["instruction"] for turns in sides.values() for turn in turns], form
        )
        yield from notes
        names = [
            side
            for side in ("base", "tuned")
            if side in sides and (side == "base" or isinstance(loaded.model, PeftModel))
        ]
        asked = [
            Prompt(template.ids([Turn(t["instruction"], t.get("answer")) for t in sides[side]]), side == "tuned")
            for side in names
        ]
        longest = getattr(loaded.model.config, "max_position_embeddings", None)
        prompt = max(len(a.ids) for a in asked)
        used = max(prompt, generation.max_new_tokens) if encoder else prompt + generation.max_new_tokens
        if longest and used > longest:
            raise problem("error.context", used=used, longest=longest)
        yield {"kind": "phase", "name": "chat"}
        self.peaks.start_phase()
        began, event = time.time(), {}
        for event in generate_answers(
            loaded.model, loaded.tokenizer, asked, self._ends(template), generation, self.stop
        ):
            if "texts" in event:
                yield {
                    "kind": "answer",
                    **dict(zip(names, map(template.answer, event["texts"]))),
                    "tokens": event["tokens"],
                }
            else:
                yield {
                    "kind": "progress",
                    "done": event["tokens"],
                    "total": generation.max_new_tokens,
                    "unit": "tokens",
                }
        result = {
            "tokens": event["tokens"],
            "tokens_per_s": round(event["tokens"] * len(asked) / (time.time() - began), 1),
            "adapter": adapter,
            "template": template.name,
        }
        measured = predictions.measured_event("chat", self.peaks, self.parts())
        yield from predictions.predict_chat_event(
            settings, loaded, len(asked) * generation.num_beams, prompt + event["tokens"], self.predicts
        )  # so late that no answer waits for it
        yield measured
        return result

    def _ends(self, template: Template) -> list[int]:
        return list({*template.end_ids(), *model_eos_ids(self.loaded.model)})


def resolve_bits(settings: Settings) -> Settings:
    """The same settings with the bit width decided, where it was left to the hardware."""
    return replace(
        settings, load=replace(settings.load, bits=settings.load.bits or default_bits(resolve_device(settings.load)))
    )


def _written(run: runs.Run) -> tuple[str, str]:
    """The name of the template that a run's rows were written in, and its form, if it is an own one."""
    return runs.last_result(run).get("template", "auto"), run.settings().data.custom_format


def _facts(load: Load, device: str) -> dict:
    """What a run is done with and on; `capacity` is of the card that is pretended, if one is."""
    hardware = meter.hardware(device)
    most = card_limit.capacity(load, device)
    return {
        "hardware": hardware | {"capacity": most, "pretended": most < hardware["capacity"]},
        "versions": {name: version(name) for name in LIBRARIES},
    }
