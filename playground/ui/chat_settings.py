"""Settings of the Compare tab: how answers are generated, and the service that is asked too."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import gradio as gr

from playground.chat.openai_client import Service, service_problems
from playground.errors import Problem
from playground.settings import TALK_GENERATION, Generation, generation_problems, merge_group
from playground.ui.page import UNQUEUED, Page

GENERATION_FIELDS = fields(Generation)
NUMBERS = [f for f in GENERATION_FIELDS if f.type is not bool]


@dataclass(frozen=True)
class ChatSettings:
    """The components: of a Generation, buttons that fill them in, and whether and how a service is reached."""

    generation: list[gr.Number | gr.Checkbox]
    talk_preset: gr.Button
    plain_preset: gr.Button
    service_enabled: gr.Checkbox
    service_address: list[gr.Textbox]  # URL, model, key

    @property
    def components(self) -> list:
        """Every input, in the order that `parse` takes their values."""
        return [*self.generation, self.service_enabled, *self.service_address]


def build(page: Page) -> ChatSettings:
    """The components, in two accordions; the service's is hidden on a public page."""
    translate = page.translate
    with gr.Accordion(translate("chat.generation"), open=False):
        with gr.Row():
            talk_preset = gr.Button(translate("chat.talk"), size="sm")
            plain_preset = gr.Button(translate("chat.plain"), size="sm")
        with gr.Row():
            numbers = [_number(page, f.name, f.default, f.type is int) for f in NUMBERS]
        label, info = (translate(f"generation.model_defaults{end}") for end in ("", ".info"))
        own = gr.Checkbox(label=label, info=info, value=False)
    generation: list[gr.Number | gr.Checkbox] = [*numbers, own]
    with gr.Accordion(translate("chat.service_title"), open=False, visible=page.private):
        gr.Markdown(translate("chat.service_lead"), elem_classes="quiet")
        enabled = gr.Checkbox(label=translate("chat.service_on"), value=False)
        with gr.Row():
            example = "https://api.openai.com/v1"
            url = gr.Textbox(label=translate("chat.service_url"), placeholder=example, min_width=200)
            model = gr.Textbox(label=translate("chat.service_model"), min_width=140)
            info = translate("chat.service_key.info")
            key = gr.Textbox(label=translate("chat.service_key"), info=info, type="password", min_width=140)
    return ChatSettings(generation, talk_preset, plain_preset, enabled, [url, model, key])


def connect(settings: ChatSettings) -> None:
    """Attach the buttons' listeners."""
    for button, preset in ((settings.talk_preset, TALK_GENERATION), (settings.plain_preset, Generation())):
        button.click(lambda preset=preset: list(asdict(preset).values()), None, settings.generation, **UNQUEUED)


def parse(page: Page, values: Sequence) -> tuple[Generation, Service | None, list[Problem]]:
    """The generation and the service from the components' values, and everything that is wrong with them."""
    count = len(GENERATION_FIELDS)
    enabled, *address = values[count:]
    generation, problems = parse_generation(values[:count])
    service = Service(*(text or "" for text in address)) if enabled and page.private else None
    problems += service_problems(service) if service else []
    return generation, service, problems


def parse_generation(values: Sequence) -> tuple[Generation, list[Problem]]:
    """The generation from its components' values, and everything that is wrong with it."""
    named = dict(zip((f.name for f in GENERATION_FIELDS), values))
    generation, problems = merge_group(Generation(), named, "generation")
    return generation, [*problems, *generation_problems(generation)]


def _number(page: Page, name: str, default: Any, whole: bool) -> gr.Number:
    label, info = page.translate(f"generation.{name}"), page.translate(f"generation.{name}.info")
    return gr.Number(value=default, precision=0 if whole else None, label=label, info=info, min_width=140)
