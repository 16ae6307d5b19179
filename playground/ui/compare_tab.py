"""Tab "Compare": one question to the base and the tuned model, and to an OpenAI-compatible service if one is named."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import gradio as gr

from playground import catalog, runs
from playground.chat.openai_client import Service, service_problems
from playground.data import source
from playground.errors import Problem
from playground.settings import TALK_GENERATION, Data, Generation, generation_problems, merge_group, raise_all
from playground.ui.compare_answers import SIDES, Request, answer
from playground.ui.page import QUIET, UNQUEUED, Page, message, message_box
from playground.ui.source_names import source_name

COLUMNS = (*SIDES, "service")
GENERATION_FIELDS = fields(Generation)


@dataclass(frozen=True)
class ServiceInputs:
    """Whether a service is asked too, and how it is reached."""

    enabled: gr.Checkbox
    url: gr.Textbox
    model: gr.Textbox
    key: gr.Textbox

    @property
    def components(self) -> list:
        return [self.enabled, self.url, self.model, self.key]


@dataclass(frozen=True)
class CompareTab:
    """The tab's components."""

    adapter: gr.Dropdown
    no_adapter: gr.HTML
    badges: dict[str, gr.HTML]
    chats: dict[str, gr.Chatbot]
    service_column: gr.Column
    speed: gr.Markdown
    question: gr.Textbox
    send: gr.Button
    stop: gr.Button
    clear: gr.Button
    talk_preset: gr.Button
    plain_preset: gr.Button
    generation: list[gr.Number]
    service: ServiceInputs
    message: gr.HTML


def build(page: Page) -> CompareTab:
    """The tab's components."""
    translate = page.translate
    gr.Markdown(translate("chat.lead"), elem_classes="lead")
    adapter = gr.Dropdown(
        label=translate("chat.adapter"),
        info=translate("chat.adapter.info"),
        choices=[(translate("chat.none"), "")],
        value=None,
    )  # the first refresh selects the newest
    no_adapter = message_box()
    badges, chats, service_column = _build_columns(page)
    speed = gr.Markdown(elem_classes="quiet")
    with gr.Row(elem_classes="ask"):
        placeholder = translate("chat.placeholder")
        question = gr.Textbox(label=translate("chat.ask"), placeholder=placeholder, lines=1, max_lines=4, scale=5)
    with gr.Row(elem_classes="actions"):
        send = gr.Button(translate("chat.send"), variant="primary")
        stop = gr.Button(translate("chat.stop"), variant="stop", interactive=False)
        clear = gr.Button(translate("chat.clear"))
    gr.Examples(_example_questions(page), question, label=translate("chat.prompts"), examples_per_page=12)
    with gr.Accordion(translate("chat.generation"), open=False):
        with gr.Row():
            talk_preset = gr.Button(translate("chat.talk"), size="sm")
            plain_preset = gr.Button(translate("chat.plain"), size="sm")
        with gr.Row():
            generation = [_generation_field(page, f.name, f.default, f.type is int) for f in GENERATION_FIELDS]
    service = _build_service(page)
    return CompareTab(
        adapter=adapter,
        no_adapter=no_adapter,
        badges=badges,
        chats=chats,
        service_column=service_column,
        speed=speed,
        question=question,
        send=send,
        stop=stop,
        clear=clear,
        talk_preset=talk_preset,
        plain_preset=plain_preset,
        generation=generation,
        service=service,
        message=message_box(),
    )


def _build_columns(page: Page) -> tuple[dict[str, gr.HTML], dict[str, gr.Chatbot], gr.Column]:
    """A badge and a conversation for each column; the service's column is hidden until a service is asked."""
    translate = page.translate
    badges, chats = {}, {}
    with gr.Row(elem_classes="sides"):
        for name in COLUMNS:
            with gr.Column(min_width=150, visible=name in SIDES) as column:
                badges[name] = gr.HTML(badge(translate(f"chat.{name}"), ""))
                chats[name] = gr.Chatbot(
                    height=340,
                    show_label=False,
                    label=translate(f"chat.{name}"),
                    placeholder=translate(f"chat.empty_{name}"),
                    buttons=["copy"],
                    render_markdown=False,
                    elem_classes=f"side-{name}",
                )
    badges.pop("service")  # whose badge never changes
    return badges, chats, column


def _generation_field(page: Page, name: str, default: Any, whole: bool) -> gr.Number:
    label, info = page.translate(f"generation.{name}"), page.translate(f"generation.{name}.info")
    return gr.Number(value=default, precision=0 if whole else None, label=label, info=info, min_width=140)


def _build_service(page: Page) -> ServiceInputs:
    translate = page.translate
    with gr.Accordion(translate("chat.service_title"), open=False, visible=page.private):
        gr.Markdown(translate("chat.service_lead"), elem_classes="quiet")
        enabled = gr.Checkbox(label=translate("chat.service_on"), value=False)
        with gr.Row():
            example = "https://api.openai.com/v1"
            url = gr.Textbox(label=translate("chat.service_url"), placeholder=example, min_width=200)
            model = gr.Textbox(label=translate("chat.service_model"), min_width=140)
            info = translate("chat.service_key.info")
            key = gr.Textbox(label=translate("chat.service_key"), info=info, type="password", min_width=140)
    return ServiceInputs(enabled, url, model, key)


def connect(page: Page, tab: CompareTab) -> None:
    """Attach the tab's listeners, once all fields of the page exist."""
    chats = [tab.chats[name] for name in COLUMNS]

    def ask(question: str, adapter: str, base: list, tuned: list, service: list, *values: Any) -> Iterator[tuple]:
        """One generator yields all columns: several listeners of one click would answer one after the other."""
        conversations = dict(zip(COLUMNS, (base or [], tuned or [], service or [])))
        try:
            request = _parse(page, question, adapter, values)
        except Exception as error:
            yield question, base, tuned, service, "", page.error_message(error)
            return
        yield from answer(page, request, conversations)

    outputs = [tab.question, *chats, tab.speed, tab.message]
    inputs = [tab.question, tab.adapter, *chats, *page.inputs(), *tab.generation, *tab.service.components]
    for trigger in (tab.send.click, tab.question.submit):
        trigger(ask, inputs, outputs, **QUIET)
    tab.stop.click(page.engine.stop, **UNQUEUED)
    tab.clear.click(lambda: ([], [], [], "", message()), None, [*chats, tab.speed, tab.message], **UNQUEUED)
    for button, preset in ((tab.talk_preset, TALK_GENERATION), (tab.plain_preset, Generation())):
        button.click(lambda preset=preset: list(asdict(preset).values()), None, tab.generation, **UNQUEUED)
    enabled = tab.service.enabled
    enabled.change(lambda on: gr.update(visible=on and page.private), enabled, tab.service_column, **UNQUEUED)
    described = [tab.adapter, page.fields["load", "model"], page.fields["load", "bits"]]
    for component in described:
        labels = [*tab.badges.values(), tab.no_adapter]
        component.change(lambda *values: badge_updates(page, *values), described, labels, **UNQUEUED)


def badge(title: str, text: str) -> str:
    """The HTML above a column: which model answers in it."""
    return f'<div class="badge"><strong>{html.escape(title)}</strong> <span>{html.escape(text)}</span></div>'


def adapter_choices(page: Page) -> list[tuple[str, str]]:
    """Every run that has an adapter, newest first, and "none"."""
    choices = [
        (f"{catalog.display_name(run.model)} · {run.bits} bit · {source_name(page, run.data)} · {run.id}", run.id)
        for run in runs.history(page.root)
        if run.has_adapter
    ]
    return [*choices, (page.translate("chat.none"), "")]


def badge_updates(page: Page, adapter: str, model: str, bits: int) -> tuple:
    """Both badges, and a message where there is no adapter to compare with. model, bits: the form's."""
    key = "chat.badge_none"
    if adapter:
        settings = runs.find(page.root, adapter).settings()
        model, bits = settings.load.model, settings.load.bits
        key = "chat.badge_full" if settings.train.method == "full" else "chat.badge_tuned"
    values = {"model": catalog.display_name(model or ""), "bits": bits or "auto"}
    base = badge(page.translate("chat.base"), page.translate("chat.badge_base", **values))
    tuned = badge(page.translate("chat.tuned"), page.translate(key, run=adapter, **values))
    return base, tuned, message("" if adapter else page.translate("chat.same"))


def _parse(page: Page, question: str, adapter: str, values: Sequence) -> Request:
    """A request from the form's, the generation's and the service's values.

    Raises PlaygroundError with all problems at once.
    """
    count = len(page.fields)
    form, options = values[:count], values[count : count + len(GENERATION_FIELDS)]
    enabled, *address = values[count + len(GENERATION_FIELDS) :]
    named = dict(zip((f.name for f in GENERATION_FIELDS), options))
    generation, problems = merge_group(Generation(), named, "generation")
    problems += generation_problems(generation)
    service = Service(*(text or "" for text in address)) if enabled and page.private else None
    problems += service_problems(service) if service else []
    if not (question or "").strip():
        problems.insert(0, Problem("chat.empty_question"))
    raise_all(problems)
    settings = runs.find(page.root, adapter).settings() if adapter else page.settings(form)
    return Request(question.strip(), adapter, settings, generation, service)


def _example_questions(page: Page) -> list[list[str]]:
    """The talk's prompts, and three held-out questions of the help desk in the page's language."""
    held_out = source.read(Data(source=f"helpdesk.{page.lang}")).held_out
    spread = [row.instruction for row in held_out[:: len(held_out) // 3][:3]]
    return [[text] for text in [*catalog.prompts()["talk"]["prompts"], *spread]]
