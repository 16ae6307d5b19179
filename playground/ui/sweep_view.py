"""A sweep's results as HTML: a line for one setting or a heat map for two, and a table. Styles: assets/queue.css."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from playground.i18n import format_bytes
from playground.jobs.store import Listing
from playground.jobs.sweep import value_text
from playground.jobs.sweep_jobs import Row, best, rows
from playground.ui.page import Page

WIDTH, HEIGHT = 640, 250
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 16, 44  # margins
CELL_HEIGHT = 38
LOG_RATIO = 20  # between the largest and the smallest value, from which an axis is logarithmic
HEAD = ("loss", "facts", "peak", "speed", "state")


def sweep_html(page: Page, queue: Listing, group: str) -> str:
    """Title, progress, picture and table of one sweep, as far as it has come."""
    word, found = page.translate, rows(page.root, queue, group)
    names = list(found[0].combination)
    lowest = best(found)
    done = len([row for row in found if row.state == "done"])
    facts = [word("sweep.progress", done=done, runs=len(found))]
    if lowest and lowest.loss:
        facts.append(word("sweep.best", loss=f"{lowest.loss[1]:.3f}", combination=combination_text(lowest.combination)))
    title = word("sweep.name", settings=[_short(name) for name in names])
    lead = "".join(f"<p>{escape(fact)}</p>" for fact in facts)
    figure = sweep_figure(word, found, names, lowest)
    return (
        f'<article class="sweep"><h5>{escape(title)}</h5>{lead}{figure}{_table(page, found, names, lowest)}</article>'
    )


def combination_text(combination: dict[str, Any]) -> str:
    """ "lr 0.001, r 4"."""
    return ", ".join(f"{_short(name)} {value_text(value)}" for name, value in combination.items())


def sweep_figure(word: Callable, found: Sequence[Row], names: Sequence[str], lowest: Row | None) -> str:
    """A line (one setting) or a heat map (two); "" before the first result."""
    if not any(row.loss for row in found):
        return ""
    label = escape(word("sweep.figure", settings=[_short(name) for name in names]))
    drawn, height = (
        (_line(found, names[0], lowest), HEIGHT) if len(names) == 1 else _heat_map(word, found, names, lowest)
    )
    return (
        f'<figure><figcaption>{label}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img"'
        f' aria-label="{label}">{drawn}</svg></figure>'
    )


def _line(found: Sequence[Row], name: str, lowest: Row | None) -> str:
    """Held-out loss against the setting's value; numbers to scale, other values evenly spaced."""
    at = _positions([row.combination[name] for row in found])
    losses = [row.loss[1] for row in found if row.loss]
    low, high = min(losses), max(losses)
    points = (
        sorted(
            (LEFT + at[n] * (WIDTH - LEFT - RIGHT), _height(row.loss[1], low, high), row)
            for n, row in enumerate(found)
            if row.loss
        )
        if len(set(at)) == len(at)
        else []
    )
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" class="{"best" if row is lowest else ""}"><title>'
        f"{escape(combination_text(row.combination))}: {row.loss[1]:.3f}</title></circle>"
        for x, y, row in points
        if row.loss
    )
    ticks = "".join(
        f'<text x="{LEFT + share * (WIDTH - LEFT - RIGHT):.1f}" y="{HEIGHT - BOTTOM + 24}" text-anchor="middle">'
        f"{escape(_cut(value_text(row.combination[name])))}</text>"
        for share, row in zip(at, found)
    )
    ends = (
        [(high, _height(high, low, high)), (low, _height(low, low, high))]
        if high > low
        else [(low, _height(low, low, low))]
    )
    scale = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 12}" y="{y + 5:.1f}" text-anchor="end">{value:.3f}</text>'
        for value, y in ends
    )
    axis = f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end" class="axis">{escape(_short(name))}</text>'
    return f'{scale}<polyline points="{path}"/>{marks}{ticks}{axis}'


def _heat_map(word: Callable, found: Sequence[Row], names: Sequence[str], lowest: Row | None) -> tuple[str, int]:
    """A cell for each combination, the darker the lower its loss; one without a result says its state."""
    across = list(dict.fromkeys(value_text(row.combination[names[1]]) for row in found))
    down = list(dict.fromkeys(value_text(row.combination[names[0]]) for row in found))
    losses = [row.loss[1] for row in found if row.loss]
    low, high = min(losses), max(losses)
    left, top = 110, 30
    width = (WIDTH - left) / len(across)
    cells = "".join(
        _cell(
            word,
            row,
            left + across.index(value_text(row.combination[names[1]])) * width,
            top + down.index(value_text(row.combination[names[0]])) * CELL_HEIGHT,
            width,
            1 - (row.loss[1] - low) / (high - low or 1) if row.loss else 0.0,
            row is lowest,
        )
        for row in found
    )
    middle = CELL_HEIGHT / 2 + 5
    heads = "".join(_text(left + (n + 0.5) * width, top - 9, "middle", _cut(text)) for n, text in enumerate(across))
    heads += "".join(_text(left - 10, top + n * CELL_HEIGHT + middle, "end", _cut(text)) for n, text in enumerate(down))
    corner = _text(left - 10, top - 9, "end", f"{_short(names[0])} ↓ {_short(names[1])} →")
    return f"{cells}{heads}{corner}", top + len(down) * CELL_HEIGHT + 4


def _cell(word: Callable, row: Row, x: float, y: float, width: float, share: float, is_best: bool) -> str:
    """One cell of a heat map. share: how dark it is, 0 to 1."""
    text = f"{row.loss[1]:.3f}" if row.loss else word(f"queue.state.{row.state}")
    looks = ["cell", *(["none"] if row.loss is None else []), *(["strong"] if share > 0.55 else [])]
    looks += ["best"] if is_best else []
    rect = f'<rect x="{x + 1:.1f}" y="{y + 1}" width="{width - 2:.1f}" height="{CELL_HEIGHT - 2}"'
    label = _text(x + width / 2, y + CELL_HEIGHT / 2 + 5, "middle", text)
    return f'<g class="{" ".join(looks)}">{rect} style="--share:{share:.2f}"/>{label}</g>'


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _table(page: Page, found: Sequence[Row], names: Sequence[str], lowest: Row | None) -> str:
    word = page.translate
    shows_answers = any(row.answer for row in found)
    heads = [_short(name) for name in names] + [word(f"sweep.head.{name}") for name in HEAD]
    heads += [word("sweep.head.answer")] if shows_answers else []
    lines = []
    for row in found:
        loss = f"{row.loss[0]:.3f} → {row.loss[1]:.3f}" if row.loss else "–"
        facts = f"{row.facts[0]:.0%} → {row.facts[1]:.0%}" if row.facts else "–"
        speed = f"{row.tokens_per_s:,.0f}" if row.tokens_per_s else "–"
        cells = [loss, facts, format_bytes(row.peak), speed]
        shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        status = escape(word(f"queue.state.{row.state}"))
        link = (
            f' <button type="button" data-show="{escape(row.run)}">{escape(word("queue.show"))}</button>'
            if row.run
            else ""
        )
        answer = f'<td class="answer"><div>{escape(row.answer[:400])}</div></td>' if shows_answers else ""
        values = "".join(f"<th scope=row>{escape(_cut(value_text(value)))}</th>" for value in row.combination.values())
        look = ' class="best"' if row is lowest else ""
        lines.append(f'<tr{look}>{values}{shown}<td data-state="{row.state}">{status}{link}</td>{answer}</tr>')
    head = "".join(f"<th scope=col>{escape(text)}</th>" for text in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _positions(values: Sequence[Any]) -> list[float]:
    """Places from 0 to 1 on the axis: to scale for numbers, else one after another."""
    if len(values) < 2:
        return [0.5 for _ in values]
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return [n / (len(values) - 1) for n in range(len(values))]
    low, high = min(values), max(values)
    if low > 0 and high / low >= LOG_RATIO:
        return [(math.log(value) - math.log(low)) / (math.log(high) - math.log(low)) for value in values]
    return [(value - low) / (high - low or 1) for value in values]


def _height(loss: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - ((loss - low) / (high - low) if high > low else 0.5) * (HEIGHT - TOP - BOTTOM)


def _short(name: str) -> str:
    return name.partition(".")[2]


def _cut(text: str) -> str:
    """A value that fits an axis or a cell, as of a long path or list of names: its end tells more."""
    return text if len(text) <= 18 else f"…{text[-17:]}"
