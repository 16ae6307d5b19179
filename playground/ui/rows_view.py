"""A data set's facts as HTML: kind, guessed columns, counts, dropped rows, progress and errors. All text is escaped."""

from collections.abc import Callable, Sequence
from html import escape

from playground.data.row import Row
from playground.data.source import Preview
from playground.errors import as_playground_error
from playground.i18n import format_bytes
from playground.ui.tables import number

MAX_COLUMNS = 8  # of the raw records
MAX_CHARACTERS = 300  # of a text in the raw records


def question(row: Row) -> str:
    """A row's system prompt, earlier turns, instruction and input, as one text for a table."""
    turns = [f"{asked}\n→ {answer}" for asked, answer in row.before]
    return "\n".join(part for part in (row.system, *turns, row.instruction, row.input) if part)


def about(translate: Callable, preview: Preview) -> str:
    """The kind, encoding and size of a data set, and the column of each part of a row; guesses are marked."""
    guess = translate("rows.guess")
    facts = [translate(f"rows.kind.{preview.kind}")]
    if preview.encoding:
        facts.append(f"{preview.encoding} ({guess})" if preview.encoding_guessed else preview.encoding)
    if preview.size:
        facts.append(format_bytes(preview.size))
    if preview.total is not None:
        facts.append(translate("rows.records", count=number(preview.total)))
    lines = [_quiet(" · ".join(facts))]
    if preview.columns:
        mark = f' <em class="pill">{escape(guess)}</em>'
        items = (
            f"<li>{escape(translate(f'rows.part.{part}'))} ← <code>{escape(name)}</code>"
            f"{mark if part in preview.columns.guessed else ''}</li>"
            for part, name in preview.columns.names.items()
        )
        lines.append(f'<ul class="columns">{"".join(items)}</ul>')
    return f'<section class="plan rows">{"".join(lines)}</section>'


def raw(translate: Callable, preview: Preview) -> dict:
    """The first records unchanged, as a table's value."""
    names = preview.found[:MAX_COLUMNS]
    data = [
        [str(row_number), *(_shortened(record.get(name, "")) for name in names)]
        for row_number, record in zip(preview.numbers, preview.records)
    ]
    return {"headers": [translate("rows.head.number"), *names], "data": data}


def counts(translate: Callable, counts: dict) -> str:
    """Rows to train on and held out, dropped rows by reason with the numbers of the first ones, and notes."""
    totals = {name: number(counts[name]) for name in ("train", "held_out", "total")}
    lines = [f"<p><b>{escape(translate('rows.counted', **totals))}</b></p>"]
    if counts["dropped"]:
        items = (
            _dropped(translate, reason, count, counts["where"].get(reason, []))
            for reason, count in counts["dropped"].items()
        )
        lines.append(f"<p>{escape(translate('rows.dropped'))}</p><ul class='dropped'>{''.join(items)}</ul>")
    notes = (note for note in counts["notes"] if note["key"] != "note.dropped")
    lines += [f'<p class="small">{escape(translate(note["key"], **note["values"]))}</p>' for note in notes]
    return f'<section class="plan rows">{"".join(lines)}</section>'


def remote(translate: Callable, name: str) -> str:
    """A data set on a hub, which is only asked on a click."""
    return _quiet(translate("rows.remote", source=name))


def progress(translate: Callable, step: Sequence | None) -> str:
    """The progress of a long question: (done, total, unit), or None before the first."""
    if step is None:
        return _quiet(translate("rows.looking"))
    done, total, unit = step
    share = done / total if total else 0
    if unit == "bytes":
        text = translate("rows.reading", done=format_bytes(done), total=format_bytes(total))
    else:
        text = translate("rows.counting", done=number(int(done)), total=number(int(total)))
    return f'{_quiet(text)}<progress class="far" max="1" value="{share:.3f}"></progress>'


def stopped(translate: Callable, lang: str, error: Exception) -> str:
    """An error as a notice; one without problems means that the question was stopped."""
    reported = as_playground_error(error)
    text = reported.text(lang)
    if not text:
        return _quiet(translate("rows.stopped"))
    if [problem.key for problem in reported.problems] == ["error.tokenizer_absent"]:  # normal before the first load
        return _quiet(text)
    lines = "".join(f"<p>{escape(line)}</p>" for line in text.split("\n"))
    return f'<div class="notice bad" role="status">{lines}</div>'


def _dropped(translate: Callable, reason: str, count: int, row_numbers: Sequence[int]) -> str:
    """A line of dropped rows; "…" where there are more than the given numbers."""
    where = ""
    if row_numbers:
        shown = [*map(str, row_numbers), *(["…"] if count > len(row_numbers) else [])]
        where = f" <small>({escape(translate('rows.where', rows=shown))})</small>"
    return f"<li>{escape(translate(f'dropped.{reason}'))}: <b>{number(count)}</b>{where}</li>"


def _quiet(text: str) -> str:
    return f'<p class="quiet">{escape(text)}</p>'


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "…"
