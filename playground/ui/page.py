"""The state that the tabs of one page share: language, engine, planner, runs, the form's fields; and their messages."""

import html
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from playground import runs
from playground.data import uploads
from playground.data.allowed_names import forbidden_sources
from playground.engine.client import Engine
from playground.errors import PlaygroundError, Problem, as_playground_error, problem
from playground.i18n import table, translate
from playground.job import Job
from playground.jobs.runner import Runner
from playground.planning.client import Planner
from playground.settings import Settings, parse, raise_all
from playground.settings.limits import Limits, beyond_limits, too_much_work
from playground.ui import private_uploads
from playground.ui.access import forbidden_start, forbidden_start_name
from playground.ui.job_queue import JobQueue
from playground.ui.live_answers import LiveAnswers
from playground.ui.long_question import ask_with_progress
from playground.ui.process_choice import within_choice
from playground.ui.story import Story
from playground.ui.workspaces import Workspace, raise_if_full

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # for listeners that only redraw
UNQUEUED: dict[str, Any] = {**QUIET, "queue": False}
LATEST_ONLY: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}  # of changes meanwhile, the last is answered
# For what a person types, drags or chooses: Gradio (6.31) by itself ignores what comes while one is answered.
LAST_INPUT: dict[str, Any] = {**LATEST_ONLY, "queue": False}
EACH_CLICK: dict[str, Any] = {**UNQUEUED, "trigger_mode": "multiple"}  # for listeners of an event's own data
MAX_UPLOADS = 100  # of one visitor: each is looked at where their bytes are counted
TARGET_MODULES = ("attention", "all-linear")  # suggested; module names are accepted too

FieldName = tuple[str, str]  # group and name of a setting, for example ("train", "epochs")
Update = Any  # what a handler gives Gradio for a component: its value, or gr.update(...)


class Page:
    """One page in one language. Pages share the engine, the planner and the runs, never a component.

    workspace: returns what the person has whose request is being answered. private: only its owner opens it, who may
    name files of this machine and have it call any service. limits: of each visitor otherwise.
    """

    def __init__(
        self,
        lang: str,
        workspace: Callable[[], Workspace],
        start: Settings,
        private: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.lang, self.start, self.private, self.limits = lang, start, private, limits
        self._workspace = workspace
        self.fields: dict[FieldName, Any] = {}  # components; Gradio adds their events at run time

    @property
    def visitor(self) -> str:
        """The opaque name of the visitor whose request is being answered; "" on a private page."""
        return self._workspace().visitor

    @property
    def root(self) -> Path:
        """The folder of the person's runs."""
        return self._workspace().root

    @property
    def engine(self) -> Engine:
        """The engine, on a shared page with the visitor's own jobs alone."""
        return self._workspace().engine

    @property
    def planner(self) -> Planner:
        """The planner."""
        return self._workspace().planner

    @property
    def story(self) -> Story:
        """The person's guided demo."""
        return self._workspace().story

    @property
    def talk(self) -> LiveAnswers:
        """The talk's questions as the person asks them."""
        return self._workspace().talk

    @property
    def queue(self) -> JobQueue:
        """The person's jobs of the bit-width lab and the race."""
        return self._workspace().queue

    @property
    def jobs(self) -> Runner:
        """What works off the person's queue of jobs that outlives the program."""
        return self._workspace().jobs

    @property
    def foreign_bases(self) -> dict[str, str]:
        """The base models that the adapters from elsewhere name which the person has chosen."""
        return self._workspace().foreign_bases

    def keep_upload(self, path: str) -> str:
        """The name of an uploaded file as a data set: on a private page the path where it is kept, else an opaque one.

        Raises PlaygroundError where the visitor's files take too much space, or are too many; then it is removed.
        """
        if self.private:
            return str(private_uploads.keep(Path(path), self.root))
        visitor, file = self.visitor, Path(path)
        try:
            if self.limits:
                raise_if_full(self.root.parent, visitor, self.limits, file.stat().st_size)
            count = len(uploads.folders_of(visitor))
            if count >= MAX_UPLOADS:
                raise problem("shared.files", count=count)
        except PlaygroundError:
            file.unlink(missing_ok=True)
            raise
        return uploads.keep(file, visitor)

    def translate(self, key: str, **values: Any) -> str:
        """The text of `key` in the page's language."""
        return translate(self.lang, key, **values)

    def field(self, component: type, group: str, name: str, **options: Any) -> Any:
        """A form field for `group`.`name` of the settings, labelled and explained by the words table."""
        labelled = {
            "value": getattr(getattr(self.start, group), name),
            "label": self.translate(f"{group}.{name}"),
            "info": self.translate(f"{group}.{name}.info"),
        }
        self.fields[group, name] = component(**{**labelled, **options})
        return self.fields[group, name]

    def choices(self, setting: str, values: Iterable) -> list[tuple[str, Any]]:
        """Each value with its label, for a Radio or Dropdown of `setting`, for example "train.schedule".

        A value's label is `choice.<setting>.<value>` in the words table, or else the value itself.
        """
        return [(table(self.lang).get(f"choice.{setting}.{value}", str(value)), value) for value in values]

    def inputs(self) -> list:
        """Every settings field's component, in the order that `settings` takes their values."""
        return list(self.fields.values())

    def settings(self, values: Sequence) -> Settings:
        """Validated settings from the form's values. Raises PlaygroundError with all problems at once."""
        return self.parse_fields(self.fields, values)

    def parse_fields(self, fields: Iterable[FieldName], values: Sequence) -> Settings:
        """Validated settings from the values of `fields`. Raises PlaygroundError with all problems at once."""
        groups: dict[str, dict[str, Any]] = {}
        for (group, name), value in zip(fields, values):
            groups.setdefault(group, {})[name] = value
        return self.parse_groups(groups)

    def parse_groups(self, groups: dict[str, Any], base: Settings | None = None) -> Settings:
        """Validated settings from {group: {field: value}} over `base`, as `settings.parse`, within the page's limits.

        Raises PlaygroundError with all problems at once.
        """
        try:
            settings = parse(groups, base)
        except PlaygroundError as error:
            raise PlaygroundError(*error.problems, *self._forbidden(groups)) from error
        self.raise_if_forbidden(settings)
        return settings

    def raise_if_forbidden(self, settings: Settings, of_run: bool = False) -> None:
        """Raise PlaygroundError where they name what this page may not read, or are beyond its limits.

        of_run: of a run that is there, as in `run_settings`.
        """
        beyond = beyond_limits(settings, self.limits) if self.limits else []
        raise_all([*self._forbidden(settings.to_dict(), of_run), *beyond])

    def fine_tune_summary(self, settings: Settings) -> dict:
        """What a fine-tune with these settings would do: the planner's `tune_summary`. Raises PlaygroundError."""
        return self.planner.ask("tune_summary", settings=settings.to_dict(), root=str(self.root))

    def raise_if_too_much_work(self, settings: Settings) -> None:
        """Raise PlaygroundError for more rows or steps than the page allows; the engine counts once more."""
        if not self.limits:
            return
        try:
            summary = self.fine_tune_summary(settings)
        except PlaygroundError:
            return
        raise_all(too_much_work(summary["rows"], summary["steps"], self.limits))

    def run_settings(self, run_id: str | None) -> Settings:
        """The settings of one of the person's runs, to work with.

        Raises PlaygroundError for a run that isn't there, and on a shared page where they name what it may not read:
        they come from a file. A run whose adapter it continued is needed no more, and may have been deleted.
        """
        settings = runs.find(self.root, run_id).settings()
        raise_all(self._forbidden(settings.to_dict(), of_run=True))
        return settings

    def values(self, settings: Settings) -> list:
        """The form's values for these settings, in the order of `inputs`."""
        settings = within_choice(settings, self.limits)
        return [getattr(getattr(settings, group), name) for group, name in self.fields]

    def stop(self, do: str) -> Callable[[], None]:
        """A handler that stops the job under way if it is of kind `do`, and no other."""

        def stop() -> None:
            self.engine.stop(do)

        return stop

    def with_error_message(self, handler: Callable) -> Callable:
        """A handler that returns a message, with its exceptions turned into one as well."""

        @wraps(handler)
        def safe(*values: Any) -> Update:
            try:
                return handler(*values)
            except Exception as error:
                return self.error_message(error)

        return safe

    def error_message(self, error: Exception) -> Update:
        """An update of a message box that shows an exception's text."""
        return message(as_playground_error(error).text(self.lang), bad=True)

    def ask_with_progress(self, question: str, **values: Any) -> Generator[Sequence | None, None, dict]:
        """The planner's answer, with its progress: long_question.py."""
        return ask_with_progress(self.planner, question, values)

    def _forbidden(self, groups: dict[str, Any], of_run: bool = False) -> list[Problem]:
        """Problems of the model, data set and adapter named in {group: {field: value}}, unless the page is private."""
        if self.private:
            return []
        defaults = Settings()
        load, data, lora = (
            values if isinstance(values := groups.get(name), dict) else {} for name in ("load", "data", "lora")
        )
        model = load.get("model", defaults.load.model)
        source = data.get("source", defaults.data.source)
        start_from = str(lora.get("start_from") or "").strip()
        return [
            *forbidden_sources(str(model or "").strip(), str(source or "").strip(), self.visitor),
            *(forbidden_start_name(start_from) if of_run else forbidden_start(self.root, start_from)),
        ]


def wait_until_opened(job: Job) -> None:
    """Wait until a job has opened its run. Raises PlaygroundError if it failed before."""
    for event in job.events():
        if event["kind"] == "opened":
            return


def select_tab(event: Callable, tabs: gr.Tabs, name: str, where: str = "true") -> None:
    """Open a tab at an event, in the browser alone. where: a JavaScript condition.

    No handler in Python may have the tabs, or another container, as its output: Gradio (6.31) then copies the state of
    all that is in the container at each start and end of every handler.
    """
    js = f"() => ({{ ...({where} ? {{ selected: {json.dumps(name)} }} : {{}}), __type__: 'update' }})"
    event(None, None, tabs, js=js, api_visibility="private")


def message(text: str = "", bad: bool = False) -> Update:
    """An update of a message box: hidden when the text is empty. The text is escaped."""
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in text.split("\n") if line)
    return gr.update(
        value=f'<div class="notice {"bad" if bad else "good"}" role="status">{lines}</div>', visible=bool(text)
    )


def message_box() -> gr.HTML:
    """An empty message box."""
    return gr.HTML(visible=False)


def job_message(page: Page, job: Job | None, do: str, success: Callable[[], str]) -> Update:
    """The message after the last job, if it was of kind `do`: its error, or the text of `success`."""
    if job is None or job.do != do or not job.ended:
        return message()
    if job.error:
        return message(job.error.text(page.lang), bad=True)
    return message(success())
