"""The part of the Bit widths tab on one layer: what its weights become in a format, and LoRA's matrices to scale."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from playground.errors import as_playground_error
from playground.i18n import table
from playground.lab.formats import BITS, BLOCKS, DEFAULT_BLOCK, WITH_BITS
from playground.ui import spectrum_view
from playground.ui.kept_state import with_kept
from playground.ui.page import LATEST_ONLY, Page, Update, message, message_box
from playground.ui.weight_figure import lora_figure, weight_figure

KINDS = (*WITH_BITS, "ternary", "nf4", "fp4", "nvfp4", "mxfp4", "fp8")
FIRST_LAYER = ""
KEPT = "weight.layer"  # the name under which the browser keeps the choice


@dataclass(frozen=True)
class WeightView:
    """Its components."""

    accordion: gr.Accordion
    layer: gr.Dropdown
    kind: gr.Dropdown
    bits: gr.Slider
    block: gr.Dropdown
    rank: gr.Slider
    message: gr.HTML
    weight: gr.HTML
    lora: gr.HTML
    spectrum: spectrum_view.SpectrumView

    def inputs(self) -> list:
        """What the pictures are drawn for."""
        return [self.layer, self.kind, self.bits, self.block, self.rank]


def build(page: Page) -> WeightView:
    """The components."""
    word = page.translate
    with gr.Accordion(word("weight.title"), open=False) as accordion:
        gr.Markdown(word("weight.lead"), elem_classes="lead")
        with gr.Row(elem_classes="split"):
            with gr.Column(scale=4, min_width=320):
                layer = gr.Dropdown(label=word("weight.layer"), choices=[], allow_custom_value=True)
                kind = gr.Dropdown(label=word("weight.kind"), choices=_kind_choices(page), value="int")
                bits = gr.Slider(minimum=BITS[0], maximum=BITS[-1], step=1, value=4, label=word("weight.bits"))
                block = gr.Dropdown(label=word("weight.size"), choices=list(BLOCKS), value=DEFAULT_BLOCK)
                rank = gr.Slider(minimum=1, maximum=256, step=1, value=page.start.lora.r, label=word("weight.rank"))
                box = message_box()
            with gr.Column(scale=7, min_width=320):
                weight = gr.HTML(elem_classes="counted")
                lora = gr.HTML(elem_classes="counted")
                spectrum = spectrum_view.build(page)
    return WeightView(accordion, layer, kind, bits, block, rank, box, weight, lora, spectrum)


def connect(page: Page, view: WeightView, models: gr.Dropdown) -> None:
    """Draw when it is unfolded, since what is drawn before can be lost, and again with every change.

    models: the first of them is the one that is shown.
    """

    def draw(parts: Sequence[str], kept: str, layer: str | None, models: list | None, *values: Any) -> list[Update]:
        kind, bits, block, rank = values
        try:
            asked = question(page, models, layer or kept, format_name(kind, bits, block))
            picture = page.planner.ask("weight_picture", **asked)
        except Exception as error:
            return [message(as_playground_error(error).text(page.lang), bad=True), *[gr.skip() for _ in parts]]
        cells = picture["block"]["before"]
        waits = not layer and kept not in ("", None, *picture["layers"])  # for the model that was kept beside it
        updates: dict[str, Callable[[], Update]] = {
            "layer": lambda: gr.update(choices=picture["layers"], **({} if waits else {"value": picture["layer"]})),
            "weight": lambda: weight_figure(page.translate, picture),
            "lora": lambda: lora_figure(page.translate, picture["shape"], int(rank), cells),
        }
        return [message(), *[updates[part]() for part in parts]]

    def listen(events: list, *parts: str) -> None:
        """Draw these parts alone, so that a slider's move is answered at once."""
        outputs = [view.message, *(getattr(view, part) for part in parts)]
        inputs = [gr.Textbox(visible=False), view.layer, models, *view.inputs()[1:]]
        gr.on(events, partial(draw, parts), inputs, outputs, js=with_kept(KEPT), **LATEST_ONLY, queue=False)

    listen([view.accordion.expand, models.change], "layer", "weight", "lora")
    listen([view.layer.change], "weight", "lora")
    listen([view.kind.change, view.bits.change, view.block.change], "weight")
    listen([view.rank.change], "lora")
    spectrum_view.connect(page, view.spectrum, view.accordion)


def _kind_choices(page: Page) -> list[tuple[str, str]]:
    """The kinds with their labels; those named like a product stand for themselves."""
    words = table(page.lang)
    return [(words.get(f"weight.kind.{kind}", kind), kind) for kind in KINDS]


def question(page: Page, models: list | None, layer: str | None, format: str) -> dict[str, Any]:
    """Arguments of the planner's `weight_picture`. Raises PlaygroundError for a model that the page may not name."""
    named = str((models or [page.start.load.model])[0])
    model = page.parse_fields([("load", "model")], [named]).load.model
    return {"model": model, "layer": layer or FIRST_LAYER, "format": format}


def format_name(kind: str, bits: int, block: int) -> str:
    """The format's name from the three fields; those that a kind doesn't have are left out."""
    name = f"{kind}{bits}" if kind in WITH_BITS else kind
    return f"{name}:{block}" if kind in (*WITH_BITS, "ternary", "nf4", "fp4") else name
