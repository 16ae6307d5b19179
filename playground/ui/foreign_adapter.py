"""The Compare tab's field for an adapter from elsewhere: a folder or hub id, checked and added to the choices."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from playground.data.allowed_names import forbidden_adapter
from playground.errors import PlaygroundError, problem
from playground.settings import raise_all
from playground.ui.page import LATEST_ONLY, Page, message

MAX_KNOWN = 200  # adapters whose base models a page remembers


def build(page: Page) -> gr.Textbox:
    """The field; its button is in it."""
    where = "private" if page.private else "public"
    return gr.Textbox(
        label=page.translate("chat.elsewhere"),
        info=page.translate(f"chat.elsewhere.{where}"),
        placeholder="owner/name",
        submit_btn=page.translate("chat.elsewhere.check"),
        max_lines=1,
        min_width=260,
        elem_id="elsewhere",
    )


def is_foreign(adapter: str | None) -> bool:
    """Whether the choice is an adapter from elsewhere: its folder or hub id has slashes, the id of a run has none.

    A list whose choices are just being replaced has none.
    """
    return adapter is not None and ("/" in adapter or "\\" in adapter)


def foreign_name(adapter: str) -> str:
    """A hub id as it is; of a path the last part."""
    return adapter if _is_hub_id(adapter) else re.split(r"[/\\]", adapter.rstrip("/\\"))[-1]


def check_allowed(page: Page, adapter: str) -> None:
    """Raise PlaygroundError for an adapter that this page may not name: on a public page, a path."""
    if not page.private:
        raise_all(forbidden_adapter(adapter))


def base_of(page: Page, adapter: str) -> str:
    """The base model that an adapter from elsewhere names; "" where that isn't here, or the adapter can't be read.

    The browser keeps the choice for longer than the program knows the adapter: then it is looked at once more.
    """
    if adapter not in page.foreign_bases:
        try:
            check_allowed(page, adapter)
            _remember(page, adapter, page.planner.ask("describe_adapter", adapter=adapter, model="")["base"])
        except PlaygroundError:  # a question to it ends with that error
            _remember(page, adapter, "")
    return page.foreign_bases.get(adapter, "")


def _remember(page: Page, adapter: str, base: str) -> None:
    if len(page.foreign_bases) > MAX_KNOWN:
        page.foreign_bases.clear()
    page.foreign_bases[adapter] = base


def connect(page: Page, field: gr.Textbox, adapter: gr.Dropdown, box: gr.HTML, choices: Any) -> None:
    """Check what was typed and choose it. choices: of the list, with a selected one (adapter_choice.py)."""

    def choose(typed: str, model: str) -> Iterator[tuple]:
        yield gr.skip(), message(page.translate("chat.elsewhere.checking"))
        try:
            name = _normalized(page, typed)
            model = page.parse_fields([("load", "model")], [model]).load.model if model else ""
            facts = page.planner.ask("describe_adapter", adapter=name, model=model)
            _remember(page, name, facts["base"])
            yield gr.update(choices=choices(name), value=name), _facts_message(page, facts)
        except Exception as error:
            yield gr.skip(), page.error_message(error)

    field.submit(choose, [field, page.fields["load", "model"]], [adapter, box], **LATEST_ONLY)


def _normalized(page: Page, typed: str) -> str:
    """What was typed as the choice's value. Raises PlaygroundError for nothing, and for what this page may not name."""
    name = (typed or "").strip().strip("\"'")
    if not name:
        raise problem("chat.elsewhere.empty")
    check_allowed(page, name)
    is_folder = page.private and Path(name).expanduser().is_dir()
    return str(Path(name).expanduser().resolve()) if is_folder or not _is_hub_id(name) else name


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", name, re.ASCII) is not None


def _facts_message(page: Page, facts: dict) -> Any:
    """What the adapter is, and that it fits, or why not."""
    lines = [page.translate("chat.elsewhere.facts", **{name: facts[name] for name in ("trained_on", "r", "layers")})]
    lines += [page.translate(note["key"], **note["values"]) for note in facts["notes"]]
    if facts["misfit"]:
        lines.append(PlaygroundError.from_dict(facts["misfit"]).text(page.lang))
    return message("\n".join(lines), bad=bool(facts["misfit"]))
