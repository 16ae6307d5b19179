"""The workbench: the model, the open run, and the jobs `load`, `tune`, `chat`, `lab` and `export` on them.

The worker process (process.py) and the command line (__main__.py) run the same jobs. Each job is a generator of events;
its last one is `done`, with the job's result.
"""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from importlib.metadata import version
from pathlib import Path

from playground import runs
from playground.data.allowed_names import checked_settings, raise_if_names_forbidden
from playground.engine import adapters_chat, chat, load, processes, tune
from playground.engine.job import JobContext, JobResult, run_job
from playground.engine.load import auto_bits_note, missing_products_note, missing_products_problem, resolve_bits
from playground.engine.memory_snapshot import with_snapshot
from playground.engine.model_slot import ModelSlot
from playground.errors import problem
from playground.export.order import ExportOrder
from playground.lab.question import LabQuestion
from playground.memory import card_limit, ledger, meter
from playground.memory.peaks import PeakTracker
from playground.memory.release import release_memory
from playground.model.dtype import default_bits
from playground.model.load import LoadedModel, resolve_device
from playground.settings import Generation, Load, Settings
from playground.train.parallel import Team, is_launched

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")

Work = Callable[[JobContext, Settings], Generator[dict, None, JobResult]]


class Workbench:
    """What outlives a job: the loaded model with its adapter, and the open run. Settings come in validated.

    root: the folder of the runs. stop: set it to stop the job under way; it is cleared when a job ends.
    """

    def __init__(self, root: Path, stop: threading.Event | None = None):
        self.root = root
        self.stop = stop or threading.Event()
        self.run: runs.Run | None = None
        self._slot = ModelSlot()
        self._explained_auto_bits = False

    @property
    def loaded(self) -> LoadedModel | None:
        """The model in memory, if any."""
        return self._slot.loaded

    def load(self, settings: Settings) -> Iterator[dict]:
        """Load a model; the one before is freed first.

        The result: {"run", "seconds", "stopped", "peak" (bytes by kind), "dtype", "parts"}.
        """

        def work(context: JobContext, settings: Settings) -> Generator[dict, None, JobResult]:
            return load.load(context, self._slot, settings.load)

        return self._job("load", settings, work)

    def tune(self, settings: Settings, exact: bool = False) -> Iterator[dict]:
        """Fine-tune with LoRA or in full; loads the model first unless it is loaded.

        With several processes each loads it by itself, and this one frees its own.

        exact: raise PlaygroundError where the hardware doesn't multiply the type of weights that the settings name,
        instead of loading another. The result: "run", "seconds", "stopped" and "peak" as of `load`, and the fields of
        TuneResult.
        """

        def work(context: JobContext, settings: Settings) -> Generator[dict, None, JobResult]:
            return with_snapshot(context, settings, tune.tune(context, self._slot, settings))

        missing = missing_products_problem(settings) if exact else None
        if missing:
            raise missing
        if settings.train.num_processes > 1 and not is_launched():
            return self._tune_with_processes(settings)
        return self._job("tune", settings, work)

    def resume(self, run_id: str) -> Iterator[dict]:
        """Continue a fine-tune from its checkpoint, in its own run and with its settings. The result: as of `tune`.

        One that was killed before its first checkpoint starts again. Raises PlaygroundError where there is no such run,
        nothing to continue, or where another process is working on it.
        """
        runs.put_back_spares(self.root)
        run = runs.find(self.root, run_id)
        summary = runs.summary(self.root, run_id)
        if not summary.is_resumable:
            raise problem("error.no_checkpoint", run=run_id)
        if runs.is_held(run):
            raise runs.held_problem(run)
        if run.settings().train.num_processes > 1 and not is_launched():
            return self._tune_with_processes(run.settings(), resume=run_id)
        notes = [] if summary.has_checkpoint else [{"kind": "note", "key": "note.restarted", "values": {}}]

        def work(context: JobContext, settings: Settings) -> Generator[dict, None, JobResult]:
            work = tune.tune(context, self._slot, settings, resumed=True)
            return _preceded(notes, with_snapshot(context, settings, work))

        return self._job("tune", run.settings(), work, resumed=run)

    def chat(
        self, settings: Settings, adapter: str | None, sides: dict[str, list[dict]], generation: Generation
    ) -> Iterator[dict]:
        """Answer the last turn of each side's conversation, both sides in one batch.

        settings: how the model is loaded; adapter: the run whose fine-tune answers on the tuned side, the folder or hub
        id of a LoRA adapter from elsewhere, or None; sides: {"base": turns, "tuned": turns}, a turn being
        {"instruction", "answer"}, the last one's answer None. Yields `answer` events {"base": text, "tuned": text} with
        the whole text so far; they aren't recorded in the run.
        The result: "run", "seconds", "stopped" and "peak" as of `load`, and the fields of ChatResult.
        """

        def work(context: JobContext, settings: Settings) -> Generator[dict, None, JobResult]:
            tuned = find_tuned(self.root, adapter) if adapter else None
            return (yield from chat.chat(context, self._slot, settings, tuned, sides, generation))

        return self._job("chat", settings, work, joins_open_run=True)

    def chat_with_adapters(self, run_ids: list[str], question: str, generation: Generation) -> Iterator[dict]:
        """Answer a question with the base model and with each run's adapter, at once over one copy of the weights.

        Yields `answer` events {"base": text, "adapters": {run id: text}} with the whole texts so far. The result:
        "run", "seconds", "stopped" and "peak" as of `load`, and the fields of AdaptersChatResult. Raises
        PlaygroundError for runs that can't be compared.
        """
        chosen = adapters_chat.comparable_runs(self.root, run_ids)

        def work(context: JobContext, settings: Settings) -> Generator[dict, None, JobResult]:
            return adapters_chat.chat_with_adapters(context, self._slot, chosen, settings, question, generation)

        return self._job("chat", chosen[0].settings(), work, joins_open_run=True)

    def lab(self, settings: Settings, question: LabQuestion) -> Iterator[dict]:
        """Measure a model in one number format after another; the result has the fields of LabResult."""
        from playground.engine import lab

        def work(context: JobContext, settings: Settings) -> Generator[dict, None, JobResult]:
            return lab.lab(context, self._slot, settings, question, self.root)

        return self._job("lab", settings, work)

    def export(self, order: ExportOrder, token: str = "") -> Iterator[dict]:
        """Export a run's fine-tune, recorded in a new run. The result: the fields of ExportResult. token: the hub's.

        Meanwhile no program can delete or resume the run.
        """
        from playground.engine import export

        source = runs.find(self.root, order.run)

        def work(context: JobContext, settings: Settings) -> Generator[dict, None, JobResult]:
            with runs.locked(source) if context.team.main else contextlib.nullcontext():
                return (yield from export.export(context, self._slot, source, order, token))

        return self._job("export", source.settings(), work)

    def free(self) -> None:
        """Drop the model and release its memory."""
        self._slot.free()

    def unload(self) -> Iterator[dict]:
        """Drop the model and release its memory, as a job without a run: the events `unloaded` and `done`.

        The result: {"held": bytes of the model's tensors, "freed": bytes by which this process's memory fell}.
        """
        held, kind = sum(self.parts().values()), "rss"
        if self.loaded and self.loaded.device == "cuda":
            kind = "reserved"
        yield {"kind": "unloaded"}
        before = meter.read_memory()
        self.free()
        freed = before.get(kind, 0) - meter.read_memory().get(kind, 0)
        yield {"kind": "done", "job": "unload", "result": {"held": held, "freed": freed}}

    def parts(self) -> dict[str, int]:
        """The ledger between jobs: exact bytes by part."""
        return ledger.bytes_by_part(self._slot.get_model())

    def _job(
        self,
        kind: str,
        settings: Settings,
        work: Work,
        joins_open_run: bool = False,
        resumed: runs.Run | None = None,
    ) -> Iterator[dict]:
        """Run a job. It writes to the run that is resumed, or to the open run if it joins that, else to its own."""
        settings = checked_settings(settings, fine_tunes=kind == "tune")
        notes, settings = [*self._auto_bits_notes(settings), *missing_products_note(settings)], resolve_bits(settings)
        team = Team(resolve_device(settings.load), settings.load.bits)
        run = self._open_run(kind, settings, team, joins_open_run, resumed)
        completed = False
        with runs.locked(run) if team.main else contextlib.nullcontext():
            self.run = run
            slot = self._slot
            context = JobContext(run, self.stop, team, PeakTracker(team.device), slot.get_model, slot.layers_in_buffers)
            try:
                completed = yield from run_job(context, kind, settings.load, _preceded(notes, work(context, settings)))
            finally:
                if not completed:
                    context.optimizer = None
                    if not team.sharded:
                        self._slot.discard_unsaved_adapter()
                release_memory()  # what the next job finds is what is really held
                self.stop.clear()

    def _tune_with_processes(self, settings: Settings, resume: str | None = None) -> Iterator[dict]:
        """Fine-tune in processes of their own. Refused before anything is freed or started where that can't be done."""
        settings = checked_settings(settings, fine_tunes=True)
        processes.check(resolve_bits(settings))
        if self.loaded:
            self.free()  # the processes need the memory
            yield {"kind": "unloaded"}
        try:
            yield from processes.fine_tune(self.root, settings, self.stop, resume)
        finally:
            self.stop.clear()

    def _auto_bits_notes(self, settings: Settings) -> list[dict]:
        """Why "auto" means the bits that it means, the first time that a CPU decides them."""
        if settings.load.bits or self._explained_auto_bits or resolve_device(settings.load) == "cuda":
            return []
        self._explained_auto_bits = True
        return [auto_bits_note(default_bits("cpu"))]

    def _open_run(
        self, kind: str, settings: Settings, team: Team, joins_open_run: bool, resumed: runs.Run | None
    ) -> runs.Run:
        if not team.main:
            return runs.NullRun(resumed.folder if resumed else self.root / "unwritten")
        if resumed:
            return resumed
        is_here = self.run is not None and self.run.folder.parent == self.root and self.run.folder.is_dir()
        is_same_model = joins_open_run and is_here and self._slot.is_loaded_as(settings.load)
        if is_same_model and self.run and not runs.is_held(self.run):
            return self.run
        return runs.create(self.root, kind, settings, **_machine(settings.load, team.device))


def find_tuned(root: Path, adapter: str) -> runs.Run | str:
    """The run of that id, or the same text where it has slashes, as folders and hub ids do.

    Raises PlaygroundError for a run that doesn't exist, and on a shared page for a folder.
    """
    if "/" not in adapter and "\\" not in adapter:
        return runs.find(root, adapter)
    raise_if_names_forbidden({"adapter": adapter})
    return adapter


def _preceded(notes: list[dict], work: Generator[dict, None, JobResult]) -> Generator[dict, None, JobResult]:
    """A job's work with notes before its events."""
    yield from notes
    return (yield from work)


def _machine(load: Load, device: str) -> dict:
    """The hardware and the library versions of a run; `capacity` is that of the simulated card, if there is one."""
    hardware = meter.hardware(device)
    capacity = card_limit.capacity(load, device)
    return {
        "hardware": hardware | {"capacity": capacity, "simulated": capacity < hardware["capacity"]},
        "versions": {name: version(name) for name in LIBRARIES},
    }
