"""What stands over the Compare tab's columns: which model answers in each, and whether the form has another one."""

import gradio as gr

from playground import catalog, runs
from playground.errors import PlaygroundError
from playground.ui.foreign_adapter import base_of, foreign_name, is_foreign
from playground.ui.page import Page, message
from playground.ui.run_names import data_and_date


def head_texts(page: Page, adapter: str, model: str, bits: int, service: bool) -> dict[str, str]:
    """Which model answers in each column. model, bits: the form's, which answer where there is no adapter."""
    key, trained_on = "chat.badge_none", ""
    if is_foreign(adapter):
        key, trained_on = "chat.badge_elsewhere", foreign_name(adapter)
    elif adapter:
        try:
            settings = runs.find(page.root, adapter).settings()
            model, bits = settings.load.model, settings.load.bits
            key = "chat.badge_weights" if settings.train.method == "full" else "chat.badge_adapter"
            trained_on = data_and_date(page.lang, runs.summary(page.root, adapter))
        except PlaygroundError:
            adapter = ""  # deleted meanwhile; the next refresh selects another
    values = {"model": catalog.display_name(model or ""), "bits": bits or "auto"}
    texts = {
        "base": page.translate("chat.badge_base", **values),
        "tuned": page.translate(key, trained_on=trained_on, **values),
    }
    return texts | ({"service": page.translate("chat.badge_service")} if service and page.private else {})


def notice_updates(page: Page, adapter: str, model: str) -> tuple:
    """The notice, and its buttons: there is no adapter, or it is another model's than the form's."""
    hidden, visible = gr.update(visible=False), gr.update(visible=True)
    if not adapter:
        return message(with_tab(page, "chat.no_adapter")), hidden, visible
    try:
        own = own_model(page, adapter) or model
    except PlaygroundError as error:
        return page.error_message(error), hidden, hidden
    if own == model:
        return message(), hidden, hidden
    names = {"model": catalog.display_name(own), "form_model": catalog.display_name(model or "")}
    key = "chat.elsewhere.other_model" if is_foreign(adapter) else "chat.other_model"
    return message(page.translate(key, **names, tab=page.translate("tab.load"))), visible, hidden


def own_model(page: Page, adapter: str) -> str:
    """The model that an adapter was trained on; "" where one from elsewhere names none that is here."""
    if is_foreign(adapter):
        return base_of(page, adapter)
    return runs.find(page.root, adapter).settings().load.model


def with_tab(page: Page, key: str) -> str:
    """A text that names the Fine-tune tab."""
    return page.translate(key, tab=page.translate("tab.tune"))
