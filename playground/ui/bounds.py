"""Numbers beyond a component's bounds, which can be typed beside a slider, are refused in the page's words.

Gradio (6.31) refuses them in English and without the component's name.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from gradio.components.number import Number

from playground.errors import problem


def setting_slider(**options: Any) -> gr.Slider:
    """A slider of a setting: any number reaches the listener, since the settings' own checks name what is wrong."""
    slider = gr.Slider(**options)  # no class of our own: Gradio writes a file for each beside its source
    slider.preprocess = partial(_rounded, slider)  # type: ignore[method-assign]
    return slider


def refuse_in_words(app: gr.Blocks) -> None:
    """Make the sliders and numbers of an app name themselves and their bound in the PlaygroundError they raise."""
    for block in app.blocks.values():
        if isinstance(block, (gr.Number, gr.Slider)) and not isinstance(block.preprocess, partial):
            block.preprocess = partial(_within_bounds, block, block.preprocess)  # type: ignore[method-assign]


def _rounded(slider: gr.Slider, payload: float) -> float:
    return Number.round_to_precision(payload, slider.precision)


def _within_bounds(block: Any, prepare: Callable, payload: Any) -> Any:
    if isinstance(payload, (int, float)):
        if block.minimum is not None and payload < block.minimum:
            raise problem("problem.least", field=block.label, value=payload, least=block.minimum)
        if block.maximum is not None and payload > block.maximum:
            raise problem("problem.most", field=block.label, value=payload, most=block.maximum)
    return prepare(payload)
