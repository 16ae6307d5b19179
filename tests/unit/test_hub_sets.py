"""Hub sets, streamed. No hub is asked: `load_dataset` is stood in for by `datasets` itself over rows made here or over a folder, and it is counted what is taken."""

import json
import subprocess
import sys

import pytest
from toys import PROJECT, keys

from playground import catalog
from playground.catalog import hub_status
from playground.data import hub_sets
from playground.data.source import Row, preview, read
from playground.errors import PlaygroundError
from playground.settings import Data


@pytest.fixture
def made_hub(monkeypatch):
    """A hub with one set of 10,000 rows, streamed by datasets from a generator that counts what is taken of it."""
    import datasets

    taken, asked = [], []

    def rows():
        for n in range(1, 10_001):
            taken.append(n)
            if n == 9_000:
                raise ConnectionError("the line broke")
            yield {"question": f"q{n}", "answer": f"a{n}"}

    def load_dataset(repo, name=None, streaming=False):
        asked.append((repo, name, streaming))
        return datasets.IterableDatasetDict({"train": datasets.IterableDataset.from_generator(rows)})

    monkeypatch.setattr(hub_status, "access_problem", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return taken, asked


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A set of two configs with several splits, as files on this disk, which datasets' own load_dataset streams."""
    import datasets

    card = ["---", "configs:"]
    for config, splits in (("ja", ("train", "validation")), ("en", ("main",))):
        card += [f"- config_name: {config}", "  data_files:"]
        for split in splits:
            (tmp_path / f"{config}-{split}.jsonl").write_text(
                "".join(json.dumps({"instruction": f"{config} {split} {n}", "output": "a"}) + "\n" for n in range(6))
            )
            card += [f"  - split: {split}", f"    path: {config}-{split}.jsonl"]
    (tmp_path / "README.md").write_text("\n".join([*card, "---", ""]))
    load, names = datasets.load_dataset, datasets.get_dataset_config_names
    monkeypatch.setattr(hub_status, "access_problem", lambda *_: None)
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda repo, name=None, streaming=False: load(str(tmp_path), name=name, streaming=streaming),
    )
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda repo: names(str(tmp_path)))


def _told(**values):
    with pytest.raises(PlaygroundError) as caught:
        read(Data(**{"held_out": 0.0, **values}))
    assert caught.value.text("ja")
    return caught


def test_of_a_large_set_only_the_slice_is_taken(made_hub):
    taken, asked = made_hub
    rows = read(Data(source="someone/large", start_row=101, end_row=300, sample=5, held_out=0))
    assert (
        len(rows.train) == 5
        and all(101 <= r.number <= 300 for r in rows.train)
        and asked == [("someone/large", None, True)]
    )
    assert len(taken) <= 301
    taken.clear()
    seen = preview(Data(source="someone/large"))
    assert (
        seen.kind == "hub"
        and seen.numbers == list(range(1, 21))
        and seen.rows[0] == Row("q1", "a1")
        and len(taken) <= 101
    )


def test_a_line_that_breaks_is_told(made_hub):
    caught = _told(source="someone/large")
    assert keys(caught) == ["error.data_broke"] and "the line broke" in str(caught.value)
    assert len(read(Data(source="someone/large", end_row=8_000, held_out=0)).train) == 8_000


def test_a_config_and_a_split_are_picked_by_name(folder):
    assert [r.instruction for r in read(Data(source="someone/set:ja", end_row=2, held_out=0)).train] == [
        "ja train 0",
        "ja train 1",
    ]
    assert read(Data(source="someone/set:ja@validation", held_out=0)).train[5].instruction == "ja validation 5"
    assert read(Data(source="someone/set:en", held_out=0)).train[0].instruction == "en main 0"  # its only one


def test_configs_and_splits_that_are_there_are_named(folder):
    for source in ("someone/set", "someone/set:fr"):
        caught = _told(source=source)
        assert keys(caught) == ["error.data_config"] and "ja" in str(caught.value) and "en" in str(caught.value)
    caught = _told(source="someone/set:ja@test")
    assert keys(caught) == ["error.data_split"] and "train, validation" in str(caught.value)


def test_a_huge_set_is_refused_whole_before_it_is_downloaded(made_hub, monkeypatch):
    import datasets

    taken, _ = made_hub
    load = datasets.load_dataset

    def counted(*arguments, **named):
        found = load(*arguments, **named)
        found["train"].info.splits = datasets.SplitDict({"train": datasets.SplitInfo("train", num_examples=5_000_000)})
        return found

    monkeypatch.setattr(datasets, "load_dataset", counted)
    caught = _told(source="someone/large")
    assert keys(caught) == ["error.large_hub"] and "5000000" in str(caught.value) and len(taken) <= 101
    rows = read(Data(source="someone/large", end_row=50, held_out=0))
    assert len(rows.train) == 50 and rows.total == 5_000_000 == preview(Data(source="someone/large")).total


@pytest.mark.parametrize("reason", ["unreachable", "absent", "gated"])
def test_why_a_hub_gives_nothing_is_told(monkeypatch, reason):
    monkeypatch.setattr(hub_status, "access_problem", lambda *_: reason)
    for source in ("someone/set:config@split", *(k for k, e in catalog.data_sets().items() if "hub" in e)):
        assert keys(_told(source=source)) == [f"error.data_{reason}"]


@pytest.mark.parametrize(
    "source,there",
    [
        ("a/b", True),
        ("a-b/c.d_e", True),
        ("a/b:c@d", True),
        ("a/b@d", True),
        ("a/b/c", False),
        ("../b", False),
        ("a/b:", False),
        ("a b/c", False),
        ("http://x/y", False),
        ("squad", False),
    ],
)
def test_what_an_id_looks_like(source, there):
    assert hub_sets.is_id(source) is there


def test_every_hub_set_of_the_catalog_has_a_language_and_a_licence():
    for entry in catalog.data_sets().values():
        assert (
            entry["language"] in ("en", "ja") and entry["licence"] and ("file" in entry or hub_sets.is_id(entry["hub"]))
        )


def test_reading_and_previewing_import_no_torch(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"question": "q", "answer": "a"}\n' * 50)
    code = """
import sys
import datasets
from playground.catalog import hub_status
from playground.data.source import preview, read
from playground.settings import Data
load = datasets.load_dataset
hub_status.access_problem = lambda *_: None
datasets.load_dataset = lambda repo, name=None, streaming=False: load(sys.argv[1], name=name, streaming=streaming)
assert len(preview(Data(source="a/b")).records) == 20 and len(read(Data(source="a/b", drop_duplicates=False, end_row=30, held_out=0)).train) == 30
print("torch" in sys.modules)
"""
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "set")], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert found.stdout.strip() == "False", found.stderr
