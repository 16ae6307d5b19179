"""How a job is refused: with which error, and when."""

from collections.abc import Iterable

import pytest
from toys import keys

from playground.errors import PlaygroundError


def refusal(events: Iterable[dict]) -> tuple[list[str], bool]:
    """Keys of the error that a job ends in, and whether it had begun to load the model by then."""
    seen = []
    with pytest.raises(PlaygroundError) as caught:
        for event in events:
            seen.append(event)
    return keys(caught), any(event["kind"] == "phase" and event["name"] == "load" for event in seen)
