"""Tab 1: what a model takes, before it is loaded; everything here is predicted."""

from types import SimpleNamespace

import gradio as gr

from playground import catalog
from playground.catalog.cards import cards
from playground.errors import problem
from playground.planning.client import this_machine
from playground.settings import CHECKPOINTING_CHOICES, METHODS, OPTIMIZERS, Settings
from playground.ui import figures
from playground.ui.page import QUIET, THIS_MACHINE, UNQUEUED, Page, card_choices, memory_of, message, message_box

START = {
    "load": {"model": "cyberagent/open-calm-7b", "bits": 4},
    "train": {"batch_size": 32, "max_seq_length": 256},
}  # the talk's model, on a small card
START_CARD = "rtx-4060"
DIMMED = {
    **QUIET,
    "show_progress": "minimal",
}  # what is shown is of the settings before, so it pales while it is counted anew
NEWEST = {
    **DIMMED,
    "trigger_mode": "always_last",
}  # of the changes made while an answer is awaited, only the last is asked
CONTEXT = 1024


def build(page: Page) -> SimpleNamespace:
    """The tab's components. Its fields are its own, so that one can plan what isn't to be run."""
    translate, start, made = page.translate, Settings().with_values(START), {}

    def field(component: type, group: str, name: str, **options):
        made[group, name] = component(
            **{"value": getattr(getattr(start, group), name), "label": translate(f"{group}.{name}"), **options}
        )

    gr.Markdown(translate("plan.lead"), elem_classes="lead")
    with gr.Row():
        field(gr.Dropdown, "load", "model", choices=_models(), allow_custom_value=True, min_width=250)
        card = gr.Dropdown(label=translate("plan.card"), choices=card_choices(page), value=START_CARD, min_width=250)
    with gr.Row():
        field(gr.Radio, "load", "bits", choices=[32, 16, 8, 4], min_width=250)
        field(gr.Radio, "train", "method", choices=METHODS)
    with gr.Row():
        field(gr.Slider, "train", "batch_size", minimum=1, maximum=128, step=1, min_width=200)
        field(gr.Slider, "train", "max_seq_length", minimum=32, maximum=4096, step=32, min_width=200)
    with gr.Accordion(translate("plan.more"), open=False):
        with gr.Row():
            field(gr.Slider, "lora", "r", minimum=1, maximum=256, step=1, min_width=200)
            field(gr.Dropdown, "lora", "target_modules", choices=["attention", "all-linear"], allow_custom_value=True)
        with gr.Row():
            field(
                gr.Dropdown, "train", "gradient_checkpointing", choices=CHECKPOINTING_CHOICES, allow_custom_value=True
            )
            field(gr.Number, "train", "max_tokens_per_micro_batch", precision=0)
            field(gr.Dropdown, "train", "optimizer", choices=OPTIMIZERS)
        context = gr.Slider(label=translate("plan.context"), value=CONTEXT, minimum=128, maximum=8192, step=128)
    told = message_box()
    figure = gr.HTML(f'<p class="quiet">{translate("plan.counting")}</p>', elem_classes="counted")
    with gr.Row(elem_classes="actions"):
        fastest = gr.Button(translate("plan.fastest"))
        use = gr.Button(translate("plan.use"), variant="primary")
    ranked = gr.Radio(
        label=translate("plan.ranked"),
        info=translate("plan.ranked.info"),
        choices=[],
        visible=False,
        elem_classes="ranked",
    )
    done = message_box()
    with gr.Accordion(translate("plan.waterfall"), open=False) as savings:
        falls = gr.HTML(elem_classes="counted")
    with gr.Accordion(translate("plan.explained"), open=False):
        sums = gr.HTML()
    with gr.Accordion(translate("plan.largest"), open=False) as survey:
        models = gr.HTML(elem_classes="counted")
    return SimpleNamespace(
        fields=made,
        card=card,
        context=context,
        told=told,
        figure=figure,
        fastest=fastest,
        use=use,
        ranked=ranked,
        done=done,
        savings=savings,
        falls=falls,
        sums=sums,
        survey=survey,
        models=models,
    )


def connect(page: Page, tab: SimpleNamespace) -> None:
    """The tab's listeners, once all fields of the page are there."""
    inputs = [*tab.fields.values(), tab.card, tab.context]

    def forecast(*values):
        try:
            asked = _asked(page, tab, values)
            found = page.planner.ask(
                "forecast", settings=asked.settings, context=asked.context, capacity=asked.room, device=asked.device
            )
            figure = figures.forecast(page.translate, found, asked.room, this_machine()["bytes"])
            return figure, figures.explained(page.translate, found["explained"]), message()
        except Exception as error:
            return "", "", page.trouble(error)

    def waterfall(asked):
        return figures.waterfall(page.translate, page.planner.ask("waterfall", settings=asked.settings), asked.room)

    def largest(asked):
        train = asked.settings["train"]
        sizes = {"context": asked.context, "batch": train["batch"], "length": train["length"]}
        return figures.largest(page.translate, page.planner.ask("largest_models", **sizes), **sizes)

    gr.on(None, forecast, inputs, [tab.figure, tab.sums, tab.told], show_progress_on=tab.figure, **NEWEST)
    _answer_while_open(page, tab, waterfall, tab.savings, tab.falls, "plan.counting")
    _answer_while_open(page, tab, largest, tab.survey, tab.models, "plan.largest.waiting")
    _connect_choice(page, tab, inputs)


def _answer_while_open(
    page: Page, tab: SimpleNamespace, answer, accordion: gr.Accordion, shown: gr.HTML, waiting: str
) -> None:
    """Show `answer` in an accordion, anew with every forecast, but only while it is open: it takes longer."""
    is_open = gr.State(False)

    def show(is_open, figure, *values):
        try:
            if is_open:
                return (
                    answer(_asked(page, tab, values)) if figure else ""
                )  # what is wrong is told in the figure's place
            return gr.skip()
        except Exception as error:
            return page.trouble(error)

    inputs = [is_open, tab.figure, *tab.fields.values(), tab.card, tab.context]
    opened = accordion.expand(
        lambda: (True, f'<p class="quiet">{page.translate(waiting)}</p>'), None, [is_open, shown], **UNQUEUED
    )
    opened.then(show, inputs, shown, **DIMMED)
    accordion.collapse(lambda: False, None, is_open, **UNQUEUED)
    tab.figure.change(show, inputs, shown, **NEWEST)


def _connect_choice(page: Page, tab: SimpleNamespace, inputs: list) -> None:
    """The fastest settings that fit, taking one of them, and carrying the tab's settings over to the form."""
    taken = [
        tab.fields["load", "bits"],
        tab.fields["train", "method"],
        tab.fields["train", "gradient_checkpointing"],
        tab.fields["train", "max_tokens_per_micro_batch"],
    ]
    none = (gr.update(choices=[], value=None, visible=False), *(gr.skip() for _ in taken))

    def fastest(*values):
        yield *none, message(page.translate("plan.counting"))
        try:
            asked = _asked(page, tab, values)
            if asked.device == "cpu":
                raise problem("plan.fastest.cpu")
            found = page.planner.ask("fastest_settings", settings=asked.settings, capacity=asked.room)
        except Exception as error:
            yield *none, page.trouble(error)
            return
        if not found:
            yield *none, message(page.translate("plan.ranked.none", room_bytes=asked.room), bad=True)
            return
        choices = [
            (page.translate("plan.ranked.option", **figures.option(page.translate, option)), _written(option))
            for option in found
        ]
        yield gr.update(choices=choices, value=choices[0][1], visible=True), *_read(choices[0][1]), message()

    tab.fastest.click(fastest, inputs, [tab.ranked, *taken, tab.done], **QUIET)
    tab.ranked.input(_read, tab.ranked, taken, **UNQUEUED)
    gr.on(
        [component.input for component in inputs], lambda: message(), None, tab.done, **UNQUEUED
    )  # what is carried over is another again
    carried = [page.fields[key] for key in (*tab.fields, ("load", "simulate_gpu_gib"))]
    tab.use.click(
        lambda *values: _carried(page, *values), [*tab.fields.values(), tab.card], [*carried, tab.done], **UNQUEUED
    )


def _carried(page: Page, *values) -> tuple:
    """The tab's settings for the form, with the chosen card as the one that is pretended, and what is said of it."""
    *chosen, card = values
    size = 0 if card == THIS_MACHINE else next(one["gib"] for one in cards() if one["id"] == card)
    return *chosen, size, message(page.translate("plan.used_card", gib=size) if size else page.translate("plan.used"))


def _asked(page: Page, tab: SimpleNamespace, values) -> SimpleNamespace:
    """What is to be planned: settings as a dict, bytes of room, the device, tokens of context. Raises PlaygroundError with all problems."""
    *chosen, card, context = values
    memory, settings = memory_of(card), page.chosen(tab.fields, chosen)
    return SimpleNamespace(
        settings=settings.to_dict(), room=memory["bytes"], device=memory["device"], context=int(context)
    )


def _written(option: dict) -> str:
    """One of the fastest settings as the value of a radio button."""
    return f"{option['bits']} {option['checkpointing']} {option['tokens']}"


def _read(written: str) -> tuple[int, str, str, int]:
    """Bits, method, checkpointing and tokens of such a value; what is fastest is LoRA."""
    bits, checkpointing, tokens = written.split()
    return int(bits), "lora", checkpointing, int(tokens)


def _models() -> list[tuple[str, str]]:
    """Every bundled shape, and the models on offer that share another's."""
    others = [key for key in catalog.models() if key not in catalog.shapes()]
    return [(catalog.display_name(key), key) for key in (*catalog.shapes(), *others)]
