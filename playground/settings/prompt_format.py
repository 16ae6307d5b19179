"""Templates as texts with {names} in them: read once, looked at for what is wrong, filled in for each turn."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from string import Formatter

NAMES = ("system", "instruction", "input", "answer")
OPTIONAL = ("system", "input")
Part = tuple[str, str]  # "template" or "content", and its text


@dataclass(frozen=True)
class PromptFormat:
    """What stands before the answer, line by line, each of (text, name or None) pieces; and what closes the answer."""

    lines: tuple[tuple[tuple[str, str | None], ...], ...]
    closing: str

    @property
    def names(self) -> set[str]:
        return {name for line in self.lines for _, name in line if name}

    def asked(self, values: dict[str, str]) -> list[Part]:
        """The text up to where the answer begins; a line of which nothing but an absent input or system prompt is to tell goes."""
        parts: list[Part] = []
        for line in [*(line for line in self.lines[:-1] if not self._idle(line, values)), self.lines[-1]]:
            if parts:
                parts.append(("template", "\n"))
            for text, name in line:
                parts += [("template", text), ("content", values.get(name, ""))]
        return [part for part in parts if part[1]]

    def _idle(self, line, values: dict[str, str]) -> bool:
        names = {name for _, name in line if name}
        return bool(names) and names <= set(OPTIONAL) and not any(values.get(name) for name in names)


@cache
def parse_format(form: str) -> PromptFormat:
    """A form that `problems` finds nothing wrong with."""
    lines: list[list[tuple[str, str | None]]] = [[]]
    pieces = list(Formatter().parse(form))
    end = next(n for n, (_, name, _, _) in enumerate(pieces) if name == "answer")
    for text, name, _, _ in pieces[: end + 1]:
        *whole, last = text.split("\n")
        for line in whole:
            lines[-1].append((line, None))
            lines.append([])
        lines[-1].append((last, name if name != "answer" else None))
    return PromptFormat(tuple(map(tuple, lines)), "".join(text for text, *_ in pieces[end + 1 :]))


def problems(form: str) -> Iterator[tuple[str, dict]]:
    """Everything that keeps an own template from being used, as (key, values) of the words tables."""
    if not form.strip():
        yield "problem.custom_format_empty", {}
        return
    try:
        found = [
            f"{name}{'!' + how if how else ''}{':' + spec if spec else ''}"
            for _, name, spec, how in Formatter().parse(form)
            if name is not None
        ]
    except ValueError:
        yield "problem.custom_format_braces", {}
        return
    unknown = [name for name in dict.fromkeys(found) if name not in NAMES]
    if unknown:
        yield (
            "problem.custom_format_names",
            {"names": [f"{{{name}}}" for name in unknown], "known": [f"{{{name}}}" for name in NAMES]},
        )
    if "instruction" not in found:
        yield "problem.custom_format_no_instruction", {}
    if found.count("answer") != 1:
        yield (
            ("problem.custom_format_answers" if "answer" in found else "problem.custom_format_no_answer"),
            ({"count": found.count("answer")} if "answer" in found else {}),
        )
        return
    late = [name for name in found[found.index("answer") + 1 :] if name in NAMES]
    if late:
        yield "problem.custom_format_late", {"names": [f"{{{name}}}" for name in late]}
