"""Thin out what a run has ten times a second, so that a run of hours loads and draws quickly: events, and lines."""

from collections.abc import Sequence
from operator import itemgetter


def thin_memory(events: Sequence[dict], limit: int) -> list[dict]:
    """The events with at most about `limit` memory events.

    Of each group of neighbours the one with the most memory is kept, and the last one that has parts.
    """
    memory = [event for event in events if event["kind"] == "memory"]
    group = -(-len(memory) // limit)
    if group <= 1:
        return list(events)
    kept = {id(max(memory[i : i + group], key=_total_bytes)) for i in range(0, len(memory), group)}
    kept |= {id(event) for event in [e for e in memory if "parts" in e][-1:]}
    return [event for event in events if event["kind"] != "memory" or id(event) in kept]


def thin_events(events: Sequence[dict], share: int) -> list[dict]:
    """The events with one of `share` of the steps and of the progress, and the last of each kind."""
    kinds = ("step", "progress")
    kept = set()
    for kind in kinds:
        listed = [event for event in events if event["kind"] == kind]
        kept |= {id(event) for event in [*listed[::share], *listed[-1:]]}
    return [event for event in events if event["kind"] not in kinds or id(event) in kept]


def _total_bytes(event: dict) -> float:
    return sum(size for kind, size in event.items() if kind != "t" and isinstance(size, (int, float)))


def thin_line(points: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most `limit` of a line's points, which are ordered by x: its ends, and of each stretch the extremes.

    The lowest and the highest point of a stretch are kept, in their order, so that no peak is lost.
    """
    if len(points) <= limit:
        return list(points)
    first, last = points[0], points[-1]
    stretches: dict[int, list[tuple[float, float]]] = {}
    count = max(1, (limit - 2) // 2)
    width = (last[0] - first[0]) / count or 1.0
    for point in points[1:-1]:
        stretches.setdefault(min(count - 1, int((point[0] - first[0]) / width)), []).append(point)
    height = itemgetter(1)
    extremes = (
        (min(stretch, key=height), max(reversed(stretch), key=height)) for _, stretch in sorted(stretches.items())
    )
    return [first, *(point for pair in extremes for point in sorted(set(pair))), last]
