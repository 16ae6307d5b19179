"""Draw a result card as SVG, 1200 × 630, with nothing from outside: no fonts, no images, no network.

Text is broken into lines by estimated widths, since nothing here can measure a font: a wide character is one em, any
other a little more than half of one.
"""

import unicodedata
from collections.abc import Callable
from functools import partial
from html import escape

from playground.i18n import LANGUAGES, format_bytes, translate
from playground.json_values import without_controls
from playground.share.card import Card, Memory

WIDTH, HEIGHT, MARGIN = 1200, 630, 48
SANS = "system-ui, -apple-system, 'Segoe UI', 'Hiragino Sans', 'Noto Sans CJK JP', 'Noto Sans JP', sans-serif"
MONO = "ui-monospace, 'Cascadia Mono', Menlo, Consolas, monospace"
JOINERS = " \u200d\ufe0f"  # join or change the emoji beside them: a line that is cut must not end in one
MONO_WIDTH = 0.61  # em, of a character in any of these fonts
# As the page's figures have them (assets/figures.css); a test compares the two.
COLORS = {
    "weights": "#0072b2",
    "quant_constants": "#56b4e9",
    "adapters": "#e69f00",
    "gradients": "#009e73",
    "optimizer": "#cc79a7",
    "activations": "#d55e00",
    "loss": "#7b5bb5",
    "kv_cache": "#c2a500",
    "buffers": "#9aa0aa",
}
REST = "#9aa0aa"
SIZES, LEADING = (30, 25, 21), 1.32  # font sizes of the answers, the largest one that fits; line height in em
INK, QUIET, BLUE, GREEN, LINE = "#172033", "#4b5768", "#0b5cad", "#007a5a", "#d3dae4"


def card_svg(card: Card, lang: str) -> str:
    """The card as one SVG element."""
    word = partial(translate, lang)
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#f8fafc"/><rect width="12" height="{HEIGHT}" fill="{BLUE}"/>',
        *_header(card, word),
        *_answers(card, word),
        *_memory(card, word),
        *_footer(card, word),
    ]
    label = _escaped(word("card.label", model=card.model, bits=card.bits))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        f' role="img" aria-label="{label}" font-family="{SANS}">{"".join(parts)}</svg>'
    )


def card_page(card: Card, lang: str) -> str:
    """The card as a whole HTML page that can be opened anywhere."""
    title = _escaped(translate(lang, "card.label", model=card.model, bits=card.bits))
    return (
        f'<!doctype html>\n<html lang="{lang}"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>body { margin: 0; } svg { display: block; width: 100%; max-width: 1200px; height: auto; }</style>\n"
        f"{card_svg(card, lang)}\n</html>\n"
    )


def lines_of(text: str, width: float, most: int, narrow: float = 0.0) -> list[str]:
    """Break a text into at most `most` lines of `width` em; what doesn't fit ends in an ellipsis.

    narrow: as of `text_width`.
    """
    measure = partial(text_width, narrow=narrow)
    lines, line, rest = [], "", _words(" ".join(text.split()))
    while rest:
        piece = rest.pop(0)
        if measure(line + piece) <= width:
            line += piece
        elif line.strip():
            lines.append(line.strip())
            line = ""
            rest.insert(0, piece.lstrip())
        else:  # one word is longer than a line
            count = next(n for n in range(len(piece), 0, -1) if n == 1 or measure(piece[:n]) <= width)
            lines.append(piece[:count])
            rest[:0] = [piece[count:]] if piece[count:] else []
    lines += [line.strip()] if line.strip() else []
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and measure(last + "…") > width:
        last = last[:-1]
    return [*lines[: most - 1], last.rstrip(JOINERS) + "…"]


def text_width(text: str, narrow: float = 0.0) -> float:
    """The estimated width of a text in em. narrow: of every character that isn't wide, in a monospaced font."""
    return sum(_character_width(character, narrow) for character in text)


def _character_width(character: str, narrow: float) -> float:
    if unicodedata.east_asian_width(character) in "WFA":  # A: ambiguous, such as U+FFFD, which most fonts draw wide
        return 1.0
    return narrow or (0.33 if character in " .,:;'il|!" else 0.62)


def _words(text: str) -> list[str]:
    """Pieces between which a line may end: words with the blank before them, and wide characters one by one."""
    pieces = [""]
    for character in text:
        wide = unicodedata.east_asian_width(character) in "WF"
        if character == " " or (wide and not _ends_a_word(character)):
            pieces.append(character)
        else:
            pieces[-1] += character
    return [piece for piece in pieces if piece]


def _ends_a_word(character: str) -> bool:
    """Whether no line may begin with this character: punctuation, and marks that lengthen a vowel."""
    return unicodedata.category(character) in ("Po", "Pe", "Pf", "Lm")


def _text(x: float, y: float, text: str, size: int, color: str = INK, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}" {more}>{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    """A text as XML has it; control characters, which a model may answer with, are in none."""
    return escape(without_controls(text))


def _block(x: float, y: float, lines: list[str], size: int, color: str = INK, more: str = "") -> list[str]:
    return [_text(x, y + number * size * LEADING, line, size, color, more) for number, line in enumerate(lines)]


def _header(card: Card, word: Callable) -> list[str]:
    method = word("card.full") if card.method == "full" else word("card.lora", r=card.r)
    name = word("card.name", model=card.model, bits=card.bits)
    mark = word("runs.recorded", date=card.recorded) if card.recorded else ""
    parts = (mark, method, card.data, card.hardware, _duration(card.seconds, word))
    about = " · ".join(part for part in parts if part)
    [first] = lines_of(name, (WIDTH - 2 * MARGIN) / 38, 1) or [""]
    [second] = lines_of(about, (WIDTH - 2 * MARGIN) / 22, 1) or [""]
    bold = 'font-weight="700"'
    return [_text(MARGIN, 72, first, 38, INK, bold), _text(MARGIN, 108, second, 22, QUIET)]


def _answers(card: Card, word: Callable) -> list[str]:
    inner, top = WIDTH - 2 * MARGIN, 136
    if card.exchange is None:
        lines = lines_of(word("card.no_answers"), inner / 24, 3)
        return _block(MARGIN, top + 60, lines, 24, QUIET)
    question = lines_of(card.exchange.question, inner / 27, 2)
    drawn = _block(MARGIN, top + 32, question, 27, BLUE, 'font-weight="600"')
    box_top = top + 14 + len(question) * 36
    height, gap = 408 - box_top, 24
    width = (inner - gap) / 2
    sides = (("card.base", card.exchange.base, QUIET), ("card.tuned", card.exchange.tuned, GREEN))
    size = next(size for size in SIZES if size == SIZES[-1] or _fits(sides, size, width - 44, height - 58))
    for number, (key, answer, color) in enumerate(sides):
        x = MARGIN + number * (width + gap)
        lines = lines_of(answer or word("card.empty"), (width - 44) / size, int((height - 58) / (size * LEADING)))
        drawn += [
            f'<rect x="{x:g}" y="{box_top}" width="{width:g}" height="{height}" rx="10" fill="#fff" stroke="{LINE}"/>',
            f'<rect x="{x:g}" y="{box_top}" width="6" height="{height}" rx="3" fill="{color}"/>',
            _text(x + 22, box_top + 32, word(key), 18, color, 'font-weight="700"'),
            # In an element that clips: a font can be wider than estimated.
            f'<svg x="{x:g}" y="{box_top}" width="{width:g}" height="{height}">',
            *_block(22, 44 + size, lines, size),
            "</svg>",
        ]
    return drawn


def _fits(sides: tuple, size: int, width: float, height: float) -> bool:
    """Whether both answers fit at this font size."""
    return all(len(lines_of(answer, width / size, 99)) * size * LEADING <= height for _, answer, _ in sides)


def _memory(card: Card, word: Callable) -> list[str]:
    rows = [(key, m) for key, m in (("card.predicted", card.predicted), ("card.measured", card.measured)) if m]
    if not rows:
        return [_text(MARGIN, 462, word("card.no_memory"), 20, QUIET)]
    most, left, room = max(memory.total for _, memory in rows), MARGIN + 190, 500
    drawn = [
        '<defs><pattern id="hatch" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="3" height="8" fill="#fff" fill-opacity=".4"/></pattern></defs>'
    ]
    for number, (key, memory) in enumerate(rows):
        y = 430 + number * 40
        drawn.append(_text(MARGIN, y + 21, word(key), 19, QUIET))
        x = float(left)
        for part, size in _shares(memory):
            width = room * size / most
            drawn.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="28" fill="{COLORS.get(part, REST)}"/>')
            x += width
        if key == "card.predicted":
            drawn.append(f'<rect x="{left}" y="{y}" width="{x - left:.1f}" height="28" fill="url(#hatch)"/>')
        drawn.append(_text(x + 10, y + 21, format_bytes(memory.total), 19, INK, 'font-weight="600"'))
    return drawn + _legend(rows, word)


def _shares(memory: Memory) -> list[tuple[str, int]]:
    """(part, bytes) in the colors' order; the last one is what belongs to no part."""
    known = [(part, memory.parts[part]) for part in COLORS if part in memory.parts]
    return [*known, ("rest", max(0, memory.total - sum(size for _, size in known)))]


def _legend(rows: list, word: Callable) -> list[str]:
    """The parts that are large enough to be seen, under the bars."""
    largest: dict[str, float] = {}
    for _, memory in rows:
        for part, size in _shares(memory):
            largest[part] = max(largest.get(part, 0), size / max(1, memory.total))
    drawn, x = [], float(MARGIN + 190)
    for part in (part for part, share in largest.items() if share > 0.02):
        name = word("card.rest" if part == "rest" else f"chart.part.{part}")
        width = 22 + text_width(name) * 16 + 16
        if x + width > WIDTH - MARGIN:
            break
        drawn.append(f'<rect x="{x:.1f}" y="513" width="14" height="14" rx="3" fill="{COLORS.get(part, REST)}"/>')
        drawn.append(_text(round(x + 20, 1), 526, name, 16, QUIET))
        x += width
    return drawn


def _footer(card: Card, word: Callable) -> list[str]:
    drawn = []
    if card.loss:
        before, after = (f"{value:.2f}" for value in card.loss)
        right = 'text-anchor="end" font-weight="700"'
        drawn += [
            _text(WIDTH - MARGIN, 452, f"{before} → {after}", 30, INK, right),
            _text(WIDTH - MARGIN, 478, word("card.loss"), 17, QUIET, 'text-anchor="end"'),
        ]
    languages = [language for language in LANGUAGES if language in card.forgetting]
    if languages:
        rises = [word(f"card.forgetting.{name}", change=_signed(card.forgetting[name])) for name in languages]
        text = word("card.forgetting", changes=" · ".join(rises))
        drawn.append(_text(WIDTH - MARGIN, 501, text, 14, QUIET, 'text-anchor="end"'))
    command = lines_of(card.command, (WIDTH - 2 * MARGIN - 32) / 18, 2, MONO_WIDTH)
    drawn.append(f'<rect x="{MARGIN}" y="544" width="{WIDTH - 2 * MARGIN}" height="62" rx="8" fill="{INK}"/>')
    first = 582 if len(command) == 1 else 569
    mono = f'font-family="{MONO}"'
    return drawn + _block(MARGIN + 16, first, command, 18, "#eef2f8", mono)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _duration(seconds: float, word: Callable) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return word("card.hours", hours=minutes // 60, minutes=minutes % 60)
    return word("card.minutes", minutes=minutes, seconds=rest) if minutes else word("card.seconds", seconds=rest)
