"""Record a fine-tune's CUDA allocations in its run's folder, where its settings ask for it."""

from collections.abc import Generator

from playground.engine.job import JobContext, JobResult
from playground.errors import PlaygroundError
from playground.memory.cuda_snapshot import cuda_snapshot
from playground.settings import Settings


def with_snapshot(
    context: JobContext, settings: Settings, work: Generator[dict, None, JobResult]
) -> Generator[dict, None, JobResult]:
    """A fine-tune's events and its result; a note says what was recorded. It is written after an error too.

    Of several processes, the main one records. On a CPU nothing is recorded, and where the file can't be written the
    fine-tune counts nevertheless; a note says so.
    """
    if not settings.train.memory_snapshot or not context.team.main:
        return (yield from work)
    if context.team.device != "cuda":
        yield {"kind": "note", "key": "note.snapshot_cpu", "values": {}}
        return (yield from work)
    failures = list[PlaygroundError]()
    with cuda_snapshot(context.run.snapshot, failures.append):
        result = yield from work
    for failure in failures:
        yield from ({"kind": "note", **entry} for entry in failure.to_dict()["problems"])
    if not failures:
        size = context.run.snapshot.stat().st_size
        yield {"kind": "note", "key": "note.snapshot", "values": {"size_bytes": size}}
    return result
