"""What the tabs of one page share: its language, the engine, the runs, and the form's fields."""

import functools
import html
from collections.abc import Callable, Iterable
from pathlib import Path

import gradio as gr

from playground.catalog.cards import cards
from playground.engine.client import Engine, Job
from playground.errors import as_playground_error
from playground.i18n import translate
from playground.planning.client import Planner, this_machine
from playground.settings import Settings, problems, raise_all
from playground.ui.access import forbidden_sources

QUIET = {"show_progress": "hidden", "api_visibility": "private"}  # for listeners that only redraw
UNQUEUED = {**QUIET, "queue": False}
THIS_MACHINE = "here"  # this machine, among cards


class Page:
    """One page in one language. Pages share the engine, the planner and the runs, never a component."""

    def __init__(self, lang: str, root: Path, engine: Engine, planner: Planner, start: Settings, private: bool = False):
        self.lang, self.root, self.engine, self.planner, self.start = lang, root, engine, planner, start
        self.private = (
            private  # only its owner opens it: strangers neither name this machine's files nor have it call any address
        )
        self.fields: dict[tuple[str, str], gr.components.Component] = {}

    def translate(self, key: str, **values) -> str:
        return translate(self.lang, key, **values)

    def field(self, component: type, group: str, name: str, **options):
        """A form field for `group`.`name` of the settings, labelled and explained by the words table."""
        value = getattr(getattr(self.start, group), name)
        made = component(
            **{
                "value": value,
                "label": self.translate(f"{group}.{name}"),
                "info": self.translate(f"{group}.{name}.info"),
                **options,
            }
        )
        self.fields[group, name] = made
        return made

    def inputs(self) -> list:
        """Every settings field's component, in the order that `settings` takes their values."""
        return list(self.fields.values())

    def settings(self, values) -> Settings:
        """Settings of the form's values. Raises PlaygroundError with all problems at once."""
        return self.chosen(self.fields, values)

    def chosen(self, fields: Iterable[tuple[str, str]], values) -> Settings:
        """Settings of the values of those fields, (group, name) each. Raises PlaygroundError with all problems at once."""
        given: dict[str, dict] = {}
        for (group, name), value in zip(fields, values):
            given.setdefault(group, {})[name] = value
        chosen = Settings().with_values(given)
        raise_all(problems(chosen) + ([] if self.private else forbidden_sources(chosen)))
        return chosen

    def values(self, settings: Settings) -> list:
        """What the form's fields show for these settings, in the order of `inputs`."""
        return [getattr(getattr(settings, group), name) for group, name in self.fields]

    def telling(self, handler: Callable) -> Callable:
        """A handler whose PlaygroundError becomes the message that it otherwise returns."""

        @functools.wraps(handler)
        def safe(*values):
            try:
                return handler(*values)
            except Exception as error:
                return self.trouble(error)

        return safe

    def trouble(self, error: Exception):
        """What went wrong, as an update of a message box."""
        return message(as_playground_error(error).text(self.lang), bad=True)


def card_choices(page: Page) -> list[tuple[str, str]]:
    """This machine, and every card of the catalog, as choices."""
    here = this_machine()
    key = "plan.here_card" if here["device"] == "cuda" else "plan.here_cpu"
    return [
        (page.translate(key, name=here["name"], size_bytes=here["bytes"]), THIS_MACHINE),
        *((page.translate("plan.card_name", gib=c["gib"], name=c["name"]), c["id"]) for c in cards()),
    ]


def memory_of(card: str) -> dict:
    """What there is of memory on that card, or on this machine: {"device": "cuda" or "cpu", "name", "bytes"}."""
    if card == THIS_MACHINE:
        return this_machine()
    one = next(one for one in cards() if one["id"] == card)
    return {"device": "cuda", "name": one["id"], "bytes": one["bytes"]}


def wait_until_opened(job: Job) -> None:
    """Wait until a job has opened its run. Raises PlaygroundError if it failed before."""
    for event in job.events():
        if event["kind"] == "opened":
            return


def message(text: str = "", bad: bool = False):
    """An update of a message box: hidden when there is nothing to say; whatever it says is escaped."""
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in text.split("\n") if line)
    return gr.update(
        value=f'<div class="told {"bad" if bad else "good"}" role="status">{lines}</div>', visible=bool(text)
    )


def message_box() -> gr.HTML:
    """An empty message box."""
    return gr.HTML(visible=False)


def outcome(page: Page, job: Job | None, do: str, success: Callable[[], str]):
    """The message that the last job of that kind leaves: what went wrong, or what to do next."""
    if job is None or job.do != do or not job.ended:
        return message()
    if job.error:
        return message(job.error.text(page.lang), bad=True)
    return message(success())
