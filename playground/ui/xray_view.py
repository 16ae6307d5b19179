"""A row's tokens as HTML: trained on, only read, or cut off. Styles are in assets/tokens.css; all text is escaped here.

A row may contain any text, so none of it reaches the page unchanged: invisible characters are shown as marks, and every
token is isolated, so that right-to-left text and direction controls can't reorder their surroundings.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import groupby

from playground.ui.tables import number

STATES = ("trained", "masked", "truncated")
KINDS = ("template", "content", "answer", "end", "special")
MARKS = {"\n": "↵", "\r": "␍", "\t": "⇥", " ": "·", "\u00a0": "⍽", "\u3000": "□"}


def draw(translate: Callable, xray: dict) -> str:
    """The answer of planning/rows.py's `xray`: a summary, a legend of states, the tokens, and a legend of parts.

    The counts of either legend add up to the summary's.
    """
    tokens = "".join(
        _run(translate, state, list(group))
        for state, group in groupby(xray["tokens"], key=lambda token: token["state"])
    )
    more = _small(translate("xray.more", count=number(xray["more"]))) if xray["more"] else ""
    encoder = _small(translate("xray.encoder")) if xray["encoder"] else ""
    notes = "".join(_small(translate(note["key"], **note["values"])) for note in xray.get("notes", ()))
    label = escape(translate("xray.tokens"))
    return (
        f'<section class="plan xray"><p>{_about(translate, xray)} {_end(translate, xray)}</p>'
        f"{notes}{encoder}{_legend(translate, xray)}"
        f'<div class="tokens" role="region" tabindex="0" aria-label="{label}">{tokens}</div>{more}'
        f"{_parts(translate, xray)}</section>"
    )


def _small(text: str) -> str:
    return f'<p class="small">{escape(text)}</p>'


def visible(text: str) -> str:
    """Any text as HTML in which every character is visible, and none has an effect.

    A blank stays itself, so that a screen reader reads words and a copy is the text; CSS draws its mark over it.
    """
    return "".join(_visible_character(char, index) for index, char in enumerate(text))


def _visible_character(char: str, index: int) -> str:
    kind = unicodedata.category(char)
    if char in MARKS:
        blank = " " if char == "\r" else char  # a parser of HTML would make a line break of it
        return f'<i class="m" data-mark="{MARKS[char]}">{blank}</i>' + ("<wbr>" if char == " " else "")
    if kind in ("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"):
        return f'<i class="m u">U+{ord(char):04X}</i>'
    if kind[0] == "M" and not index:
        return f"◌{char}"  # a combining mark would sit on the last character of the token before
    return escape(char)


def _run(translate: Callable, state: str, tokens: Sequence[dict]) -> str:
    """Neighboring tokens of one state, which is named once for screen readers."""
    name = f'<span class="screen-reader">{escape(translate(f"xray.state.{state}"))}: </span>'
    return f'<span class="run {state}">{name}{"".join(_grouped(translate, tokens))}</span>'


def _grouped(translate: Callable, tokens: Sequence[dict]) -> Iterator[str]:
    """The HTML of each token; tokens that share a character are drawn as one."""
    group: list[dict] = []
    for token in tokens:
        if group and token["part"] != group[-1]["part"] + 1:
            yield _token(translate, group)
            group = []
        group.append(token)
    if group:
        yield _token(translate, group)


def _token(translate: Callable, group: Sequence[dict]) -> str:
    first, count = group[0], len(group)
    facts = [
        translate(f"xray.kind.{first['kind']}"),
        translate(f"xray.state.{first['state']}"),
        translate("xray.ids", ids=[token["id"] for token in group]),
    ]
    if first["was"] is not None:
        facts.append(translate("xray.was", was=first["was"]))
    pieces = ""  # into how many tokens the character was split, and how many of them are in this group
    if count < first["parts"]:
        pieces = f"<sub>{count}/{first['parts']}</sub>"
    elif count == first["parts"] > 1:
        pieces = f"<sub>{count}</sub>"
    changed = " changed" if first["was"] is not None else ""
    title = _visible_attribute(" · ".join(facts))
    return f'<bdi dir="ltr" class="t {first["kind"]}{changed}" title="{title}">{visible(first["text"])}{pieces}</bdi>'


def _visible_attribute(text: str) -> str:
    """`visible` for an attribute, where there is no markup: invisible characters are shown by their code."""
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return "".join(f"U+{ord(char):04X}" if unicodedata.category(char) in hidden else escape(char) for char in text)


def _about(translate: Callable, xray: dict) -> str:
    """The row's number, and how many of its tokens are within the cutoff; the rest is cut off."""
    counts = {name: number(xray[name]) for name in ("kept", "total", "length")}
    row = translate("xray.row_number", number=number(xray["number"])) if xray.get("number") else ""
    cut = number(xray["states"]["truncated"])
    key = "xray.partly_within" if xray["states"]["truncated"] else "xray.all_within"
    template = translate("xray.template", name=xray["template"])
    turns = xray.get("turns_left_out")
    shortened = translate("xray.turns_left_out", turns=turns) if turns else ""
    return escape(f"{row} {translate(key, cut=cut, **counts)} {shortened} {template}".strip())


def _end(translate: Callable, xray: dict) -> str:
    """Whether the row's end is within the cutoff, so that it teaches when to stop."""
    key, look = "cut", "no"
    if xray["left_out"]:
        key = "left_out"
    elif xray["end"] == "there":
        key, look = "there", "fits"
    return f'<b class="verdict {look}">{escape(translate(f"xray.end.{key}"))}</b>'


def _legend(translate: Callable, xray: dict) -> str:
    """Every state with its look, its name and its tokens; and other marks, where there are any."""
    items = "".join(
        _legend_item(f"run {state}", "t", translate(f"xray.state.{state}"), xray["states"][state]) for state in STATES
    )
    if any(token["parts"] > 1 for token in xray["tokens"]):
        sample, text = escape(translate("xray.character")), escape(translate("xray.pieces"))
        mark = f'<span class="run" aria-hidden="true"><span class="t">{sample}<sub>3</sub></span></span>'
        items += f"<li>{mark} {text}</li>"
    if any(token["was"] is not None for token in xray["tokens"]):
        text = escape(translate("xray.changed"))
        items += f'<li><span class="run" aria-hidden="true"><span class="t changed">abc</span></span> {text}</li>'
    return f'<ul class="legend">{items}</ul>'


def _legend_item(run: str, look: str, name: str, count: int, more: str = "") -> str:
    sample = f'<span class="{run}" aria-hidden="true"><span class="{look}">abc</span></span>'
    return f"<li>{sample} {escape(name)} <b>{number(count)}</b>{more}</li>"


def _parts(translate: Callable, xray: dict) -> str:
    """Every part that the row has, with its look, its tokens, and the characters a token where it has text."""
    kinds, rates = xray["kinds"], xray["rates"]
    items = f"<li>{escape(translate('xray.parts'))}</li>"
    for kind in filter(kinds.get, KINDS):
        rate = f" <small>({escape(translate('xray.per_token', rate=rates[kind]))})</small>" if kind in rates else ""
        items += _legend_item("run", f"t {kind}", translate(f"xray.kind.{kind}"), kinds[kind], rate)
    return f'<ul class="legend parts">{items}</ul>'
