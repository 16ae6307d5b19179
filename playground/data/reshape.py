"""Make whole rows of records that are only part of one, or that must be judged first."""

import itertools
from collections.abc import Collection, Iterator

from playground.data import bare_messages, compared_answers, message_trees
from playground.data.records import Reading, Record
from playground.errors import PlaygroundError

HEAD = 100  # records that tell what they are
CONVERSIONS = (bare_messages.conversion, message_trees.conversion, compared_answers.conversion)


def reshape(reading: Reading) -> None:
    """Convert the records of a source where they are single messages, messages of trees, or two compared answers."""
    reading.records = _reshaped(_with_few_columns(reading.records, reading), reading)


def _with_few_columns(records: Iterator[Record], reading: Reading) -> Iterator[Record]:
    """The records; raises PlaygroundError for one with more columns than are read, or as many in the first ones."""
    names: set[object] = set()
    last: Collection[object] = ()
    for count, record in enumerate(records):
        if record.values.keys() != last:
            last = record.values.keys()
            names.update(last if count < HEAD else ())
            reading.check_columns(names if count < HEAD else last)
        yield record


def _reshaped(records: Iterator[Record], reading: Reading) -> Iterator[Record]:
    head: list[Record] = []
    error: PlaygroundError | None = None
    try:
        head += itertools.islice(records, HEAD)
    except PlaygroundError as raised:  # what was read before it is still shown
        error = raised
    conversions = (conversion(head, reading) for conversion in CONVERSIONS) if head else ()
    convert = next(filter(None, conversions), iter)
    yield from convert(itertools.chain(head, records))
    if error:
        raise error
