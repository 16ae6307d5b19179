"""What a page keeps over a reload and a switch of language: the open tab, changed fields, and the unsent question.

The browser keeps it (assets/kept_state.js), as long as its tab is open. Fields that still have the page's start value
aren't kept: each language starts with its demo. Components that hold a secret must not be given.
"""

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from playground import ASSETS

HEAD = f"<script>{(ASSETS / 'kept_state.js').read_text(encoding='utf-8')}</script>"
_PRIVATE: Any = {"api_visibility": "private"}


def keep_fields(app: gr.Blocks, components: Mapping[str, Any]) -> None:
    """Keep the values of these components. components: by a name that is the same on every page."""
    listed = list(components.values())
    names, start = _json(list(components)), _json([component.value for component in listed])
    save = f"(...values) => {{ keptState.save({names}, {start}, values); }}"
    app.load(None, listed, listed, js=f"(...values) => keptState.restore({names}, values)", **_PRIVATE)
    gr.on([component.change for component in listed], None, listed, None, js=save, **_PRIVATE)


def keep_tab(app: gr.Blocks, tabs: gr.Tabs, headers: Mapping[str, gr.Tab]) -> None:
    """Keep which tab is open, and name it in `<body data-tab>` for the stylesheet. headers: by the tab's id."""
    for name, header in headers.items():
        header.select(None, None, None, js=f"() => {{ keptState.open({_json(name)}); }}", **_PRIVATE)
    app.load(None, None, tabs, js=f"() => keptState.reopen({_json(list(headers))})", **_PRIVATE)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
