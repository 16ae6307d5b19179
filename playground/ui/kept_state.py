"""What a page keeps over a reload and a switch of language: the open tab, accordions, changed fields, the question.

The browser keeps it (assets/kept_state.js), as long as its tab is open. Fields that still have the page's start value
aren't kept: each language starts with its demo. Components that hold a secret must not be given. What is played, where
the talk is, the ticked runs and the conversation their own scripts keep (assets/live_view.js, talk.js, runs_table.js,
compare.js).
"""

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from playground import ASSETS

HEAD = f"<script>{(ASSETS / 'kept_state.js').read_text(encoding='utf-8')}</script>"
_PRIVATE: Any = {"api_visibility": "private"}


def keep_fields(app: gr.Blocks, components: Mapping[str, Any], lists: Mapping[str, Any]) -> None:
    """Keep the values of these components. components, lists: by a name that is the same on every page.

    lists: those whose choices aren't known yet as the page opens, so that whoever fills them chooses again what was
    kept: `with_kept`.
    """
    fields = list(components.values())
    listed = [*fields, *lists.values()]
    names, start = [*components, *lists], _json([component.value for component in listed])
    save = f"(...values) => {{ keptState.save({_json(names)}, {start}, values, {len(lists)}); }}"
    restore = f"(...values) => keptState.restore({_json(list(components))}, values)"
    app.load(None, fields, fields, js=restore, **_PRIVATE)
    gr.on([component.change for component in listed], None, listed, None, js=save, **_PRIVATE)


def with_kept(name: str) -> str:
    """JavaScript for a listener that fills a list: its inputs are a hidden text, the list, and any others.

    The text becomes what was kept of the list under this name, until something is chosen in it; then "".
    """
    return f"(_, value, ...others) => [keptState.chosen({_json(name)}, value), value, ...others]"


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
