"""Filters over the models on offer, and what is to be known of the one that is picked."""

from collections.abc import Callable
from html import escape
from types import SimpleNamespace

import gradio as gr

from playground import catalog
from playground.catalog import filters
from playground.ui.page import UNQUEUED, Page, card_choices, memory_of

ANY = ""


def build(page: Page) -> SimpleNamespace:
    """The filters, and the line that says what they leave."""
    translate, shown = page.translate, {"min_width": 130}
    with gr.Row():
        language = gr.Dropdown(
            label=translate("catalog.language"),
            choices=[(translate(f"catalog.language.{code or 'any'}"), code) for code in (ANY, "ja", "en")],
            value=ANY,
            **shown,
        )
        size = gr.Dropdown(
            label=translate("catalog.size"),
            choices=[(translate(f"catalog.size.{name or 'any'}"), name) for name in (ANY, *filters.SIZES)],
            value=ANY,
            **shown,
        )
        card = gr.Dropdown(
            label=translate("catalog.card"),
            choices=[(translate("catalog.card.any"), ANY), *card_choices(page)],
            value=ANY,
            **shown,
        )
    left = gr.Markdown(_left(page, choices(page)), elem_classes="quiet")
    return SimpleNamespace(language=language, size=size, card=card, left=left)


def connect(page: Page, filters: SimpleNamespace, model: gr.Dropdown) -> None:
    """Have the model's choices follow the filters; what is picked already stays picked."""

    def follow(language, size, card):
        found = choices(page, language, size, card)
        return gr.update(choices=found), _left(page, found)

    asked = [filters.language, filters.size, filters.card]
    gr.on([one.input for one in asked], follow, asked, [model, filters.left], **UNQUEUED)


def choices(page: Page, language: str = ANY, size: str = ANY, card: str = ANY) -> list[tuple[str, str]]:
    """The models that the filters leave, as a dropdown's choices."""
    memory = memory_of(card) if card else {"bytes": 0, "device": "cuda"}
    found = filters.matching_models(language, size, memory["bytes"], memory["device"])
    return [(_marked(page, name), name) for name in found]


def about(page: Page, model: str) -> str:
    """What is to be known of a model of the catalog, and its terms where it has some of its own."""
    entry = catalog.models().get(model)
    if entry is None:
        return ""
    lines = [
        "".join(
            f'<p class="facts">{line}</p>' for line in _lines(page.translate, filters.model_facts(model, page.lang))
        )
    ]
    if entry.get("terms"):
        lines.append(
            page.translate("load.terms", model=entry["name"], terms=entry["terms"]["name"], url=entry["terms"]["url"])
        )
    return "\n\n".join(lines)


def _marked(page: Page, model: str) -> str:
    """A model's name, with marks where it is one of the talk's or needs no hub."""
    mark = page.translate("catalog.mark") + " " if catalog.models()[model]["talk"] else ""
    return (
        mark
        + catalog.display_name(model)
        + (f" · {page.translate('load.offline')}" if model in catalog.offline_models() else "")
    )


def _lines(translate: Callable, told: dict) -> list[str]:
    languages = translate("catalog.and").join(translate(f"catalog.language.{code}") for code in told["languages"])
    what = [
        translate("catalog.family", family=told["family"]),
        translate("catalog.parameters", parameters=f"{told['parameters']:,}"),
        languages,
        translate("catalog.instruct" if told["instruct"] else "catalog.base"),
        *([translate(f"catalog.template.{told['template']}")] if told["template"] else []),
        translate("load.licence", licence=told["licence"]),
        translate("catalog.gated" if told["gated"] else "catalog.open"),
        *([translate("catalog.offline")] if told["offline"] else []),
    ]
    cards = {
        kind: translate("catalog.from", gib=gib) if gib else translate("catalog.none")
        for kind, gib in told["card"].items()
    }
    fits = translate(
        "catalog.fits",
        **cards,
        chat_bytes=told["memory"]["cuda"]["chat"],
        tune_bytes=told["memory"]["cuda"]["tune"],
        cpu_bytes=max(told["memory"]["cpu"].values()),
    )
    return [
        f"<b>{escape(told['for'])}</b>",
        escape(" · ".join(what)),
        escape(fits),
        escape(translate("catalog.targets", targets=told["targets"])),
    ]


def _left(page: Page, found: list) -> str:
    return (
        page.translate("catalog.left", count=len(found), all=len(catalog.models()))
        if found
        else page.translate("catalog.nothing")
    )
