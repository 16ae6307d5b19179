"""A custom prompt format: text with {names} in it, checked, parsed once, and filled in for each turn."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from string import Formatter

NAMES = ("system", "instruction", "input", "answer")
OPTIONAL = ("system", "input")  # a line that names only these is left out where a row has none of them
Part = tuple[str, str]  # "template" or "content", and its text
Piece = tuple[str, str | None]  # text, and the name whose value follows it


@dataclass(frozen=True)
class PromptFormat:
    """The lines up to the answer, each of pieces (text, name or None), and the text that closes the answer."""

    lines: tuple[tuple[Piece, ...], ...]
    closing: str

    @property
    def names(self) -> set[str]:
        """The names that stand before the answer."""
        return {name for line in self.lines for _, name in line if name}

    def prompt_parts(self, values: dict[str, str]) -> list[Part]:
        """The text up to where the answer begins, without lines whose optional values are all absent."""
        *before, last = self.lines
        parts: list[Part] = []
        for line in [*(line for line in before if not _is_omitted(line, values)), last]:
            if parts:
                parts.append(("template", "\n"))
            for text, name in line:
                parts += [("template", text), ("content", values.get(name, "") if name else "")]
        return [part for part in parts if part[1]]


def _is_omitted(line: tuple[Piece, ...], values: dict[str, str]) -> bool:
    names = {name for _, name in line if name}
    return bool(names) and names <= set(OPTIONAL) and not any(values.get(name) for name in names)


@cache
def parse_format(text: str) -> PromptFormat:
    """Parse a format in which `problems` finds nothing wrong."""
    lines: list[list[Piece]] = [[]]
    pieces = list(Formatter().parse(text))
    answer = next(n for n, (_, name, _, _) in enumerate(pieces) if name == "answer")
    for literal, name, _, _ in pieces[: answer + 1]:
        *ended_lines, rest = literal.split("\n")
        for line in ended_lines:
            lines[-1].append((line, None))
            lines.append([])
        lines[-1].append((rest, name if name != "answer" else None))
    closing = "".join(literal for literal, *_ in pieces[answer + 1 :])
    return PromptFormat(tuple(map(tuple, lines)), closing)


def problems(text: str) -> Iterator[tuple[str, dict]]:
    """Everything that keeps a custom format from being used, as (key, values) of the words tables."""
    if not text.strip():
        yield "problem.custom_format_empty", {}
        return
    try:
        names = [
            name + ("!" + conversion if conversion else "") + (":" + spec if spec else "")
            for _, name, spec, conversion in Formatter().parse(text)
            if name is not None
        ]
    except ValueError:
        yield "problem.custom_format_braces", {}
        return
    unknown = [name for name in dict.fromkeys(names) if name not in NAMES]
    if unknown:
        yield "problem.custom_format_names", {"names": _in_braces(unknown), "known": _in_braces(NAMES)}
    if "instruction" not in names:
        yield "problem.custom_format_no_instruction", {}
    if "answer" not in names:
        yield "problem.custom_format_no_answer", {}
    elif names.count("answer") > 1:
        yield "problem.custom_format_answers", {"count": names.count("answer")}
    elif late := [name for name in names[names.index("answer") + 1 :] if name in NAMES]:
        yield "problem.custom_format_late", {"names": _in_braces(late)}


def _in_braces(names: tuple[str, ...] | list[str]) -> list[str]:
    return [f"{{{name}}}" for name in names]
