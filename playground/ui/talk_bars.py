"""Bars of a talk step's figure, and the mark that says where its numbers are from. All text is escaped here."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Bar:
    """A bar of that size, its name, and its number as text. mark: a size marked on it, or 0; failed: hatched."""

    name: str
    size: float
    text: str
    mark: float = 0.0
    failed: bool = False


def badge(text: str) -> str:
    """A mark that says where figures are from."""
    return f'<p class="source"><em>{escape(text)}</em></p>'


def bars(listed: Sequence[Bar], line: float = 0.0, line_label: str = "") -> str:
    """The bars, to one scale; line: a size that is marked across all of them."""
    largest = max(line, *(max(bar.size, bar.mark) for bar in listed))

    def at(size: float) -> str:
        return f"{100 * size / largest:.2f}%"

    across = f'<u style="left:{at(line)}"></u>' if line else ""
    drawn = "".join(
        f'<li class="{"failed" if bar.failed else ""}"><span>{escape(bar.name)}</span><div>{across}'
        f'<i style="width:{at(bar.size)}"></i>{f"<s style=left:{at(bar.mark)}></s>" if bar.mark else ""}</div>'
        f"<b>{escape(bar.text)}</b></li>"
        for bar in listed
    )
    label = f'<p class="line-label">▏{escape(line_label)}</p>' if line_label else ""
    return f'<ol class="talk-bars">{drawn}</ol>{label}'
