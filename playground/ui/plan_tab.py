"""Tab "Plan": the memory a model will take, before it is loaded. All figures are predicted."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground import catalog
from playground.catalog.cards import cards
from playground.errors import problem
from playground.planning.client import this_machine
from playground.settings import CHECKPOINTING_CHOICES, METHODS, OPTIMIZERS, Settings
from playground.ui import memory_figures
from playground.ui.page import (
    LATEST_ONLY,
    QUIET,
    TARGET_MODULES,
    THIS_MACHINE,
    UNQUEUED,
    FieldName,
    Page,
    card_choices,
    memory_of,
    message,
    message_box,
)

# The talk's model, on a small card.
START: dict[str, dict] = {
    "load": {"model": "cyberagent/open-calm-7b", "bits": 4},
    "train": {"batch_size": 32, "max_seq_length": 256},
}
START_CARD = "rtx-4060"
START_CONTEXT = 1024  # tokens
# A figure of earlier settings is dimmed while the new one is computed.
DIMMED: dict[str, Any] = {**QUIET, "show_progress": "minimal"}
DIMMED_LATEST_ONLY: dict[str, Any] = {**LATEST_ONLY, "show_progress": "minimal"}
RANKED_FIELDS: tuple[FieldName, ...] = (  # that one of the fastest settings sets
    ("load", "bits"),
    ("train", "method"),
    ("train", "gradient_checkpointing"),
    ("train", "max_tokens_per_micro_batch"),
)


@dataclass(frozen=True)
class PlanTab:
    """The tab's components. Its fields are separate from the form's, so that any settings can be planned."""

    fields: dict[FieldName, Any]
    card: gr.Dropdown
    context: gr.Slider
    message: gr.HTML
    forecast: gr.HTML
    find_fastest: gr.Button
    use: gr.Button
    ranked: gr.Radio
    choice_message: gr.HTML
    savings: gr.Accordion
    waterfall: gr.HTML
    arithmetic: gr.HTML
    largest: gr.Accordion
    largest_models: gr.HTML

    @property
    def inputs(self) -> list:
        """The components whose values `_parse` takes."""
        return [*self.fields.values(), self.card, self.context]


@dataclass(frozen=True)
class PlanInputs:
    """What is planned: the settings as a dict, bytes of the chosen memory, its device, tokens of context."""

    settings: dict
    capacity: int
    device: str
    context: int


def build(page: Page) -> PlanTab:
    """The tab's components."""
    translate = page.translate
    gr.Markdown(translate("plan.lead"), elem_classes="lead")
    fields, card, context = _build_inputs(page)
    box = message_box()
    forecast = gr.HTML(f'<p class="quiet">{translate("plan.counting")}</p>', elem_classes="counted")
    with gr.Row(elem_classes="actions"):
        find_fastest = gr.Button(translate("plan.fastest"))
        use = gr.Button(translate("plan.use"), variant="primary")
    ranked = gr.Radio(
        label=translate("plan.ranked"),
        info=translate("plan.ranked.info"),
        choices=[],
        visible=False,
        elem_classes="ranked",
    )
    choice_message = message_box()
    with gr.Accordion(translate("plan.waterfall"), open=False) as savings:
        waterfall = gr.HTML(elem_classes="counted")
    with gr.Accordion(translate("plan.explained"), open=False):
        arithmetic = gr.HTML()
    with gr.Accordion(translate("plan.largest"), open=False) as largest:
        largest_models = gr.HTML(elem_classes="counted")
    return PlanTab(
        fields=fields,
        card=card,
        context=context,
        message=box,
        forecast=forecast,
        find_fastest=find_fastest,
        use=use,
        ranked=ranked,
        choice_message=choice_message,
        savings=savings,
        waterfall=waterfall,
        arithmetic=arithmetic,
        largest=largest,
        largest_models=largest_models,
    )


def _build_inputs(page: Page) -> tuple[dict[FieldName, Any], gr.Dropdown, gr.Slider]:
    """The tab's fields, the card and the context."""
    translate, start = page.translate, Settings().with_values(START)
    fields: dict[FieldName, Any] = {}

    def field(component: type, group: str, name: str, **options: Any) -> None:
        value = getattr(getattr(start, group), name)
        fields[group, name] = component(value=value, label=translate(f"{group}.{name}"), **options)

    with gr.Row():
        field(gr.Dropdown, "load", "model", choices=_models(), allow_custom_value=True, min_width=250)
        card = gr.Dropdown(label=translate("plan.card"), choices=card_choices(page), value=START_CARD, min_width=250)
    with gr.Row():
        field(gr.Radio, "load", "bits", choices=[32, 16, 8, 4], min_width=250)
        field(gr.Radio, "train", "method", choices=page.choices("train.method", METHODS))
    with gr.Row():
        field(gr.Slider, "train", "batch_size", minimum=1, maximum=128, step=1, min_width=200)
        field(gr.Slider, "train", "max_seq_length", minimum=32, maximum=4096, step=32, min_width=200)
    with gr.Accordion(translate("plan.more"), open=False):
        with gr.Row():
            field(gr.Slider, "lora", "r", minimum=1, maximum=256, step=1, min_width=200)
            targets = page.choices("lora.target_modules", TARGET_MODULES)
            field(gr.Dropdown, "lora", "target_modules", choices=targets, allow_custom_value=True)
        with gr.Row():
            policies = page.choices("train.gradient_checkpointing", CHECKPOINTING_CHOICES)
            field(gr.Dropdown, "train", "gradient_checkpointing", choices=policies, allow_custom_value=True)
            field(gr.Number, "train", "max_tokens_per_micro_batch", precision=0)
            field(gr.Dropdown, "train", "optimizer", choices=page.choices("train.optimizer", OPTIMIZERS))
        label = translate("plan.context")
        context = gr.Slider(label=label, value=START_CONTEXT, minimum=128, maximum=8192, step=128)
    return fields, card, context


def connect(page: Page, tab: PlanTab) -> None:
    """Attach the tab's listeners, once all fields of the page exist."""

    def forecast(*values: Any) -> tuple:
        try:
            inputs = _parse(page, tab, values)
            prediction = page.planner.ask(
                "forecast",
                settings=inputs.settings,
                context=inputs.context,
                capacity=inputs.capacity,
                device=inputs.device,
            )
            drawing = memory_figures.forecast(page.translate, prediction, inputs.capacity, this_machine()["bytes"])
            return drawing, memory_figures.arithmetic(page.translate, prediction["explained"]), message()
        except Exception as error:
            return "", "", page.error_message(error)

    def waterfall(inputs: PlanInputs) -> str:
        steps = page.planner.ask("waterfall", settings=inputs.settings)
        return memory_figures.waterfall(page.translate, steps, inputs.capacity)

    def largest(inputs: PlanInputs) -> str:
        train = inputs.settings["train"]
        sizes = {"context": inputs.context, "batch": train["batch_size"], "length": train["max_seq_length"]}
        return memory_figures.largest_models(page.translate, page.planner.ask("largest_models", **sizes), **sizes)

    outputs = [tab.forecast, tab.arithmetic, tab.message]
    gr.on(None, forecast, tab.inputs, outputs, show_progress_on=tab.forecast, **DIMMED_LATEST_ONLY)
    _answer_while_open(page, tab, waterfall, tab.savings, tab.waterfall, "plan.counting")
    _answer_while_open(page, tab, largest, tab.largest, tab.largest_models, "plan.largest.waiting")
    _connect_choice(page, tab)


def _answer_while_open(
    page: Page,
    tab: PlanTab,
    answer: Callable[[PlanInputs], str],
    accordion: gr.Accordion,
    output: gr.HTML,
    waiting: str,
) -> None:
    """Show `answer` in an accordion, updated with every forecast, but only while it is open: it takes longer."""
    is_open = gr.State(False)

    def show(is_open: bool, forecast: str, *values: Any) -> Any:
        if not is_open:
            return gr.skip()
        try:  # without a forecast, its message says what is wrong
            return answer(_parse(page, tab, values)) if forecast else ""
        except Exception as error:
            return page.error_message(error)

    inputs = [is_open, tab.forecast, *tab.inputs]
    placeholder = f'<p class="quiet">{page.translate(waiting)}</p>'
    opened = accordion.expand(lambda: (True, placeholder), None, [is_open, output], **UNQUEUED)
    opened.then(show, inputs, output, **DIMMED)
    accordion.collapse(lambda: False, None, is_open, **UNQUEUED)
    tab.forecast.change(show, inputs, output, **DIMMED_LATEST_ONLY)


def _connect_choice(page: Page, tab: PlanTab) -> None:
    """Listeners that rank the fastest settings, take one of them, and copy the tab's settings to the form."""
    fields = [tab.fields[name] for name in RANKED_FIELDS]
    nothing = (gr.update(choices=[], value=None, visible=False), *(gr.skip() for _ in fields))

    def find_fastest(*values: Any) -> Iterator[tuple]:
        yield *nothing, message(page.translate("plan.counting"))
        try:
            inputs = _parse(page, tab, values)
            if inputs.device == "cpu":
                raise problem("plan.fastest.cpu")
            ranking = page.planner.ask("fastest_settings", settings=inputs.settings, capacity=inputs.capacity)
        except Exception as error:
            yield *nothing, page.error_message(error)
            return
        if not ranking:
            yield *nothing, message(page.translate("plan.ranked.none", room_bytes=inputs.capacity), bad=True)
            return
        choices = [(_ranked_label(page, option), _encode_option(option)) for option in ranking]
        best = choices[0][1]
        yield gr.update(choices=choices, value=best, visible=True), *_decode_option(best), message()

    tab.find_fastest.click(find_fastest, tab.inputs, [tab.ranked, *fields, tab.choice_message], **QUIET)
    tab.ranked.input(_decode_option, tab.ranked, fields, **UNQUEUED)
    # Once a field changes, the message of an earlier copy no longer holds.
    gr.on([component.input for component in tab.inputs], lambda: message(), None, tab.choice_message, **UNQUEUED)
    form = [page.fields[name] for name in (*tab.fields, ("load", "simulate_gpu_gib"))]
    inputs = [*tab.fields.values(), tab.card]
    tab.use.click(lambda *values: _copy_to_form(page, *values), inputs, [*form, tab.choice_message], **UNQUEUED)


def _copy_to_form(page: Page, *values: Any) -> tuple:
    """The tab's settings for the form, the chosen card as the GPU to simulate, and a message."""
    *settings, card = values
    gib = 0 if card == THIS_MACHINE else next(entry["gib"] for entry in cards() if entry["id"] == card)
    text = page.translate("plan.used_card", gib=gib) if gib else page.translate("plan.used")
    return *settings, gib, message(text)


def _parse(page: Page, tab: PlanTab, values: Sequence) -> PlanInputs:
    """The values of `tab.inputs`. Raises PlaygroundError with all problems at once."""
    *fields, card, context = values
    settings, memory = page.parse_fields(tab.fields, fields), memory_of(card)
    return PlanInputs(settings.to_dict(), memory["bytes"], memory["device"], int(context))


def _ranked_label(page: Page, option: dict) -> str:
    """One of the fastest settings in words."""
    tokens = option["tokens"]
    batch = page.translate("plan.at_once", tokens=f"{tokens:,}") if tokens else page.translate("plan.all_at_once")
    return page.translate("plan.ranked.option", **option, at_once=batch, device_bytes=option["device_used"])


def _encode_option(option: dict) -> str:
    """One of the fastest settings as the value of a radio button."""
    return f"{option['bits']} {option['checkpointing']} {option['tokens']}"


def _decode_option(value: str) -> tuple[int, str, str, int]:
    """The values of RANKED_FIELDS from a radio button's value; the fastest method is always LoRA."""
    bits, checkpointing, tokens = value.split()
    return int(bits), "lora", checkpointing, int(tokens)


def _models() -> list[tuple[str, str]]:
    """Every model whose config is bundled, then the catalog's models that share another's config."""
    others = [key for key in catalog.models() if key not in catalog.shapes()]
    return [(catalog.display_name(key), key) for key in (*catalog.shapes(), *others)]
