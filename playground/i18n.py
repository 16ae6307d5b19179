"""The words tables: every text that a person reads, by key, in Japanese and in English.

`assets/words/<lang>.json` is one flat object. A value named `*_bytes` is written in GiB, so that
callers hand over plain bytes; `part`, `job` and `memory` are written as the chart names them, and `dropped` is {reason: count}.
"""

import json
from functools import cache

from playground import ASSETS

LANGUAGES = ("en", "ja")


@cache
def table(lang: str) -> dict[str, str]:
    """The whole words table of one language ("en" or "ja")."""
    return json.loads((ASSETS / "words" / f"{lang}.json").read_text(encoding="utf-8"))


def translate(lang: str, key: str, **values) -> str:
    """The text of `key` in `lang`, with its {names} filled in from `values`."""
    return table(lang)[key].format(**{name: _format_value(lang, name, value) for name, value in values.items()})


def format_bytes(size: int | None) -> str:
    """Bytes as a person reads them: GiB, or MiB below a tenth of one."""
    if size is None:
        return "–"
    return f"{size / 2**30:.2f} GiB" if abs(size) >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def _format_value(lang: str, name: str, value):
    if name.endswith("_bytes"):
        return format_bytes(value)
    if name in ("part", "job", "memory"):
        return table(lang).get(f"chart.{name}.{value}", value)
    if name == "dropped":
        return ", ".join(f"{table(lang)[f'dropped.{reason}']} {count}" for reason, count in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return value
