"""Translate words keys: every text that a person reads, in Japanese and in English, from `assets/words/<lang>.json`.

Each table is one flat object. Some placeholders have types: `*_bytes` is bytes, written in GiB; `parameters` and
`trainable` are counts of weights, written as "6.87 billion"; `part`, `job` and `memory` are names in the chart's keys,
written as the chart labels them; `dropped` is {reason: count}; `file`, `source` and `data` are names of data files, of
which that of a pasted text is written in words. A whole number brings its noun along where the text gives both forms:
`{rows:row|rows}` is "1 row" or "1,200 rows", `{rows:row/rows}` the noun alone.
"""

import json
import math
import re
from functools import cache
from string import Formatter
from typing import Any

from playground import ASSETS
from playground.json_values import valid_text

LANGUAGES = ("en", "ja")
PASTED = re.compile(r"pasted-[0-9a-f]{12}\.\w+")


@cache
def table(lang: str) -> dict[str, str]:
    """The whole words table of one language ("en" or "ja")."""
    return json.loads((ASSETS / "words" / f"{lang}.json").read_text(encoding="utf-8"))


def translate(lang: str, key: str, **values: Any) -> str:
    """The text of `key` in `lang`, its placeholders filled in from `values`. Raises KeyError for an unknown key."""
    formatted = {name: _format_value(lang, name, value) for name, value in values.items()}
    return valid_text(_FORMATTER.vformat(table(lang)[key], (), formatted))


def format_bytes(size: int | None) -> str:
    """Bytes as text: in GiB, or in MiB below a tenth of one; "–" for None."""
    if size is None:
        return "–"
    return f"{size / 2**30:.2f} GiB" if abs(size) >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def format_duration(seconds: float) -> str:
    """Seconds as m:ss, from an hour on as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def format_large(lang: str, count: int) -> str:
    """A count in at most three digits and the language's word for their power of ten: "6.87 billion", "135 million"."""
    for scale in table(lang)["number.scales"].split(", "):
        power, name = scale.split(" ")
        number = count / 10 ** int(power)
        if number >= 1:
            digits = f"{number:,.{max(0, 2 - int(math.log10(number)))}f}"
            return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits} {name}"
    return f"{count:,}"


class _Formatter(Formatter):
    """`str.format`, where a format of two forms is a noun that agrees with its count."""

    def format_field(self, value: Any, format_spec: str) -> str:
        """`row|rows`: the count and its noun; `row/rows`: the noun alone."""
        mark = next((mark for mark in "|/" if mark in format_spec), None)
        if mark is None:
            return super().format_field(value, format_spec)
        singular, plural = format_spec.split(mark)
        noun = singular if str(value) == "1" else plural
        if mark == "/":
            return noun
        return f"{value:,} {noun}" if isinstance(value, int) else f"{value} {noun}"


_FORMATTER = _Formatter()


def data_name(lang: str, name: str) -> str:
    """A data file's name as people read it: the name itself, or that the rows were pasted."""
    return table(lang)["rows.pasted"] if PASTED.fullmatch(name) else name


def dropped_text(lang: str, reason: str) -> str:
    """Why rows were left out, in words. A reason may name its cause behind a colon: "role:narrator"."""
    key, _, name = reason.partition(":")
    return translate(lang, f"dropped.{key}", name=name)


def pasted_name(digest: str, suffix: str) -> str:
    """The file name of a pasted text, by which it is known as one. digest: of its bytes, in hexadecimal."""
    return f"pasted-{digest[:12]}.{suffix}"


def _format_value(lang: str, name: str, value: Any) -> Any:
    if name.endswith("_bytes"):
        return format_bytes(value)
    if name in ("parameters", "trainable"):
        return format_large(lang, value)
    if name in ("file", "source", "data"):
        return data_name(lang, str(value))
    if name in ("part", "job", "memory"):
        return table(lang).get(f"chart.{name}.{value}", value)
    if name == "dropped":
        value = [f"{dropped_text(lang, reason)} {count}" for reason, count in value.items()]
    if isinstance(value, (list, tuple)):
        return table(lang)["catalog.and"].join(str(item) for item in value)
    return value
