"""Thin out a run's memory events, ten a second, so that a run of hours loads quickly."""

from collections.abc import Sequence


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


def _total_bytes(event: dict) -> float:
    return sum(size for kind, size in event.items() if kind != "t" and isinstance(size, (int, float)))
