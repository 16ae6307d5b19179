"""What the Data tab says of a set as HTML: what it is, what was guessed, what was left out and why. All text is escaped here."""

from collections.abc import Callable, Sequence
from html import escape

from playground.data.row import Row
from playground.data.source import Preview
from playground.errors import as_playground_error
from playground.i18n import format_bytes
from playground.ui.tables import number

COLUMNS = 8  # of the records as they stand
CUT = 300  # characters of a text there


def question(row: Row) -> str:
    """What a row asks, with what was said before it, as one text for a table."""
    before = [f"{asked}\n→ {answer}" for asked, answer in row.before]
    return "\n".join(part for part in (row.system, *before, row.instruction, row.input) if part)


def about(translate: Callable, found: Preview) -> str:
    """What kind of set it is, and which column is taken for what; a guess is marked as one."""
    facts = [translate(f"rows.kind.{found.kind}")]
    if found.encoding:
        facts.append(f"{found.encoding} ({translate('rows.guess')})" if found.encoding_guessed else found.encoding)
    facts += [format_bytes(found.size)] if found.size else []
    facts += [translate("rows.records", count=number(found.total))] if found.total is not None else []
    lines = [f'<p class="quiet">{escape(" · ".join(facts))}</p>']
    if found.columns:
        guess = f' <em class="pill">{escape(translate("rows.guess"))}</em>'
        items = (
            f"<li>{escape(translate(f'rows.part.{part}'))} ← <code>{escape(name)}</code>{guess if part in found.columns.guessed else ''}</li>"
            for part, name in found.columns.names.items()
        )
        lines.append(f'<ul class="columns">{"".join(items)}</ul>')
    return f'<section class="plan rows">{"".join(lines)}</section>'


def raw(translate: Callable, found: Preview) -> dict:
    """The first records as they stand, as a table's value."""
    names = found.found[:COLUMNS]
    data = [
        [str(count), *(_cut(record.get(name, "")) for name in names)]
        for count, record in zip(found.numbers, found.records)
    ]
    return {"headers": [translate("rows.head.number"), *names], "data": data}


def counted(translate: Callable, found: dict) -> str:
    """How many rows are learned and held out, and what was left out, by reason, with the numbers of the first ones."""
    lines = [
        f"<p><b>{escape(translate('rows.counted', train=number(found['train']), held_out=number(found['held_out']), total=number(found['total'])))}</b></p>"
    ]
    if found["dropped"]:
        items = []
        for reason, count in found["dropped"].items():
            where = found["where"].get(reason, [])
            at = (
                f" <small>({escape(translate('rows.where', rows=[*map(str, where), *(['…'] if count > len(where) else [])]))})</small>"
                if where
                else ""
            )
            items.append(f"<li>{escape(translate(f'dropped.{reason}'))}: <b>{number(count)}</b>{at}</li>")
        lines.append(f"<p>{escape(translate('rows.dropped'))}</p><ul class='dropped'>{''.join(items)}</ul>")
    lines += [
        f'<p class="small">{escape(translate(note["key"], **note["values"]))}</p>'
        for note in found["notes"]
        if note["key"] != "note.dropped"
    ]
    return f'<section class="plan rows">{"".join(lines)}</section>'


def remote(translate: Callable, name: str) -> str:
    """A set on a hub, which is asked only when somebody says so."""
    return _quiet(translate("rows.remote", source=name))


def progress(translate: Callable, how: Sequence | None) -> str:
    """How far a long question is: (done, total, unit), or None before that is known."""
    if how is None:
        return _quiet(translate("rows.looking"))
    done, total, unit = how
    share = done / total if total else 0
    what = (
        translate("rows.reading", done=format_bytes(done), total=format_bytes(total))
        if unit == "bytes"
        else translate("rows.counting", done=number(int(done)), total=number(int(total)))
    )
    return f'{_quiet(what)}<progress class="far" max="1" value="{share:.3f}"></progress>'


def stopped(translate: Callable, lang: str, error: Exception) -> str:
    """What went wrong, or that it was stopped: an error without a problem says so."""
    found = as_playground_error(error)
    text = found.text(lang)
    if not text:
        return _quiet(translate("rows.stopped"))
    if [problem.key for problem in found.problems] == [
        "error.tokenizer_absent"
    ]:  # as it is at first, and nobody's mistake
        return _quiet(text)
    lines = "".join(f"<p>{escape(line)}</p>" for line in text.split("\n"))
    return f'<div class="told bad" role="status">{lines}</div>'


def _quiet(text: str) -> str:
    return f'<p class="quiet">{escape(text)}</p>'


def _cut(text: str) -> str:
    return text if len(text) <= CUT else text[:CUT] + "…"
