"""Translate words keys: every text that a person reads, in Japanese and in English, from `assets/words/<lang>.json`.

Each table is one flat object. Some placeholders have types: `*_bytes` is bytes, written in GiB; `part`, `job` and
`memory` are names in the chart's keys, written as the chart labels them; `dropped` is {reason: count}. A
placeholder with two forms agrees with its number: "{count} {count:row/rows}" is "1 row" or "2 rows".
"""

import json
from functools import cache
from string import Formatter
from typing import Any

from playground import ASSETS

LANGUAGES = ("en", "ja")


class _PluralFormatter(Formatter):
    """`str.format`, with a singular and a plural form as a format: {count:row/rows}."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if "/" not in format_spec:
            return super().format_field(value, format_spec)
        singular, plural = format_spec.split("/")
        return singular if str(value) == "1" else plural


_FORMATTER = _PluralFormatter()


@cache
def table(lang: str) -> dict[str, str]:
    """The whole words table of one language ("en" or "ja")."""
    return json.loads((ASSETS / "words" / f"{lang}.json").read_text(encoding="utf-8"))


def translate(lang: str, key: str, **values: Any) -> str:
    """The text of `key` in `lang`, its placeholders filled in from `values`. Raises KeyError for an unknown key."""
    formatted = {name: _format_value(lang, name, value) for name, value in values.items()}
    return _FORMATTER.vformat(table(lang)[key], (), formatted)


def format_bytes(size: int | None) -> str:
    """Bytes as text: in GiB, or in MiB below a tenth of one; "–" for None."""
    if size is None:
        return "–"
    return f"{size / 2**30:.2f} GiB" if abs(size) >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def _format_value(lang: str, name: str, value: Any) -> Any:
    if name.endswith("_bytes"):
        return format_bytes(value)
    if name in ("part", "job", "memory"):
        return table(lang).get(f"chart.{name}.{value}", value)
    if name == "dropped":
        value = [f"{table(lang)[f'dropped.{reason}']} {count}" for reason, count in value.items()]
    if isinstance(value, (list, tuple)):
        return table(lang)["catalog.and"].join(str(item) for item in value)
    return value
