"""Random and broken data files for hypothesis, and what a reader must do with any of them."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import strategies as st

from playground.data import source
from playground.data.preview_limits import MAX_CHARS
from playground.data.row import Row, text_of
from playground.data.source import SelectedRows
from playground.errors import PlaygroundError, Problem
from playground.settings import Data

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "cp932", "euc_jp", "cp1252", "iso2022_jp")
NAMES = (
    "instruction",
    "input",
    "output",
    "question",
    "answer",
    "prompt",
    "completion",
    "messages",
    "conversations",
    "text",
    "system",
    "category",
    "history",
    "label",
    "score",
    "chosen",
    "rejected",
    "image",
    "split",
    "key",
    "x",
    "",
    "質問",
    "回答",
)
UNUSUAL_TEXTS = (
    "",
    " ",
    "\0",
    "\ufeff",
    "\u202eabc",
    "\u200b",
    "<script>alert(1)</script>",
    '"',
    "'",
    "[3]",
    "\ud800",
    "あ",
    "ｱ",
    "漢字",
    "\r",
    "\n",
    "\u2028",
    ",",
    ";",
    "\t",
    "=1+1",
    "1e999",
    "x" * 3000,
)
texts = st.one_of(
    st.sampled_from(UNUSUAL_TEXTS), st.text(max_size=30), st.text(alphabet='あいう漢字。\n,"a ', max_size=20)
)
scalars = st.one_of(texts, st.none(), st.booleans(), st.integers(), st.floats())
roles = st.sampled_from(("user", "assistant", "human", "gpt", "system", "tool", "function_call", "", "x"))
messages = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": roles, "content": scalars}, optional={"weight": scalars, "tool_calls": scalars}),
        st.fixed_dictionaries({"from": roles, "value": scalars}),
        st.fixed_dictionaries(
            {"role": roles, "content": st.lists(st.fixed_dictionaries({"type": texts, "text": scalars}), max_size=2)}
        ),
        scalars,
    ),
    max_size=5,
)
values = st.one_of(
    scalars,
    messages,
    st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
        max_leaves=8,
    ),
)
records = st.dictionaries(st.one_of(st.sampled_from(NAMES), texts), values, max_size=5)
turn = st.tuples(texts, texts).map(
    lambda pair: [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
)
usual_records = st.one_of(
    st.lists(
        st.fixed_dictionaries(
            {"instruction": texts, "output": values},
            optional={"input": scalars, "category": texts, "system": texts, "split": st.just("held-out")},
        ),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.fixed_dictionaries({"質問": scalars, "回答": scalars}), min_size=1, max_size=12),
    st.lists(
        st.fixed_dictionaries(
            {
                "messages": st.one_of(
                    st.lists(turn, max_size=3).map(lambda turns: [message for pair in turns for message in pair]),
                    messages,
                )
            }
        ),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.fixed_dictionaries({"text": values}), min_size=1, max_size=12),
    st.lists(records, max_size=8),
)
broken_bytes = st.sampled_from(
    (
        b"",
        b"\0",
        b"{",
        b"[",
        b'"',
        b"}",
        b"]",
        b",",
        b"\xff\xfe",
        b"\x1b$B",
        b"\x81",
        b"\r",
        b"\n\n",
        b"PK\x03\x04",
        b"PAR1",
        b"NaN",
        b"\\u12",
    )
)


@st.composite
def files(draw: Callable) -> tuple[str, bytes]:
    """(name, bytes): records in a kind of file and an encoding, or random bytes; some are damaged."""
    suffix = draw(st.sampled_from((".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")))
    if draw(st.integers(0, 9)) == 9:
        return "a" + suffix, draw(st.binary(max_size=300))
    rows = draw(usual_records)
    data = (
        _parquet_file(rows)
        if suffix == ".parquet"
        else _text_file(draw, rows, suffix).encode(draw(st.sampled_from(ENCODINGS)), "replace")
    )
    if draw(st.integers(0, 2)) == 2:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(broken_bytes) + data[at + draw(st.integers(0, 3)) :]
    return "a" + suffix, data


unusual_settings = st.builds(
    Data,
    encoding=st.sampled_from(("auto",) * 8 + (*ENCODINGS, "klingon")),
    columns=st.sampled_from(
        ("",) * 6
        + (
            "instruction=x, output=text",
            "text=x",
            "messages=messages",
            "output=answer.0.text",
            "text=output",
            "input=",
            "nonsense",
            '{"text": "x"}',
        )
    ),
    start_row=st.sampled_from((1, 1, 2, 4)),
    end_row=st.sampled_from((0, 0, 5)),
    sample=st.sampled_from((0, 0, 2)),
    contains=st.sampled_from(("", "", "あ", "a")),
    category=st.sampled_from(("", "", "", "x")),
    min_chars=st.sampled_from((0, 0, 3)),
    max_chars=st.sampled_from((0, 0, 50)),
    drop_duplicates=st.booleans(),
    drop_empty=st.sampled_from((True, True, False)),
    strip_citations=st.booleans(),
    held_out=st.sampled_from((0.0, 0.1, 0.5)),
    seed=st.integers(0, 3),
)
settings = st.one_of(st.just(Data(held_out=0.0)), st.just(Data(strip_citations=True)), unusual_settings)


def check(folder: Path, name: str, data: bytes, chosen: Data) -> str:
    """Preview and read a file: rows or a PlaygroundError, no other error, and no record lost uncounted.

    Returns "rows" or the key of the problem.
    """
    path = folder / name
    path.write_bytes(data)
    chosen = Data(**{**vars(chosen), "source": str(path)})
    try:
        preview = source.preview(chosen)
    except PlaygroundError as error:
        preview = None
        _check_messages(error.problems)
    if preview:
        _check_messages([*preview.problems, *preview.notes])
        assert all(
            isinstance(text, str) and len(text) <= MAX_CHARS for record in preview.records for text in record.values()
        )
    try:
        rows = source.read(chosen)
    except PlaygroundError as error:
        _check_messages(error.problems)
        return error.problems[0].key
    assert preview is not None
    _check_messages(rows.notes)
    _check_rows(rows, chosen)
    return "rows"


def _check_rows(selected: SelectedRows, chosen: Data) -> None:
    """Rows are valid text, train and held-out rows are disjoint, every record of the slice is a row or counted."""
    rows = selected.train + selected.held_out
    assert selected.train and all(row.output for row in rows if chosen.drop_empty)
    for row in rows:
        before = [text for pair in row.before for text in pair]
        assert all(
            text == text_of(text)
            for text in (row.instruction, row.input, row.output, row.system, row.category, *before)
        )
        "".join((row.instruction, row.input, row.output, *before)).encode("utf-8")
    assert not {_question(row) for row in selected.train} & {_question(row) for row in selected.held_out}
    if not chosen.sample:
        numbers = {row.number for row in rows}  # of records: a conversation has several rows
        last = max(numbers | {number for reason in selected.dropped for number in selected.where[reason]})
        assert len(numbers) + sum(selected.dropped.values()) >= last - chosen.start_row + 1


def _question(row: Row) -> tuple:
    return (
        (row.before[0][0], "") if row.before else (row.instruction, row.input) if row.instruction else ("", row.output)
    )


def _check_messages(problems: Sequence[Problem]) -> None:
    """Each has a text in both languages and can be stored as JSON."""
    for problem in problems:
        for lang in ("en", "ja"):
            assert problem.text(lang)
        json.dumps(problem.values)


def _text_file(draw: Callable, rows: list[dict], suffix: str) -> str:
    end = draw(st.sampled_from(("\n", "\r\n", "\r", "\n\n")))
    if suffix == ".jsonl":
        return end.join(json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows)
    if suffix == ".json":
        made = draw(st.sampled_from((rows, {"version": 1, "data": rows}, rows[0] if rows else {})))
        return json.dumps(made, indent=draw(st.sampled_from((None, 1))), ensure_ascii=False)
    if suffix == ".txt":
        return end.join(text_of(value) for row in rows for value in row.values())
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["text"]
    table = io.StringIO(newline="")
    writer = csv.writer(table, delimiter="\t" if suffix == ".tsv" else draw(st.sampled_from(",;")), lineterminator=end)
    writer.writerows([names, *([text_of(row.get(name)) for name in names] for row in rows)])
    return table.getvalue()


def _parquet_file(rows: list[dict]) -> bytes:
    """Records as Parquet, with all values as text where a column has several types."""
    import pyarrow
    import pyarrow.parquet

    out = pyarrow.BufferOutputStream()
    try:
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, out)
    except (pyarrow.ArrowException, UnicodeError, ValueError, OverflowError, TypeError):
        names = list(dict.fromkeys(text_of(name) for row in rows for name in row)) or ["text"]
        table = pyarrow.table({name: [text_of(row.get(name)) for row in rows] for name in names})
        out = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, out)
    return out.getvalue().to_pybytes()
