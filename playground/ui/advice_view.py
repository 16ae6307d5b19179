"""Advice on a fine-tune's settings as HTML: a line for each, with links to the sources that it rests on."""

from collections.abc import Sequence
from html import escape
from typing import Any

from playground.i18n import format_large, translate

SOURCES = {
    "qlora": ("QLoRA, 2305.14314", "https://arxiv.org/abs/2305.14314"),
    "without_regret": ("LoRA Without Regret, 2025", "https://thinkingmachines.ai/blog/lora/"),
    "rslora": ("rsLoRA, 2312.03732", "https://arxiv.org/abs/2312.03732"),
    "capacity": ("Allen-Zhu & Li, 2404.05405", "https://arxiv.org/abs/2404.05405"),
}
LARGE = ("room", "tokens", "needed")  # counts, besides those that `translate` knows


def advice_html(advice: Sequence[dict[str, Any]], lang: str) -> str:
    """The list, or "" without advice. advice: of the planner's `tune_summary`."""
    lines = "".join(_line(item, lang) for item in advice)
    return f'<ul class="advice">{lines}</ul>' if lines else ""


def _line(item: dict[str, Any], lang: str) -> str:
    values = {name: format_large(lang, value) if name in LARGE else value for name, value in item["values"].items()}
    links = " · ".join(
        f'<a href="{url}" target="_blank" rel="noopener noreferrer">{escape(name)}</a>'
        for name, url in (SOURCES[source] for source in item["sources"])
    )
    mark = ' class="warns"' if item["warns"] else ""
    return f"<li{mark}>{escape(translate(lang, item['key'], **values))} <small>{links}</small></li>"
