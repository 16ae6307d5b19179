"""What a page keeps over a reload and a switch of language: the open tab, accordions, changed fields, the question.

The browser keeps it (assets/kept_state.js), as long as its tab is open. Fields that still have the page's start value
aren't kept: each language starts with its demo. Components that hold a secret must not be given. What is played, and
where the talk is, their own scripts keep (assets/live_view.js, assets/talk.js).
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


def name_accordions(app: gr.Blocks) -> None:
    """Give the accordions of the page that is being built the ids under which the browser keeps which are open.

    Pages in other languages make the same ones in the same order, and so get the same ids.
    """
    on_page = [block for block in app.blocks.values() if block.page == app.current_page]
    folds = [block for block in on_page if isinstance(block, gr.Accordion)]
    for number, accordion in enumerate(folds):
        accordion.elem_id = f"fold-{number}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
