"""A row's tokens as HTML: what is trained on, only read, or cut off. Looks stand in assets/tokens.css; all text is escaped here.

A row may hold anything, so nothing of it reaches the page as it is: what can't be seen is shown as a mark, and every
token is isolated, so that no right-to-left text and no direction control reorders what stands around it.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import groupby

from playground.ui.tables import number, table

STATES = ("trained", "masked", "truncated")
KINDS = ("template", "content", "answer", "end", "special")
MARKS = {"\n": "↵", "\r": "␍", "\t": "⇥", " ": "·", "\u00a0": "⍽", "\u3000": "□"}


def draw(translate: Callable, found: dict) -> str:
    """What `xray` of preview.py found: what becomes of the row, the legend with counts, the tokens, characters a token."""
    tokens = "".join(
        _run(translate, state, list(group))
        for state, group in groupby(found["tokens"], key=lambda token: token["state"])
    )
    more = (
        f'<p class="small">{escape(translate("xray.more", count=number(found["more"])))}</p>' if found["more"] else ""
    )
    encoder = f'<p class="small">{escape(translate("xray.encoder"))}</p>' if found["encoder"] else ""
    return (
        f'<section class="plan xray"><p>{_about(translate, found)} {_end(translate, found)}</p>{encoder}{_legend(translate, found)}'
        f'<div class="tokens" role="group" aria-label="{escape(translate("xray.tokens"))}">{tokens}</div>{more}{_rates(translate, found)}</section>'
    )


def visible(text: str) -> str:
    """Any text as HTML in which every character can be seen, and none does anything."""
    return "".join(_seen(char, at) for at, char in enumerate(text))


def _seen(char: str, at: int) -> str:
    kind = unicodedata.category(char)
    if char in MARKS:
        return f'<i class="m">{MARKS[char]}</i>' + {"\n": "\n", " ": "<wbr>"}.get(char, "")
    if kind in ("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"):
        return f'<i class="m u">U+{ord(char):04X}</i>'
    if kind[0] == "M" and not at:
        return f"◌{char}"  # what would sit on the character before it, which is another token's
    return escape(char)


def _run(translate: Callable, state: str, tokens: Sequence[dict]) -> str:
    """Neighbours of one state, which is said once for those who only hear the page."""
    return f'<span class="run {state}"><span class="said">{escape(translate(f"xray.state.{state}"))}: </span>{"".join(_grouped(translate, tokens))}</span>'


def _grouped(translate: Callable, tokens: Sequence[dict]) -> Iterator[str]:
    """Each token, those that share characters as one."""
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
    told = [
        translate(f"xray.kind.{first['kind']}"),
        translate(f"xray.state.{first['state']}"),
        translate("xray.ids", ids=[token["id"] for token in group]),
    ]
    if first["was"] is not None:
        told.append(translate("xray.was", was=first["was"]))
    pieces = (
        f"<sub>{count}</sub>"
        if count == first["parts"] > 1
        else f"<sub>{count}/{first['parts']}</sub>"
        if count < first["parts"]
        else ""
    )
    changed = " changed" if first["was"] is not None else ""
    title = _named(" · ".join(told))
    return f'<bdi dir="ltr" class="t {first["kind"]}{changed}" title="{title}">{visible(first["text"])}{pieces}</bdi>'


def _named(text: str) -> str:
    """The same for an attribute, where there is no markup: what can't be seen is named."""
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return "".join(f"U+{ord(char):04X}" if unicodedata.category(char) in hidden else escape(char) for char in text)


def _about(translate: Callable, found: dict) -> str:
    counts = {name: number(found[name]) for name in ("kept", "total", "length")}
    row = translate("xray.row", number=number(found["number"])) if found.get("number") else ""
    return escape(f"{row} {translate('xray.about', template=found['template'], **counts)}".strip())


def _end(translate: Callable, found: dict) -> str:
    key, look = (
        ("left_out", "no") if found["left_out"] else ("there", "fits") if found["end"] == "there" else ("cut", "no")
    )
    return f'<b class="verdict {look}">{escape(translate(f"xray.end.{key}"))}</b>'


def _legend(translate: Callable, found: dict) -> str:
    """Every look with its name and how many tokens have it."""
    rows = [(f"run {state}", "t", translate(f"xray.state.{state}"), found["states"][state]) for state in STATES]
    rows += [
        ("run", f"t {kind}", translate(f"xray.kind.{kind}"), found["kinds"][kind]) for kind in ("template", "special")
    ]
    items = "".join(
        f'<li><span class="{run}"><span class="{look}">abc</span></span> {escape(name)} <b>{count:,}</b></li>'
        for run, look, name, count in rows
    )
    several = any(token["parts"] > 1 for token in found["tokens"])
    changed = any(token["was"] is not None for token in found["tokens"])
    items += (
        f"<li><span class=run><span class=t>{escape(translate('xray.character'))}<sub>3</sub></span></span> {escape(translate('xray.pieces'))}</li>"
        if several
        else ""
    )
    items += (
        f'<li><span class=run><span class="t changed">abc</span></span> {escape(translate("xray.changed"))}</li>'
        if changed
        else ""
    )
    return f'<ul class="legend">{items}</ul>'


def _rates(translate: Callable, found: dict) -> str:
    rows = [
        [translate(f"xray.kind.{kind}"), number(found["kinds"][kind]), f"{found['rates'][kind]:.2f}"]
        for kind in KINDS
        if kind in found["rates"]
    ]
    if "all" in found["rates"]:
        rows.append(
            [
                translate("xray.all"),
                number(sum(found["kinds"][kind] for kind in found["rates"] if kind != "all")),
                f"{found['rates']['all']:.2f}",
            ]
        )
    return table([translate("xray.part"), translate("xray.count"), translate("xray.rate")], rows)
