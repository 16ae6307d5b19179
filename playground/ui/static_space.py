"""The page as plain files, for a static Space: recordings in the live view, and stored predictions.

`python app.py --static-space DIR` writes it. No server, engine or network: everything is in the folder, and its pages
open from a disk too. What is shown was recorded or predicted before, and says so.
"""

import json
import shutil
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from string import Template

from playground import ASSETS, catalog
from playground.catalog.cards import cards, smallest_card
from playground.i18n import LANGUAGES, format_bytes, translate
from playground.planning.client import read_stored_answers
from playground.runs import recordings
from playground.runs.thinning import thin_memory
from playground.share.files import write_whole
from playground.ui import memory_figures, plan_figures, several_figures
from playground.ui.live_view import MAX_MEMORY_EVENTS, PLOTLY, SCRIPTS, TEMPLATE, view_words, with_text
from playground.ui.recordings_view import describe
from playground.ui.theme import theme

SOURCES = ASSETS / "static_space"
STYLES = (ASSETS / "figures.css", ASSETS / "plan_tab.css", SOURCES / "page.css")
THEME = (  # what the stylesheets take from Gradio's theme
    "body_background_fill",
    "body_text_color",
    "block_background_fill",
    "border_color_primary",
    "color_accent",
    "input_border_color",
    "link_text_color",
)
BEYOND_ALL_CARDS = 2**60  # bytes of "this machine", which a page of files doesn't have


def write_static_space(folder: Path, first: str = "en") -> list[str]:
    """Write the pages of both languages and what they need; return the names of the files.

    first: the language of index.html. Files of the same names are replaced. Raises OSError where nothing can be
    written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"README.md": (SOURCES / "README.md").read_text(encoding="utf-8")}
    texts["page.css"] = _theme_css() + "\n".join(path.read_text(encoding="utf-8") for path in STYLES)
    texts["page.css"] += f"\n.live-view {{\n{(ASSETS / 'live_view.css').read_text(encoding='utf-8')}\n}}\n"
    texts["page.js"] = _script()
    for lang in LANGUAGES:
        texts[f"data.{lang}.js"] = f"window.playgroundData = {_for_script(_data(lang))};\n"
        texts[_page_name(lang, first)] = _page(lang, first)
    for name, text in texts.items():
        write_whole(folder / name, text)
    shutil.copyfile(PLOTLY, folder / PLOTLY.name)
    return sorted([*texts, PLOTLY.name])


def _page_name(lang: str, first: str) -> str:
    return "index.html" if lang == first else f"{lang}.html"


def _page(lang: str, first: str) -> str:
    """The document of one language."""
    word = partial(translate, lang)
    other = next(code for code in LANGUAGES if code != lang)
    choices = "".join(
        f'<option value="{escape(name)}"{" selected" if name == f"demo-{lang}" else ""}>'
        f"{escape(describe(lang, name))}</option>"
        for name in recordings.names()
    )
    keys = ("title", "lead", "other")
    texts = {key: escape(word(f"app.{key}")) for key in keys} | {
        key: escape(word(f"static.{key}"))
        for key in ("note", "recorded", "recorded_lead", "plan", "models", "models_lead", "filter", "any", "largest")
    }
    return Template((SOURCES / "page.html").read_text(encoding="utf-8")).substitute(
        texts,
        lang=lang,
        other_lang=other,
        other_page=_page_name(other, first),
        plotly=PLOTLY.name,
        choices=choices,
        live=TEMPLATE,
        forecast=_forecast(word),
        sizes="".join(f'<option value="{card["bytes"]}">{escape(_card_name(word, card))}</option>' for card in cards()),
        table=_models_table(word),
        largest_table=_largest(word),
    )


def _forecast(word: Callable) -> str:
    """The plan that the Plan tab opens with: its forecast, its parts, and what each saving brings."""
    first, answers = catalog.first_plan(), _answers()
    capacity = next(card["bytes"] for card in cards() if card["id"] == first["card"])
    prediction = answers["forecast"]["answer"]
    return (
        memory_figures.forecast(word, prediction, capacity, BEYOND_ALL_CARDS)
        + memory_figures.parts_table(word, prediction["phases"])
        + plan_figures.waterfall(word, answers["waterfall"]["answer"], capacity)
    )


def _largest(word: Callable) -> str:
    stored, setups = (_answers()[name] for name in ("largest_models", "largest_for_setups"))
    of_cards = plan_figures.largest_models(word, stored["answer"], **stored["arguments"])
    return of_cards + several_figures.setups(word, setups["answer"], **setups["arguments"])


def _answers() -> dict[str, dict]:
    return {entry["id"]: entry for entry in read_stored_answers()}


def _models_table(word: Callable) -> str:
    """Each model of the catalog at 4 bits on a GPU: chat and fine-tune as bars, and the smallest GPU for both."""
    needs = {model: catalog.requirements()[entry["shape"]]["cuda"] for model, entry in catalog.models().items()}
    largest = max(max(need.values()) for need in needs.values())
    heads = "".join(f"<th scope=col>{escape(word(f'static.head.{key}'))}</th>" for key in ("model", "need", "card"))
    order = sorted(needs, key=lambda model: (needs[model]["tune"], model))
    rows = "".join(_model_row(word, model, needs[model], largest) for model in order)
    return f'<table class="models"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _model_row(word: Callable, model: str, need: dict[str, int], largest: int) -> str:
    entry = catalog.models()[model]
    languages = word("catalog.and").join(word(f"catalog.language.{code}") for code in entry["languages"])
    facts = " · ".join([word("catalog.parameters", parameters=entry["parameters"]), languages, entry["licence"]])
    bars = "".join(
        f'<p class="{job}"><span>{escape(word(f"static.{job}"))}</span>'
        f'<i style="width:{100 * need[job] / largest:.2f}%"></i><b>{escape(format_bytes(need[job]))}</b></p>'
        for job in ("chat", "tune")
    )
    most = max(need.values())
    card = smallest_card(most)
    name = _card_name(word, card) if card else word("plan.largest.none")
    return (
        f'<tr data-need="{most}"><th scope=row>{escape(entry["name"])}<small>{escape(facts)}</small></th>'
        f"<td>{bars}</td><td>{escape(name)}</td></tr>"
    )


def _card_name(word: Callable, card: dict) -> str:
    return word("plan.card_name", gib=card["gib"], name=card["name"])


def _data(lang: str) -> dict:
    """What the live view's scripts ask a server for: its words, and the events of every recording."""
    events = {name: recordings.read_recording(name) for name in recordings.names()}
    played = {
        name: [with_text(event, lang) for event in thin_memory(found, MAX_MEMORY_EVENTS)]
        for name, found in events.items()
    }
    return {"lang": lang, "words": view_words(lang), "recordings": played, "first": f"demo-{lang}"}


def _for_script(value: dict) -> str:
    """A value as JavaScript that can't end the script element that it stands in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")


def _script() -> str:
    """The live view's scripts as one function, as Gradio calls them, and what calls it here."""
    scripts = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    start = (SOURCES / "page.js").read_text(encoding="utf-8")
    return f"function liveView(element, props, trigger, server, upload, watch) {{\n{scripts}\n}}\n\n{start}"


def _theme_css() -> str:
    """The theme's values as variables, in light and dark; a value may name another, such as "*neutral_50"."""
    look = theme()
    rules = []
    for selector, suffix in ((":root", ""), (".dark", "_dark")):
        values = {name: getattr(look, name + suffix, None) or getattr(look, name) for name in THEME}
        resolved = [(name, getattr(look, value[1:]) if value[0] == "*" else value) for name, value in values.items()]
        lines = "".join(f"  --{name.replace('_', '-')}: {value};\n" for name, value in resolved)
        rules.append(f"{selector} {{\n{lines}}}\n")
    return "".join(rules)
