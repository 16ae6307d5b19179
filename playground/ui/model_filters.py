"""Filters over the catalog's models, and the facts of the chosen one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from playground import catalog
from playground.catalog import filters as catalog_filters
from playground.ui.gpu_choice import card_choices, memory_of
from playground.ui.model_choices import model_choices, model_label
from playground.ui.page import LAST_INPUT, Page

ANY = ""  # no filter


@dataclass(frozen=True)
class ModelFilters:
    """The filters, and the line that counts the models they leave."""

    language: gr.Dropdown
    size: gr.Dropdown
    card: gr.Dropdown
    count: gr.Markdown


def build(page: Page) -> ModelFilters:
    """The filters' components."""
    translate = page.translate
    languages = [(translate(f"catalog.language.{code or 'any'}"), code) for code in (ANY, "ja", "en")]
    sizes = [(translate(f"catalog.size.{name or 'any'}"), name) for name in (ANY, *catalog_filters.SIZES)]
    cards = [(translate("catalog.card.any"), ANY), *card_choices(page)]
    with gr.Accordion(translate("catalog.filter"), open=False):
        with gr.Row():
            language = gr.Dropdown(label=translate("catalog.language"), choices=languages, value=ANY, min_width=130)
            size = gr.Dropdown(label=translate("catalog.size"), choices=sizes, value=ANY, min_width=130)
            card = gr.Dropdown(label=translate("catalog.card"), choices=cards, value=ANY, min_width=130)
        count = gr.Markdown(_count(page, choices(page)), elem_classes="quiet")
    return ModelFilters(language, size, card, count)


def connect(page: Page, filters: ModelFilters, model: gr.Dropdown, header: gr.Tab) -> None:
    """Update the model's choices with the filters, and as the tab opens: they may be kept from an earlier page.

    A model that is chosen already stays chosen, as a last choice by its name, and the count says that it is outside.
    """

    def update_choices(chosen: str, language: str, size: str, card: str) -> tuple:
        matching = choices(page, language, size, card)
        outside = chosen in catalog.models() and chosen not in dict(matching).values()
        count = _count(page, matching)
        if outside:
            label = model_label(page, chosen)
            matching.append((f"{label} · {page.translate('catalog.outside.mark')}", chosen))
            count += "\n\n" + page.translate("catalog.outside", model=label)
        return gr.update(choices=matching), count

    narrowing = [filters.language, filters.size, filters.card]
    events = [header.select, model.change, *(one.input for one in narrowing)]
    gr.on(events, update_choices, [model, *narrowing], [model, filters.count], **LAST_INPUT)


def choices(page: Page, language: str = ANY, size: str = ANY, card: str = ANY) -> list[tuple[str, str]]:
    """The models that match the filters, as a dropdown's choices."""
    memory: dict[str, Any] = memory_of(card) if card else {"bytes": 0, "device": "cuda"}
    return model_choices(page, catalog_filters.matching_models(language, size, memory["bytes"], memory["device"]))


def about(page: Page, model: str) -> str:
    """The facts of a catalog model as Markdown, with its terms of use where it has some; empty for any other model."""
    entry = catalog.models().get(model)
    if entry is None:
        return ""
    facts = _facts(page.translate, catalog_filters.model_facts(model, page.lang))
    blocks = ["".join(f'<p class="facts">{line}</p>' for line in facts)]
    if entry.get("terms"):
        terms = entry["terms"]
        blocks.append(page.translate("load.terms", model=entry["name"], terms=terms["name"], url=terms["url"]))
    return "\n\n".join(blocks)


def _facts(translate: Callable, facts: dict) -> list[str]:
    """Lines of HTML: who a model is for, what it is, where it fits, and the layers that LoRA adapts."""
    languages = translate("catalog.and").join(translate(f"catalog.language.{code}") for code in facts["languages"])
    kind = [
        translate("catalog.family", family=facts["family"]),
        translate("catalog.parameters", parameters=facts["parameters"]),
        languages,
        translate("catalog.instruct" if facts["instruct"] else "catalog.base"),
        *([translate(f"catalog.template.{facts['template']}")] if facts["template"] else []),
        translate("load.licence", licence=facts["licence"]),
        translate("catalog.gated" if facts["gated"] else "catalog.open"),
        *([translate("catalog.offline")] if facts["offline"] else []),
    ]
    cards = {
        job: translate("catalog.from", gib=gib) if gib else translate("catalog.none")
        for job, gib in facts["card"].items()
    }
    fits = translate(
        "catalog.fits",
        **cards,
        chat_bytes=facts["memory"]["cuda"]["chat"],
        tune_bytes=facts["memory"]["cuda"]["tune"],
        cpu_bytes=max(facts["memory"]["cpu"].values()),
    )
    targets = translate("catalog.targets", targets=facts["targets"])
    return [f"<b>{escape(facts['for'])}</b>", escape(" · ".join(kind)), escape(fits), escape(targets)]


def _count(page: Page, matching: Sequence) -> str:
    if not matching:
        return page.translate("catalog.nothing")
    return page.translate("catalog.left", count=len(matching), all=len(catalog.models()))
