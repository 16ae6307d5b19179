"""The part of the Bit widths tab on a trained adapter: how much of its rank r was used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

import gradio as gr

from playground.errors import as_playground_error
from playground.ui.adapter_choice import adapter_choices
from playground.ui.kept_state import with_kept
from playground.ui.page import LATEST_ONLY, Page, Update, message
from playground.ui.weight_figure import number_cells

WIDTH, HEIGHT, MARGIN = 760, 150, 30
KEPT = "spectrum.adapter"  # the name under which the browser keeps the choice
CELLS_HEIGHT = 86  # of the numbers of A and B


@dataclass(frozen=True)
class SpectrumView:
    """Its components."""

    adapter: gr.Dropdown
    figure: gr.HTML


def build(page: Page) -> SpectrumView:
    """The components."""
    adapter = gr.Dropdown(label=page.translate("spectrum.adapter"), choices=[])
    return SpectrumView(adapter, gr.HTML(elem_classes="counted"))


def connect(page: Page, view: SpectrumView, accordion: gr.Accordion) -> None:
    """List the adapters as the accordion is unfolded, the newest chosen, and draw the chosen one's."""

    def draw(kept: str, adapter: str | None) -> tuple[Update, Update]:
        choices = adapter_choices(page)[:-1]  # without "none"
        ids = [run for _, run in choices]
        chosen = next((run for run in (adapter, kept, *ids) if run in ids), None)
        shown = gr.update(choices=choices, value=chosen)
        if chosen is None:
            return shown, message(page.translate("spectrum.none"))
        try:
            spectrum = page.planner.ask("adapter_spectrum", root=str(page.root), run=chosen)
        except Exception as error:
            return shown, message(as_playground_error(error).text(page.lang), bad=True)
        return shown, spectrum_figure(page.translate, spectrum)

    inputs, outputs = [gr.Textbox(visible=False), view.adapter], [view.adapter, view.figure]
    gr.on([accordion.expand, view.adapter.input], draw, inputs, outputs, js=with_kept(KEPT), **LATEST_ONLY)


def spectrum_figure(translate: Callable, spectrum: Mapping) -> str:
    """The mean share of the squared change in each direction as bars. spectrum: of the planner's `adapter_spectrum`."""
    least, median, most = spectrum["needed"]
    values = {"r": spectrum["r"], "layers": spectrum["layers"], "median": median, "least": least, "most": most}
    text = translate("spectrum.used", **values)
    step = (WIDTH - 2 * MARGIN) / spectrum["r"]
    largest = max(spectrum["shares"]) or 1
    bars = "".join(
        f'<rect class="{"a" if number < median else "w"}" x="{MARGIN + number * step:.1f}" width="{step * 0.8:.1f}"'
        f' y="{HEIGHT - 24 - (HEIGHT - 34) * share / largest:.1f}" height="{(HEIGHT - 34) * share / largest:.1f}">'
        f"<title>{number + 1}: {share:.1%}</title></rect>"
        for number, share in enumerate(spectrum["shares"])
    )
    axis = f'<text x="{MARGIN}" y="{HEIGHT - 6}">1</text>' + (
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 6}" text-anchor="end">r = {spectrum["r"]}</text>'
    )
    return (
        f'<figure class="lab lora"><p><b>{escape(text)}</b></p><p class="small">{escape(translate("spectrum.bars"))}'
        f'</p><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(text)}">{bars}{axis}</svg>'
        f"{_numbers(translate, spectrum['numbers'])}</figure>"
    )


def _numbers(translate: Callable, numbers: Mapping) -> str:
    """The first trained numbers of a layer's A and B, each to be read where it is pointed at."""
    text = translate("spectrum.numbers", layer=numbers["layer"])
    drawn = number_cells(numbers["a"], MARGIN, 4, "A") + number_cells(numbers["b"], MARGIN + 180, 4, "B")
    return (
        f'<p class="small">{escape(text)}</p><svg viewBox="0 0 {WIDTH} {CELLS_HEIGHT}" role="img"'
        f' aria-label="{escape(text)}">{drawn}</svg>'
    )
