"""Updates of a generator are sent whole: works around a fault of Gradio (6.31).

Gradio sends the first of a generator's values whole, and of each later one how it differs. The browser changes the
value before it in its place, even one that it has not shown yet: those that come before the answer to the call itself,
as on a slow connection or a busy machine, are all taken in together. So where an update (`gr.update(...)`) is followed
by one with fewer keys (`gr.skip()`), the first was lost: a notice stayed that should have gone.
"""

from typing import Any

import gradio as gr


def send_whole_updates(app: gr.Blocks) -> None:
    """Replace each value that is no text by the next one instead of changing it. Text is appended to, as ever."""
    differences = app.handle_streaming_diffs

    def whole_or_appended(block_fn: Any, data: list, *args: Any, **named: Any) -> list:
        values = list(data)  # which Gradio overwrites
        sent = differences(block_fn, data, *args, **named)
        return [_whole(edits, value) for edits, value in zip(sent, values)] if not named["final"] else sent

    app.handle_streaming_diffs = whole_or_appended  # type: ignore[method-assign]


def _whole(edits: Any, value: Any) -> Any:
    """One edit that replaces the whole value where `edits` would change parts of it; else `edits` as they are."""
    if edits is value or not isinstance(edits, list) or not any(path for _, path, _ in edits):
        return edits
    return [["replace", [], value]]
