"""A data set's facts as HTML: kind, guessed columns, first rows, counts that add up, progress. All text is escaped."""

from collections.abc import Callable, Iterable, Sequence
from html import escape

from playground.data.row import Row
from playground.data.source import Preview
from playground.i18n import format_bytes
from playground.ui.tables import number

SHOWN_SIZE = 2**20 // 10  # bytes: a smaller size would read 0.0 MiB
MAX_COLUMNS = 8  # of the raw records
MAX_CHARACTERS = 300  # of a text in a table


def about(translate: Callable, preview: Preview) -> str:
    """The kind, encoding and size of a data set, and the column of each part of a row; guesses are marked."""
    guess = translate("rows.guess")
    facts = [translate(f"rows.kind.{preview.kind}")]
    if preview.encoding:
        facts.append(f"{preview.encoding} ({guess})" if preview.encoding_guessed else preview.encoding)
    if preview.size and preview.size >= SHOWN_SIZE:
        facts.append(format_bytes(preview.size))
    if preview.total is not None:
        facts.append(translate("rows.in_file", count=number(preview.total)))
    lines = [quiet(" · ".join(facts))]
    if preview.columns:
        mark = f' <em class="pill">{escape(guess)}</em>'
        items = (
            f"<li>{escape(translate(f'rows.part.{part}'))} ← <code>{escape(name)}</code>"
            f"{mark if part in preview.columns.guessed else ''}</li>"
            for part, name in preview.columns.names.items()
        )
        lines.append(f'<ul class="columns">{"".join(items)}</ul>')
    return f'<section class="plan rows">{"".join(lines)}</section>'


def first_rows(translate: Callable, rows: Sequence[Row]) -> str:
    """The first rows to train on as a table; a row's number is a button, by which it can be seen token by token."""
    head = [translate(f"rows.{name}") for name in ("number", "question", "answer")]
    body = (
        (_row_button(translate, row.number or place), _text(_question(row)), _text(row.output))
        for place, row in enumerate(rows, 1)
    )
    return _table(translate("rows.first"), head, body) if rows else ""


def raw(translate: Callable, preview: Preview) -> str:
    """The first records unchanged, as a table."""
    names = preview.found[:MAX_COLUMNS]
    body = (
        (str(row_number), *(_text(record.get(name, "")) for name in names))
        for row_number, record in zip(preview.numbers, preview.records)
    )
    return _table(translate("rows.raw"), [translate("rows.number"), *names], body)


def counts(translate: Callable, counts: dict) -> str:
    """The rows to train on, held out and left out, which make up all; those left out by reason; and notes."""
    left_out = sum(counts["left_out"].values())
    figures = {"train": counts["train"], "held_out": counts["held_out"]}
    figures |= {"left_out": left_out} if left_out else {}
    figures["total"] = counts["total"]
    sums = "".join(
        f'<div class="{name}"><dt>{escape(translate(f"rows.count.{name}"))}</dt><dd>{number(count)}</dd></div>'
        for name, count in figures.items()
    )
    lines = [f'<dl class="counts">{sums}</dl>']
    if left_out:
        items = (
            _left_out(translate, reason, count, counts["where"].get(reason, []))
            for reason, count in counts["left_out"].items()
        )
        lines.append(f"<p>{escape(translate('rows.dropped'))}</p><ul class='dropped'>{''.join(items)}</ul>")
    notes = (note for note in counts["notes"] if note["key"] != "note.dropped")
    lines += [f'<p class="small">{escape(translate(note["key"], **note["values"]))}</p>' for note in notes]
    return f'<section class="plan rows">{"".join(lines)}</section>'


def progress(translate: Callable, step: Sequence | None) -> str:
    """The progress of a long question: (done, total, unit), or None before the first."""
    if step is None:
        return quiet(translate("rows.looking"))
    done, total, unit = step
    share = done / total if total else 0
    if unit == "bytes":
        text = translate("rows.reading", done=format_bytes(done), total=format_bytes(total))
    else:
        text = translate("rows.counting", done=number(int(done)), total=number(int(total)))
    return f'{quiet(text)}<progress class="far" max="1" value="{share:.3f}"></progress>'


def quiet(text: str) -> str:
    """A remark as HTML."""
    return f'<p class="quiet">{escape(text)}</p>'


def notice(lines: Iterable[str]) -> str:
    """An error's lines as HTML."""
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f'<div class="notice bad" role="status">{text}</div>'


def _question(row: Row) -> str:
    """A row's system prompt, earlier turns, instruction and input, as one text."""
    turns = [f"{asked}\n→ {answer}" for asked, answer in row.before]
    return "\n".join(part for part in (row.system, *turns, row.instruction, row.input) if part)


def _row_button(translate: Callable, row_number: int) -> str:
    label = escape(translate("rows.show_tokens", number=row_number))
    return f'<button type="button" data-row="{row_number}" title="{label}" aria-label="{label}">{row_number}</button>'


def _table(label: str, head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table that scrolls by itself, and by keyboard. body: cells as HTML."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for cells in body)
    return (
        f'<div class="row-table" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _text(text: str) -> str:
    """A table's cell; the dir attribute keeps right-to-left text from reordering its surroundings."""
    shown = text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "…"
    return f'<div dir="auto">{escape(shown)}</div>'


def _left_out(translate: Callable, reason: str, count: int, row_numbers: Sequence[int]) -> str:
    """A line of rows that were left out; "…" where there are more than the given numbers."""
    where = ""
    if row_numbers:
        shown = [*map(str, row_numbers), *(["…"] if count > len(row_numbers) else [])]
        where = f" <small>({escape(translate('rows.numbers', rows=shown))})</small>"
    return f"<li>{escape(translate(f'dropped.{reason}'))}: <b>{number(count)}</b>{where}</li>"
