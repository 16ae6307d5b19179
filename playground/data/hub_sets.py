"""Data sets of a hub, streamed by `datasets`: only what is asked for is downloaded. "name/set:config@split" picks a config and a split."""

import re
import sys
from collections.abc import Iterator

from playground import catalog
from playground.data.readers import Reading, Record
from playground.errors import PlaygroundError, problem

ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(:(?P<config>[^@:/]+))?(@(?P<split>[\w.-]+))?")
SHOWN = 12


def is_id(source: str) -> bool:
    """Whether a source has the form of a hub set's id."""
    return ID.fullmatch(source) is not None


def read_hub(source: str) -> Reading:
    """The records of a hub set's split: the one that is named, else train, else the only one.

    Asks the hub itself first, so that a dead network is noticed in seconds. Raises PlaygroundError, here or while records are
    read: no hub, no such set, config or split (with those that there are), a connection that broke.
    """
    from playground.catalog.hub_status import access_problem

    named = ID.fullmatch(source).groupdict()
    repo = named["repo"]
    reason = access_problem(repo, "datasets/")
    if reason:
        raise problem(
            f"error.data_{reason}", repo=repo, offline=[k for k, e in catalog.data_sets().items() if "file" in e]
        )
    import datasets

    if "torch" not in sys.modules:
        datasets.config.TORCH_AVAILABLE = (
            False  # a stream would import it, only to share a counter with torch's own loaders
        )
    try:
        found = datasets.load_dataset(repo, name=named["config"], streaming=True)
    except Exception as error:
        configs = _configs(repo) if isinstance(error, ValueError) else []
        if configs and named["config"] not in configs:
            raise problem("error.data_config", repo=repo, configs=configs[:SHOWN]) from error
        raise _broke(repo, error) from error
    split = named["split"] or ("train" if "train" in found or len(found) != 1 else next(iter(found)))
    if split not in found:
        raise problem("error.data_split", repo=repo, split=split, splits=list(found)[:SHOWN])
    rows = found[split]
    if rows.features:  # known beforehand for most kinds of files
        rows = rows.decode(False)  # pictures and sound stay bytes: nothing is taught of them
    known = (rows.info.splits or {}).get(split)
    return Reading(source, "hub", total=known.num_examples if known else None, records=_records(rows, repo))


def _records(rows, repo: str) -> Iterator[Record]:
    stream, number = iter(rows), 0
    while True:
        try:
            values = next(stream, None)
        except Exception as error:
            raise _broke(repo, error) from error
        if values is None:
            return
        number += 1
        yield Record(number, 0, values)


def _configs(repo: str) -> list[str]:
    from datasets import get_dataset_config_names

    try:
        return get_dataset_config_names(repo)
    except Exception:
        return []


def _broke(repo: str, error: Exception) -> PlaygroundError:
    return problem("error.data_broke", repo=repo, detail=(str(error) or type(error).__name__).split("\n")[0][:200])
