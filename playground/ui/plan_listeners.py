"""Listeners of the Plan tab: forecast the settings, rank those that fit, and take them over into the form.

Settings that can't be planned leave the last plan in place: the error stands above it, once, and assets/plan_tab.css
dims what it no longer holds for.
"""

from collections.abc import Generator, Iterator, Sequence
from html import escape
from typing import Any

import gradio as gr

from playground import catalog
from playground.catalog.cards import cards
from playground.errors import PlaygroundError, problem
from playground.model.source import local_folder
from playground.settings import Settings
from playground.ui import card_picture, snapshot_view
from playground.ui.gpu_choice import THIS_MACHINE
from playground.ui.load_tab import show_at_width
from playground.ui.model_choices import offline_model
from playground.ui.page import LAST_INPUT, LATEST_ONLY, QUIET, UNQUEUED, FieldName, Page, Update, message
from playground.ui.plan_tab import (
    GPU_COUNTS,
    QUANT_TYPE_FIELDS,
    PlanInputs,
    PlanTab,
    draw_details,
    draw_forecast,
    draw_largest,
    draw_waterfall,
    most_gpus,
    parse_inputs,
    with_load_time,
)
from playground.ui.process_choice import most_processes
from playground.ui.tables import step_time

# A figure of earlier settings is dimmed while the new one is computed. Values come as they were typed: Gradio's own
# check would answer one outside a slider's range with a passing note, and the plan would never hear of it.
AS_TYPED: dict[str, Any] = {**LATEST_ONLY, "show_progress": "minimal", "preprocess": False}
ALSO_COPIED: tuple[FieldName, ...] = (("load", "simulate_gpu_gib"), ("train", "num_processes"))  # to the form
RANKED_FIELDS: tuple[FieldName, ...] = (  # that one of the fastest settings sets
    ("load", "bits"),
    ("train", "method"),
    ("train", "gradient_checkpointing"),
    ("train", "max_tokens_per_micro_batch"),
)


def connect(page: Page, tab: PlanTab, header: gr.Tab) -> None:
    """Attach the tab's listeners, once all fields of the page exist."""
    for width, name in QUANT_TYPE_FIELDS.items():
        show_at_width(width, tab.fields["load", "bits"], tab.fields["load", name])
    _connect_gpus(tab)
    _connect_forecast(page, tab)
    _connect_picture(page, tab, header)
    _connect_largest(page, tab)
    _connect_ranking(page, tab)
    _connect_use(page, tab)
    _connect_snapshot(page, tab)


def _connect_gpus(tab: PlanTab) -> None:
    """Offer as many GPUs as there can be, and how several share the work."""

    def offer(card: str, gpus: int | None) -> Update:
        most = most_gpus(card)
        choices = sorted({count for count in GPU_COUNTS if count <= most} | {most})
        return gr.update(choices=choices, value=min(gpus or 1, most), visible=most > 1)

    tab.card.change(offer, [tab.card, tab.gpus], tab.gpus, **LATEST_ONLY)
    parallel = tab.fields["train", "parallel"]
    tab.gpus.change(lambda gpus: gr.update(visible=(gpus or 1) > 1), tab.gpus, parallel, **LATEST_ONLY)


def _connect_forecast(page: Page, tab: PlanTab) -> None:
    """Keep the forecast up to date with the settings, and what each saving brings with the forecast."""
    result = tab.result

    def forecast(*values: Any) -> tuple:
        try:
            inputs = parse_inputs(page, tab, values)
            prediction = page.planner.ask("forecast", **inputs.questions()["forecast"])
            prediction = with_load_time(page, inputs, prediction)
        except Exception as error:
            return gr.skip(), gr.skip(), page.error_message(error)
        return draw_forecast(page, inputs, prediction), draw_details(page, prediction), message()

    def waterfall(*values: Any) -> Update:
        inputs = _valid_inputs(page, tab, values)
        if inputs is None:
            return gr.skip()
        questions = inputs.questions()
        try:
            prediction = page.planner.ask("forecast", **questions["forecast"])  # remembered
        except PlaygroundError:  # it is shown already
            return gr.skip()
        try:
            steps = page.planner.ask("waterfall", **questions["waterfall"])
        except Exception as error:
            return page.error_message(error)
        return draw_waterfall(page, inputs, steps, prediction)

    outputs = [result.forecast, result.details, result.message]
    gr.on(None, forecast, tab.inputs, outputs, show_progress_on=result.forecast, **AS_TYPED)
    result.forecast.change(waterfall, tab.inputs, result.waterfall, **AS_TYPED)


def _connect_picture(page: Page, tab: PlanTab, header: gr.Tab) -> None:
    """Draw the picture of a fine-tune with these settings."""

    def draw(*values: Any) -> Iterator[Update]:
        settings = Settings().with_values(parse_inputs(page, tab, values).settings)
        yield from card_picture.updates(page, settings, "tune", card_picture.room_of(values[len(tab.fields)]))

    card_picture.connect(tab.result.picture, draw, tab.inputs, tab.fields["load", "bits"], header)


def _connect_largest(page: Page, tab: PlanTab) -> None:
    """Show the largest model for every card while that accordion is open: it takes a minute for other sizes."""
    result, is_open = tab.result, gr.State(False)

    def largest(is_open: bool, *values: Any) -> Iterator[tuple]:
        inputs = _valid_inputs(page, tab, values) if is_open else None
        if inputs is None:
            yield gr.skip(), gr.skip()
            return
        try:
            rows = yield from _with_count(page, inputs, "largest_models")
            setups = yield from _with_count(page, inputs, "largest_for_setups")
        except Exception as error:
            yield page.error_message(error), gr.skip()
            return
        yield "", draw_largest(page, inputs, rows, setups)

    asked, outputs = [is_open, *tab.inputs], [result.largest_progress, result.largest_models]
    opened = result.largest.expand(lambda: True, None, is_open, **UNQUEUED)
    opened.then(largest, asked, outputs, **QUIET, preprocess=False)
    result.largest.collapse(lambda: False, None, is_open, **UNQUEUED)
    result.forecast.change(largest, asked, outputs, **LATEST_ONLY, preprocess=False)


def _with_count(page: Page, inputs: PlanInputs, question: str) -> Generator[tuple, None, list[dict]]:
    """The answer about the largest models; meanwhile yield how many models were tried, above the last table."""
    asking = page.ask_with_progress(question, **inputs.questions()[question])
    while True:
        try:
            step = next(asking)
        except StopIteration as end:
            return end.value
        counted = {"done": int(step[0]), "total": int(step[1])} if step else None
        text = page.translate("plan.largest.progress", **counted) if counted else page.translate("plan.counting")
        yield f'<p class="counting" role="status">{escape(text)}</p>', gr.skip()


def _valid_inputs(page: Page, tab: PlanTab, values: Sequence) -> PlanInputs | None:
    """The values of `tab.inputs`, or None where the message above the forecast says what is wrong with them."""
    try:
        return parse_inputs(page, tab, values)
    except PlaygroundError:
        return None


def _connect_ranking(page: Page, tab: PlanTab) -> None:
    """Listeners that rank the fastest settings that fit, and take one of them."""
    choice, fields = tab.choice, [tab.fields[name] for name in RANKED_FIELDS]
    nothing = (gr.update(choices=[], value=None, visible=False), *(gr.skip() for _ in fields))

    def find_fastest(*values: Any) -> Iterator[tuple]:
        yield *nothing, message(page.translate("plan.counting"))
        try:
            inputs = parse_inputs(page, tab, values)
            if inputs.device == "cpu":
                raise problem("plan.fastest.cpu")
            ranking = page.planner.ask("fastest_settings", **inputs.questions()["fastest_settings"])
        except Exception as error:
            yield *nothing, page.error_message(error)
            return
        if not ranking:
            yield *nothing, message(page.translate("plan.ranked.none", room_bytes=inputs.capacity), bad=True)
            return
        choices = [(_ranked_label(page, option), _encode_option(option)) for option in ranking]
        best = choices[0][1]
        yield gr.update(choices=choices, value=best, visible=True), *_decode_option(best), message()

    choice.find_fastest.click(find_fastest, tab.inputs, [choice.ranked, *fields, choice.message], **QUIET)
    choice.ranked.input(_decode_option, choice.ranked, fields, **LAST_INPUT)


def _ranked_label(page: Page, option: dict) -> str:
    """One of the fastest settings in words."""
    if option["streamed"]:
        return page.translate("plan.ranked.streamed", **option, device_bytes=option["need"])
    tokens = option["tokens"]
    batch = page.translate("plan.at_once", tokens=tokens) if tokens else page.translate("plan.all_at_once")
    label = page.translate("plan.ranked.option", **option, at_once=batch, device_bytes=option["need"])
    if option["seconds"] is None:
        return label
    return page.translate("plan.ranked.timed", option=label, time=step_time(page.translate, option["seconds"]))


def _encode_option(option: dict) -> str:
    """One of the fastest settings as the value of a radio button."""
    return f"{option['bits']} {option['checkpointing']} {option['tokens']}"


def _decode_option(value: str) -> tuple[int, str, str, int]:
    """The values of RANKED_FIELDS from a radio button's value; the fastest method is always LoRA."""
    try:
        bits, checkpointing, tokens = str(value).split()
        return int(bits), "lora", checkpointing, int(tokens)
    except ValueError:
        raise problem("request.value", field="ranked", value=str(value)) from None


def _connect_use(page: Page, tab: PlanTab) -> None:
    """Listeners that copy the tab's settings into the form, and take a model that needs no hub instead."""
    choice, model = tab.choice, tab.fields["load", "model"]
    form = [page.fields[name] for name in (*tab.fields, *ALSO_COPIED)]
    copied, edits = [*form, choice.message, choice.offline], [component.input for component in tab.inputs]

    def use(*values: Any) -> tuple:
        return _copy_to_form(page, tab, values)

    def clear() -> tuple:
        return message(), gr.update(visible=False)

    choice.use.click(use, tab.inputs, copied, **UNQUEUED)
    taken = choice.offline.click(lambda: offline_model(page), None, model, **UNQUEUED)
    taken.then(use, tab.inputs, copied, **UNQUEUED)
    # Once a field changes, the message of an earlier copy no longer holds.
    gr.on(edits, clear, None, [choice.message, choice.offline], **LAST_INPUT)


def _connect_snapshot(page: Page, tab: PlanTab) -> None:
    """Write the predicted step of these settings for PyTorch's memory viewer."""

    def question(*values: Any) -> snapshot_view.Question:
        inputs = parse_inputs(page, tab, values)
        return {"settings": inputs.settings, "capacity": inputs.capacity, "device": inputs.device}

    snapshot_view.connect_plan(page, tab.result.snapshot, question, tab.inputs)


def _copy_to_form(page: Page, tab: PlanTab, values: Sequence) -> tuple:
    """The tab's settings for the form, the chosen card as the GPU to simulate, a message, and the offer of a model."""
    inputs = _valid_inputs(page, tab, values)
    if inputs is None:
        nothing = [gr.skip() for _ in (*tab.fields, *ALSO_COPIED)]
        return *nothing, message(page.translate("plan.invalid"), bad=True), gr.skip()
    *settings, card, _, _ = values
    count = inputs.settings["train"]["num_processes"]
    processes = min(count, most_processes(page.limits))
    gib = 0 if card == THIS_MACHINE else next(entry["gib"] for entry in cards() if entry["id"] == card)
    lines = [page.translate("plan.used_card", gib=gib) if gib else page.translate("plan.used")]
    model = inputs.settings["load"]["model"]
    download = not _on_this_machine(model)
    if download:
        lines.append(page.translate("plan.download", model=catalog.display_name(model)))
    if processes < count:
        lines.append(page.translate("plan.used_gpus", count=count, most=processes))
    return *settings, gib, processes, message("\n".join(lines)), gr.update(visible=download)


def _on_this_machine(model: str) -> bool:
    """Whether loading a model needs no hub. Loading itself says what is wrong with a path."""
    try:
        return model in catalog.offline_models() or local_folder(model) is not None
    except PlaygroundError:
        return True
