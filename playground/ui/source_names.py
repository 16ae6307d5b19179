"""Names of data sets on the page: the catalog's by their titles, an uploaded file by its name, never by its path."""

from typing import Any

import gradio as gr

from playground import catalog
from playground.data.source import short_name
from playground.i18n import data_name
from playground.ui.access import was_uploaded
from playground.ui.page import Page


def source_name(page: Page, source: str) -> str:
    """A data set's name for people: a file without its folders, pasted rows in words; an id stays as it is."""
    return data_name(page.lang, short_name(source))


def source_choices(page: Page, source: str) -> list[tuple[str, str]]:
    """The choices of the data set's field: the catalog's, and `source` if it was uploaded or pasted."""
    listed = [(page.translate(entry["name"]), key) for key, entry in catalog.data_sets().items()]
    return [*listed, (source_name(page, source), source)] if was_uploaded(source) else listed


def source_update(page: Page, source: str) -> Any:
    """An update of the data set's field to `source`, under its name."""
    return gr.update(choices=source_choices(page, source), value=source)
