"""A column mapping as text: "instruction=Question, output=Reply"."""

import json
import re

from playground.errors import problem

FIELDS = ("instruction", "input", "output", "messages", "text", "system", "history", "category", "label")
SEPARATORS = "[,\uff0c\u3001]"  # of a mapping: ASCII, full-width and ideographic commas


def parse_mapping(mapping: str) -> dict[str, str]:
    """Parse "instruction=Question, output=Reply", or a JSON object where names contain commas, to {field: column}.

    Raises PlaygroundError.
    """
    text = mapping.strip()
    if text.startswith("{"):
        try:
            names = {str(field): str(name) for field, name in json.loads(text).items()}
        except (ValueError, RecursionError) as error:
            raise problem("error.column_form", given=text[:80], parts=FIELDS) from error
    else:
        pairs = [pair.split("=", 1) for pair in re.split(SEPARATORS, text) if pair.strip()]
        if any(len(pair) != 2 for pair in pairs):
            raise problem("error.column_form", given=text[:80], parts=FIELDS)
        names = {field.strip().lower(): name.strip() for field, name in pairs}
    if not set(names) <= set(FIELDS):
        raise problem("error.column_form", given=text[:80], parts=FIELDS)
    return names


def format_mapping(names: dict[str, str]) -> str:
    """Format {field: column} as text that `parse_mapping` reads."""
    if any(re.search(rf"{SEPARATORS}|^\s|\s$", name) for name in names.values()):
        return json.dumps(names, ensure_ascii=False)
    return ", ".join(f"{field}={name}" for field, name in names.items())
