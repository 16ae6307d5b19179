"""Tab "Plan": the memory a model will take, before it is loaded. All figures are predicted.

Its listeners are in plan_listeners.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground import catalog
from playground.planning.client import plan_questions, this_machine, usable_processes
from playground.settings import (
    CHECKPOINTING_CHOICES,
    METHODS,
    OPTIMIZERS,
    PARALLEL_CHOICES,
    QUANT_TYPES,
    QUANT_TYPES_8BIT,
    Settings,
    parse,
)
from playground.ui import card_picture, memory_figures, plan_figures, several_figures, snapshot_view
from playground.ui.bounds import setting_slider
from playground.ui.gpu_choice import THIS_MACHINE, card_choices, memory_of
from playground.ui.load_tab import BITS
from playground.ui.model_choices import model_choices, offline_model
from playground.ui.page import TARGET_MODULES, FieldName, Page, message_box

QUANT_TYPE_FIELDS = {8: "quant_type_8bit", 4: "quant_type"}  # of Load, by the bit width at which they count

GPU_COUNTS = (1, 2, 4, 8)  # on offer, of each GPU size


@dataclass(frozen=True)
class PlanTab:
    """The tab's components. Its fields are separate from the form's, so that any settings can be planned."""

    fields: dict[FieldName, Any]
    card: gr.Dropdown
    gpus: gr.Dropdown
    context: gr.Slider
    choice: "PlanChoice"
    result: "PlanResult"

    @property
    def inputs(self) -> list:
        """The components whose values `parse_inputs` takes."""
        return [*self.fields.values(), self.card, self.gpus, self.context]


@dataclass(frozen=True)
class PlanChoice:
    """What ranks settings and takes them over; `offline` takes another model where one isn't on this machine."""

    find_fastest: gr.Button
    use: gr.Button
    ranked: gr.Radio
    message: gr.HTML
    offline: gr.Button


@dataclass(frozen=True)
class PlanResult:
    """What is predicted for the settings."""

    message: gr.HTML
    forecast: gr.HTML
    picture: gr.HTML
    waterfall: gr.HTML
    details: gr.HTML
    largest: gr.Accordion
    largest_progress: gr.HTML
    largest_models: gr.HTML
    snapshot: snapshot_view.PredictedSnapshot


@dataclass(frozen=True)
class PlanInputs:
    """What is planned: the settings as a dict, bytes of the chosen memory, its device, tokens of context.

    The settings' processes are the chosen number of GPUs.
    """

    settings: dict
    capacity: int
    device: str
    context: int

    def questions(self) -> dict[str, dict[str, Any]]:
        """What to ask the planner, as {function: arguments}."""
        return plan_questions(self.settings, self.context, self.capacity, self.device)


def build(page: Page) -> PlanTab:
    """The tab's components: the settings beside what is predicted for them."""
    drawn = _first_drawings(page)
    with gr.Row(elem_classes="split plan-tab"):
        with gr.Column(scale=5, min_width=320, elem_classes="controls"):
            gr.Markdown(page.translate("plan.lead"), elem_classes="lead")
            fields, card, gpus, context = _build_inputs(page)
            choice = _build_choice(page)
            waterfall = gr.HTML(drawn["waterfall"], elem_classes="counted plan-savings")
        with gr.Column(scale=6, min_width=320, elem_classes="result plan-result"):
            result = _build_result(page, drawn, waterfall)
    return PlanTab(fields, card, gpus, context, choice, result)


def parse_inputs(page: Page, tab: PlanTab, values: Sequence) -> PlanInputs:
    """The values of `tab.inputs`. Raises PlaygroundError with all problems at once."""
    *fields, card, gpus, context = values
    settings, memory = page.parse_fields(tab.fields, fields), memory_of(card)
    settings = parse({"train": {"num_processes": gpus}}, settings)  # a plan of more GPUs than a visitor may use
    processes = min(settings.train.num_processes, most_gpus(card))
    settings = settings.with_values({"train": {"num_processes": processes}})
    return PlanInputs(settings.to_dict(), memory["bytes"], memory["device"], int(context or 0))


def most_gpus(card: str) -> int:
    """How many of a choice's GPUs can be planned together: of this machine those that it has, on a CPU 1."""
    if card != THIS_MACHINE:
        return GPU_COUNTS[-1]
    return usable_processes() if memory_of(card)["device"] == "cuda" else 1


def draw_forecast(page: Page, inputs: PlanInputs, prediction: dict) -> str:
    """The forecast's verdict and bars as HTML."""
    auto_bits = not inputs.settings["load"]["bits"]
    return memory_figures.forecast(
        page.translate, prediction, inputs.capacity, this_machine()["bytes"], auto_bits=auto_bits
    )


def with_load_time(page: Page, inputs: PlanInputs, prediction: dict) -> dict:
    """A forecast with what loading takes now, where that is known: on this machine.

    For another the planner isn't asked, so that what the tab opens with needs no process that has started.
    """
    machine = this_machine()
    if (inputs.device, inputs.capacity) != (machine["device"], machine["bytes"]):
        return prediction
    question: dict[str, Any] = {"capacity": inputs.capacity, "device": inputs.device}
    times = page.planner.ask("load_times", settings=inputs.settings, widths=[prediction["bits"]], **question)
    load = prediction["phases"]["load"] | {"time": list(times.values())}
    return prediction | {"phases": prediction["phases"] | {"load": load}}


def draw_details(page: Page, prediction: dict) -> str:
    """The forecast's table of parts and its arithmetic as HTML."""
    table = memory_figures.parts_table(page.translate, prediction["phases"])
    return table + plan_figures.arithmetic(page.translate, prediction["explained"], "several" in prediction)


def draw_waterfall(page: Page, inputs: PlanInputs, steps: list[dict], prediction: dict) -> str:
    """What each saving brings, and under it the settings themselves, as HTML."""
    count = prediction["several"]["count"] if "several" in prediction else 1
    own = {"step": "yours_each" if count > 1 else "yours", "count": count, "need": prediction["phases"]["tune"]["need"]}
    return plan_figures.waterfall(page.translate, [*steps, own], inputs.capacity)


def draw_largest(page: Page, inputs: PlanInputs, rows: list[dict], setups: list[dict]) -> str:
    """The largest model for every card, and for a paper's setups of several, as HTML."""
    asked = inputs.questions()
    of_cards = plan_figures.largest_models(page.translate, rows, **asked["largest_models"])
    return of_cards + several_figures.setups(page.translate, setups, **asked["largest_for_setups"])


def _build_inputs(page: Page) -> tuple[dict[FieldName, Any], gr.Dropdown, gr.Dropdown, gr.Slider]:
    """The tab's fields, the card, how many of it, and the context."""
    translate, first = page.translate, catalog.first_plan()
    start, fields = Settings().with_values(first["settings"]), dict[FieldName, Any]()

    def field(component: Callable, group: str, name: str, **options: Any) -> None:
        value = getattr(getattr(start, group), name)
        fields[group, name] = component(value=value, label=translate(f"{group}.{name}"), **options)

    models = model_choices(page, {**catalog.shapes(), **catalog.models()})
    field(gr.Dropdown, "load", "model", choices=models, allow_custom_value=True, min_width=250)
    with gr.Row():
        card = gr.Dropdown(
            label=translate("plan.card"), choices=card_choices(page), value=first["card"], min_width=200, scale=2
        )
        gpus = gr.Dropdown(label=translate("plan.gpus"), choices=list(GPU_COUNTS), value=1, min_width=100, scale=1)
    ways, info = page.choices("train.parallel", PARALLEL_CHOICES), translate("train.parallel.info")
    field(gr.Radio, "train", "parallel", choices=ways, info=info, visible=False)
    with gr.Row():
        field(gr.Radio, "load", "bits", choices=page.choices("load.bits", BITS), min_width=250)
        field(gr.Radio, "train", "method", choices=page.choices("train.method", METHODS), min_width=200)
    for (width, name), kinds in zip(QUANT_TYPE_FIELDS.items(), (QUANT_TYPES_8BIT, QUANT_TYPES)):
        choices, info = page.choices(f"load.{name}", kinds), translate(f"load.{name}.info")  # which GPUs have it
        field(gr.Radio, "load", name, choices=choices, info=info, visible=start.load.bits == width)
    with gr.Row():
        field(setting_slider, "train", "batch_size", minimum=1, maximum=128, step=1, min_width=200)
        field(setting_slider, "train", "max_seq_length", minimum=32, maximum=4096, step=32, min_width=200)
    with gr.Accordion(translate("plan.more"), open=False):
        with gr.Row():
            field(setting_slider, "lora", "r", minimum=1, maximum=256, step=1, min_width=200)
            targets = page.choices("lora.target_modules", TARGET_MODULES)
            field(gr.Dropdown, "lora", "target_modules", choices=targets, allow_custom_value=True)
        with gr.Row():  # two and two: of three, the values don't fit
            policies, wide = page.choices("train.gradient_checkpointing", CHECKPOINTING_CHOICES), {"min_width": 240}
            field(gr.Dropdown, "train", "gradient_checkpointing", choices=policies, allow_custom_value=True, **wide)
            field(gr.Number, "train", "max_tokens_per_micro_batch", precision=0, **wide)
            field(gr.Dropdown, "train", "optimizer", choices=page.choices("train.optimizer", OPTIMIZERS), **wide)
            field(gr.Checkbox, "train", "offload_optimizer", **wide)
        label = translate("plan.context")
        context = gr.Slider(label=label, value=first["context"], minimum=128, maximum=8192, step=128)
    return fields, card, gpus, context


def _build_choice(page: Page) -> PlanChoice:
    """The buttons under the settings, the ranking of the fastest ones, and a message."""
    translate = page.translate
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
    box, name = message_box(), catalog.display_name(offline_model(page))
    offline = gr.Button(translate("plan.take_offline", model=name), visible=False, size="sm")
    return PlanChoice(find_fastest, use, ranked, box, offline)


def _build_result(page: Page, drawn: dict[str, str], waterfall: gr.HTML) -> PlanResult:
    """The right column, from top to bottom, with the answers that are known before anything was asked."""
    box = gr.HTML(visible=False, elem_classes="plan-error")
    forecast = gr.HTML(drawn["forecast"], elem_classes="counted")
    picture = card_picture.build(page)
    with gr.Accordion(page.translate("plan.explained"), open=False):
        details = gr.HTML(drawn["details"], elem_classes="counted")
    with gr.Accordion(page.translate("plan.largest"), open=False, elem_classes="largest") as largest:
        progress = gr.HTML(elem_classes="largest-progress")
        models = gr.HTML(drawn["largest"], elem_classes="counted")
    snapshot = snapshot_view.build_for_plan(page)
    return PlanResult(box, forecast, picture, waterfall, details, largest, progress, models, snapshot)


def _first_drawings(page: Page) -> dict[str, str]:
    """The result for the settings that the tab opens with, as HTML; a placeholder for what isn't stored."""
    first = catalog.first_plan()
    memory, settings = memory_of(first["card"]), Settings().with_values(first["settings"]).to_dict()
    inputs = PlanInputs(settings, memory["bytes"], memory["device"], first["context"])
    answers = {do: page.planner.stored_answer(do, **asked) for do, asked in inputs.questions().items()}
    prediction, steps = answers["forecast"], answers["waterfall"]
    largest, setups = answers["largest_models"], answers["largest_for_setups"]
    counting = f'<p class="quiet">{page.translate("plan.counting")}</p>'
    return {
        "forecast": draw_forecast(page, inputs, prediction) if prediction else counting,
        "details": draw_details(page, prediction) if prediction else "",
        "waterfall": draw_waterfall(page, inputs, steps, prediction) if prediction and steps else counting,
        "largest": draw_largest(page, inputs, largest, setups) if largest and setups else "",
    }
