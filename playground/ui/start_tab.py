"""Tab "Start": three ways in: the guided demo, the plan of a model on a GPU, one's own data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from playground import catalog
from playground.data import source
from playground.data.readers import KINDS
from playground.i18n import format_bytes
from playground.runs.recordings import read_recording
from playground.settings import Settings
from playground.ui import compare_tab, interrupted_notice
from playground.ui.comparison import Turn, comparison_html
from playground.ui.interrupted_notice import InterruptedNotice
from playground.ui.page import QUIET, UNQUEUED, Page, Update, message, message_box, select_tab
from playground.ui.source_names import source_update
from playground.ui.story import StepState

QUESTIONS = 2  # that the demo asks before and after
ANSWER_TOKENS = 128  # at most of each answer: a base model may go on for a minute
DEMO_DONE = "document.querySelector('.story li:last-child')?.dataset.state === 'done'"  # JavaScript


@dataclass(frozen=True)
class StartTab:
    """The tab's components. steps: what the demo does, a line a step."""

    teach: gr.Button
    plan: gr.Button
    upload: gr.UploadButton
    steps: gr.HTML
    message: gr.HTML
    interrupted: InterruptedNotice


def build(page: Page) -> StartTab:
    """The tab's components."""
    interrupted = interrupted_notice.build(page)
    with gr.Row(elem_classes="ways", equal_height=True):
        with _way(page, "teach", **_recorded_time(page)):
            teach = gr.Button(page.translate("start.teach.go"), variant="primary", elem_id="teach")
        with _way(page, "plan"):
            plan = gr.Button(page.translate("start.plan.go"))
        with _way(page, "data"):
            upload = gr.UploadButton(page.translate("start.data.go"), file_types=list(KINDS))
    box = message_box()
    return StartTab(teach, plan, upload, gr.HTML(visible=False, elem_classes="story"), box, interrupted)


def _way(page: Page, name: str, **values: Any) -> gr.Column:
    """A column with a heading and a sentence, for one button more. values: what the sentence names."""
    column = gr.Column(elem_classes="way", min_width=240)
    with column:
        gr.Markdown(f"### {page.translate(f'start.{name}')}\n{page.translate(f'start.{name}.info', **values)}")
    return column


def _recorded_time(page: Page) -> dict[str, int]:
    """How long the recorded demo took, rounded to minutes, and on how many cores."""
    first, *_, last = read_recording(f"demo-{page.lang}")
    return {"minutes": max(1, round(last["t"] / 60)), "cores": first["hardware"]["cores"]}


def connect(page: Page, tab: StartTab, app: gr.Blocks, tabs: gr.Tabs, compare: compare_tab.CompareTab) -> None:
    """Attach the tab's listeners, once all fields of the page exist."""
    demo = demo_settings(page)
    outputs = [tab.steps, tab.message, tab.teach, compare.turns, compare.comparison]

    def ask(adapter: str) -> Iterator[Turn]:
        for question in questions(demo):
            turn = compare_tab.ask_once(page, question, adapter, demo, ANSWER_TOKENS)
            yield turn
            if turn.stopped:
                return

    def teach() -> Iterator[list]:
        try:
            page.story.start(demo, ask)
        except Exception as error:
            yield [gr.skip(), page.error_message(error), *(gr.skip() for _ in outputs[2:])]
            return
        yield from follow()

    def follow() -> Iterator[list]:
        """Show the demo's steps until it ends."""
        story = page.story
        for steps in story.changes():
            button = gr.update(interactive=not story.running)
            error = page.error_message(story.error) if story.error else message()
            comparison = comparison_html(page.lang, story.turns, story.adapter)
            yield [gr.update(value=draw(page, steps), visible=True), error, button, story.turns, comparison]

    def follow_again() -> Iterator[list]:
        """After a reload of the page, a demo that is under way goes on here."""
        yield [gr.skip() for _ in outputs]
        if page.story.running:
            yield from follow()

    def redraw(turns: list[Turn]) -> Update:
        story = page.story
        return comparison_html(page.lang, turns, story.adapter) if turns and turns == story.turns else gr.skip()

    filled = tab.teach.click(lambda: page.values(demo), None, page.inputs(), **UNQUEUED)
    for shown in (filled.then(teach, None, outputs, **QUIET), app.load(follow_again, None, outputs, **QUIET)):
        select_tab(shown.then, tabs, "chat", where=DEMO_DONE)
        # Once more, in case the comparison was drawn for another adapter just as the demo ended.
        shown.then(redraw, compare.turns, compare.comparison, **UNQUEUED)
    select_tab(tab.plan.click, tabs, "plan")
    source_field = page.fields["data", "source"]
    tab.upload.upload(lambda path: source_update(page, page.keep_upload(path)), tab.upload, source_field, **UNQUEUED)
    select_tab(tab.upload.upload, tabs, "data")


def demo_settings(page: Page) -> Settings:
    """The settings of the demo in the page's language."""
    return Settings().with_values(catalog.presets()[f"demo-{page.lang}"]["settings"])


def questions(settings: Settings) -> list[str]:
    """Held-out questions of the demo's data set."""
    rows = source.read(settings.data).held_out
    return [row.instruction for row in rows[:: max(1, len(rows) // QUESTIONS)][:QUESTIONS]]


def draw(page: Page, steps: Sequence[StepState]) -> str:
    """The demo's steps as HTML, a line a step."""
    lines = "".join(
        f'<li data-state="{step.state}"><b>{escape(page.translate(f"story.{step.name}.{_tense(step)}"))}</b> '
        f"<span>{escape(_outcome(page, step))}</span></li>"
        for step in steps
    )
    return f"<ol>{lines}</ol>"


def _tense(step: StepState) -> str:
    """A step that failed or was stopped is named as one to do."""
    return {"running": "now", "done": "done"}.get(step.state, "to_do")


def _outcome(page: Page, step: StepState) -> str:
    """What a step that is over brought, and the time it took."""
    if step.state in ("waiting", "running"):
        return ""
    if step.state != "done":
        return page.translate(f"story.{step.state}")
    facts: list[str] = []
    result: dict[str, Any] = step.result
    if step.name == "load" and result.get("parts"):
        facts.append(page.translate("story.weights", size=format_bytes(result["parts"].get("weights", 0))))
    if step.name == "tune" and result.get("recall"):
        facts.append(page.translate("story.recall", **result["recall"]))
    facts.append(f"{step.seconds // 60:.0f}:{step.seconds % 60:02.0f}")
    return " · ".join(facts)
