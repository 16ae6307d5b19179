"""Data sets of the Hugging Face hub, streamed by `datasets`, so that only the rows that are needed are downloaded.

"name/set:config@split" picks a config and a split.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from playground import catalog, compat
from playground.data.records import Reading, Record
from playground.errors import PlaygroundError, problem

ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(:(?P<config>[^@:/]+))?(@(?P<split>[\w.-]+))?")
MAX_NAMES = 12  # configs or splits in an error message


def is_id(source: str) -> bool:
    """Whether a source has the form of a hub data set's id."""
    return ID.fullmatch(source) is not None


def read_hub(source: str) -> Reading:
    """Stream the records of a hub data set: of the named split, else train, else the only one. `source`: its id.

    Checks access first, so that a dead network is noticed in seconds. Raises PlaygroundError, at once or while records
    are read: hub unreachable, no such data set, config or split (naming those that exist), a lost connection.
    """
    from playground.catalog.hub_status import access_problem

    match = ID.fullmatch(source)
    assert match, source
    repo, config, split = match["repo"], match["config"], match["split"]
    reason = access_problem(repo, "dataset")
    if reason:
        offline = [name for name, entry in catalog.data_sets().items() if "file" in entry]
        raise problem(f"error.data_{reason}", repo=repo, offline=offline)
    splits = _load_splits(repo, config)
    split = split or ("train" if "train" in splits or len(splits) != 1 else next(iter(splits)))
    if split not in splits:
        raise problem("error.data_split", repo=repo, split=split, splits=list(splits)[:MAX_NAMES])
    rows = splits[split]
    if rows.features:  # known in advance for most file formats
        rows = rows.decode(False)  # pictures and sound stay bytes: they can't be trained on
    info = (rows.info.splits or {}).get(split)
    return Reading(
        source,
        "hub",
        total=info.num_examples if info else None,
        records=iter_records(rows, lambda error: _read_error(repo, error)),
    )


def _load_splits(repo: str, config: str | None) -> Any:
    """The data set's splits, {name: IterableDataset}."""
    import datasets

    compat.keep_torch_out_of_datasets()
    try:
        with compat.only_own_files():
            return datasets.load_dataset(repo, name=config, streaming=True)
    except compat.ForeignFiles as error:
        raise problem("error.data_elsewhere", repo=repo, file=str(error)[:120]) from error
    except Exception as error:
        configs = _configs(repo) if isinstance(error, ValueError) else []
        if configs and config not in configs:
            raise problem("error.data_config", repo=repo, configs=configs[:MAX_NAMES]) from error
        raise _read_error(repo, error) from error


def iter_records(rows: Iterable[dict], made_error: Callable[[Exception], PlaygroundError]) -> Iterator[Record]:
    """The records of a data set of `datasets`; what goes wrong while they are read becomes `made_error(error)`."""
    stream, number = iter(rows), 0
    while True:
        try:
            values = next(stream, None)
        except Exception as error:
            raise made_error(error) from error
        if values is None:
            return
        number += 1
        yield Record(number, values)


def _configs(repo: str) -> list[str]:
    from datasets import get_dataset_config_names

    try:
        with compat.only_own_files():
            return get_dataset_config_names(repo)
    except Exception:
        return []


def _read_error(repo: str, error: Exception) -> PlaygroundError:
    return problem("error.data_broke", repo=repo, detail=(str(error) or type(error).__name__).split("\n")[0][:200])
