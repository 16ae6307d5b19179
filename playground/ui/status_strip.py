"""The strip under the header, on every tab: what is loaded, which data, what runs, memory; Stop and Unload.

The live view reads the run's events and announces its state as the document event `playground-state`; the strip draws
that, so both always say the same.
"""

from dataclasses import dataclass

import gradio as gr

from playground import ASSETS
from playground.i18n import table
from playground.ui.page import QUIET, UNQUEUED, Page, Update, message, message_box

TEMPLATE = """
<dl class="strip">
  <div class="model"><dt></dt><dd><b></b> <span></span></dd></div>
  <div class="data"><dt></dt><dd><b></b> <span></span></dd></div>
  <div class="run"><dt></dt><dd><b></b> <span></span><i class="gauge"><i></i></i></dd></div>
  <div class="memory"><dt></dt><dd><b></b> <span></span><i class="gauge"><i></i></i></dd></div>
</dl>
"""


@dataclass(frozen=True)
class StatusStrip:
    """The strip's components. `view` has the property `data`: JSON text of {"name", "rows"}, both as they are shown."""

    view: gr.HTML
    stop: gr.Button
    unload: gr.Button
    message: gr.HTML


def build(page: Page) -> StatusStrip:
    """The strip's components."""
    words = {key.removeprefix("strip."): text for key, text in table(page.lang).items() if key.startswith("strip.")}
    with gr.Row(elem_classes="status"):
        view = gr.HTML(
            html_template=TEMPLATE,
            css_template=(ASSETS / "status_strip.css").read_text(encoding="utf-8"),
            js_on_load=(ASSETS / "status_strip.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            words=words,
            data="",
            lang=page.lang,
        )
        stop = gr.Button(page.translate("strip.stop"), interactive=False, size="sm", min_width=90, elem_id="stop")
        unload = gr.Button(page.translate("strip.unload"), interactive=False, size="sm", min_width=90, elem_id="unload")
    return StatusStrip(view, stop, unload, message_box())


def connect(page: Page, strip: StatusStrip) -> None:
    """Attach the buttons' listeners."""

    def stop() -> Update:
        page.engine.stop()
        return gr.update(value=page.translate("strip.stopping"), interactive=False)

    def unload() -> tuple[Update, Update]:
        try:
            page.engine.unload()
        except Exception as error:
            return page.error_message(error), gr.skip()
        return message(page.translate("load.released")), gr.update(interactive=False)

    strip.stop.click(stop, None, strip.stop, **UNQUEUED)
    strip.unload.click(unload, None, [strip.message, strip.unload], **QUIET)


def button_updates(page: Page) -> tuple[Update, Update]:
    """Updates of Stop and Unload to the engine's state."""
    engine = page.engine
    label = page.translate("strip.stopping" if engine.stopping else "strip.stop")
    stop = gr.update(value=label, interactive=engine.state == "busy" and not engine.stopping)
    return stop, gr.update(interactive=engine.loaded is not None)
