"""Tab "Bit widths": what each number format of the weights costs in quality and saves in memory, measured here."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from playground import catalog
from playground.errors import PlaygroundError, problem
from playground.lab.formats import DEFAULT, GGUF, KERNELS
from playground.lab.question import LabQuestion, parse_question
from playground.runs.lab_points import all_points
from playground.settings import Settings
from playground.ui import lab_figure, race_view, weight_view
from playground.ui.lab_recorded import bundled_points, language_badge, recorded_badge, recorded_points
from playground.ui.model_choices import model_choices
from playground.ui.page import QUIET, UNQUEUED, Page, Update, message, message_box
from playground.ui.race_view import RaceView
from playground.ui.weight_view import WeightView

POLL_SECONDS = 0.5
# What the list offers; any other name of playground/lab/formats.py can be typed in.
FORMATS = (
    *dict.fromkeys(
        (*DEFAULT, "ternary", "fp4", "nvfp4", "mxfp4", "fp8", "float4", "quantile3", "hqq4", "hqq3", "hqq2")
    ),
    *(f"gguf-{variant}" for variant in GGUF),
    *(f"bitsandbytes-{variant}" for variant in KERNELS),
)


@dataclass(frozen=True)
class LabTab:
    """The tab's components."""

    models: gr.Dropdown
    formats: gr.Dropdown
    prompt: gr.Textbox
    text: gr.Textbox
    start: gr.Button
    message: gr.HTML
    figure: gr.HTML
    table: gr.HTML
    weight: WeightView
    race: RaceView

    def inputs(self) -> list:
        """What a question is made from."""
        return [self.models, self.formats, self.prompt, self.text]


def build(page: Page) -> LabTab:
    """The tab's components."""
    word = page.translate
    gr.Markdown(word("lab.lead"), elem_classes="lead")
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=4, min_width=320):
            listed = model_choices(page, catalog.models())
            models = gr.Dropdown(
                label=word("lab.models"),
                info=word("lab.models.info"),
                choices=listed,
                value=[page.start.load.model],
                multiselect=True,
                allow_custom_value=True,
                elem_id="lab-models",
            )
            formats = gr.Dropdown(
                label=word("lab.formats"),
                info=word("lab.formats.info"),
                choices=list(FORMATS),
                value=list(DEFAULT),
                multiselect=True,
                allow_custom_value=True,
                elem_id="lab-formats",
            )
            with gr.Row(elem_classes="actions"):
                start = gr.Button(word("lab.go"), variant="primary", elem_id="lab-start")
            box = message_box()
            with gr.Accordion(word("lab.text_and_prompt"), open=False):
                prompt = gr.Textbox(label=word("lab.prompt"), value=LabQuestion(language=page.lang).full_prompt())
                text = gr.Textbox(label=word("lab.text"), value="", info=word("lab.text.info"), lines=4, max_lines=12)
        with gr.Column(scale=7, min_width=320, elem_classes="result"):
            figure = gr.HTML(elem_classes="counted")
    table = gr.HTML(elem_classes="counted")
    weight = weight_view.build(page)
    with gr.Accordion(word("race.title"), open=False):
        race = race_view.build(page)
    return LabTab(models, formats, prompt, text, start, box, figure, table, weight, race)


def connect(page: Page, tab: LabTab, header: gr.Tab, live_view: gr.HTML) -> None:
    """Attach the tab's listeners, once all fields of the page exist."""
    shown = [tab.message, tab.start, tab.figure, tab.table]
    form = page.inputs()

    def start(models: list, formats: list, prompt: str | None, text: str | None, *values: Any) -> Iterator[list]:
        try:
            base = page.settings(values)
            question = parse_question({"formats": ",".join(map(str, formats or [])), **_subject(page, prompt, text)})
            jobs = {
                settings.load.model: partial(page.engine.lab, settings, asdict(question))
                for settings in _settings_of(page, base, models)
            }
            page.queue.start("lab", jobs)
        except PlaygroundError as error:
            yield [page.error_message(error), gr.skip(), gr.skip(), gr.skip()]
            return
        yield from follow(models, formats, prompt, text)

    def follow(*asked: Any) -> Iterator[list]:
        """Show points as they are measured, until the lab has ended."""
        before: object = None
        while page.queue.running and page.queue.kind == "lab":
            points = _points(page, *asked)
            if points != before:
                before = points
                yield [message(), gr.update(interactive=False), *_drawn(page, points, *asked)]
            time.sleep(POLL_SECONDS)
        error = next(iter(page.queue.errors.values()), None) if page.queue.kind == "lab" else None
        yield [
            page.error_message(error) if error else message(),
            gr.update(interactive=not page.queue.running),
            *draw(*asked),
        ]

    def draw(*asked: Any) -> list[Update]:
        return _drawn(page, _points(page, *asked), *asked)

    def follow_again(*asked: Any) -> Iterator[list]:
        """When the tab is opened: what is known, and what is being measured."""
        yield [message(), gr.update(interactive=not page.queue.running), *draw(*asked)]
        if page.queue.running:
            yield from follow(*asked)

    tab.start.click(start, [*tab.inputs(), *form], shown, **QUIET)
    header.select(follow_again, tab.inputs(), shown, **QUIET)
    weight_view.connect(page, tab.weight, tab.models)
    race_view.connect(page, tab.race, header, live_view)
    gr.on([tab.models.change, tab.prompt.submit, tab.text.submit], draw, tab.inputs(), shown[2:], **UNQUEUED)


def _settings_of(page: Page, base: Settings, models: list) -> list[Settings]:
    """The form's settings with each of the models. Raises PlaygroundError where none is named, or one isn't allowed."""
    if not models:
        raise problem("error.lab_no_model")
    groups = [replace(base, load=replace(base.load, model=str(model))).to_dict() for model in models]
    names = [(group, name) for group, values in groups[0].items() for name in values]
    return [page.parse_fields(names, [values[group][name] for group, name in names]) for values in groups]


def _subject(page: Page, prompt: str | None, text: str | None) -> dict[str, Any]:
    """What all points of the figure share; an empty field means the bundled text or prompt."""
    return {"text": text or "", "prompt": prompt or "", "language": page.lang}


def _points(
    page: Page, models: list, formats: list, prompt: str | None, text: str | None
) -> dict[tuple[str, str], dict]:
    """What is known of these models with this text and prompt, in the order of the models."""
    known = all_points(page.root, LabQuestion(**_subject(page, prompt, text)).subject())
    return {key: known[key] for model in models or [] for key in known if key[0] == model}


def _drawn(
    page: Page, points: lab_figure.Points, models: list, formats: list, prompt: str | None, text: str | None
) -> list[Update]:
    """Figure and table of the points; without any, what was measured on the other language's bundled text, and where
    nothing was measured here, the figure of recorded points alone. Both say so."""
    word, source = page.translate, ""
    bundled = LabQuestion(language=page.lang)
    if not points and LabQuestion(**_subject(page, prompt, text)).subject() == bundled.subject():
        points, language = bundled_points(page.root, page.lang, models or [])
        source = language_badge(word, language) if points else ""
    if points:
        return [lab_figure.figure(word, points) + source, lab_figure.answers_table(word, points)]
    return [lab_figure.figure(word, points) + lab_figure.figure(word, recorded_points()) + recorded_badge(word), ""]
