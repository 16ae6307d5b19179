"""Stream hub data sets.

No hub is contacted: `load_dataset` is replaced by `datasets` over generated rows, which counts those that are
downloaded, or over local files.
"""

import json
import subprocess
import sys
from contextlib import nullcontext

import pytest
from data_files import problem_keys, read_error
from toys import PROJECT

from playground import catalog
from playground.catalog import hub_status
from playground.data import hub_sets
from playground.data.source import Row, preview, read
from playground.settings import Data


@pytest.fixture
def generated_set(monkeypatch):
    """A hub data set of 10,000 rows, streamed by datasets from a generator; returns the rows read and the calls."""
    import datasets

    downloaded, calls = [], []

    def rows():
        for n in range(1, 10_001):
            downloaded.append(n)
            if n == 9_000:
                raise ConnectionError("connection lost")
            yield {"question": f"q{n}", "answer": f"a{n}"}

    def load_dataset(repo, name=None, streaming=False):
        calls.append((repo, name, streaming))
        return datasets.IterableDatasetDict({"train": datasets.IterableDataset.from_generator(rows)})

    monkeypatch.setattr(hub_status, "access_problem", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return downloaded, calls


@pytest.fixture
def local_set(monkeypatch, tmp_path):
    """A data set of two configs with several splits in local files, streamed by datasets."""
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
    monkeypatch.setattr(hub_sets.compat, "only_own_files", nullcontext)  # these lie in a local folder
    monkeypatch.setattr(hub_status, "access_problem", lambda *_: None)
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda repo, name=None, streaming=False: load(str(tmp_path), name=name, streaming=streaming),
    )
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda repo: names(str(tmp_path)))


def test_only_the_slice_of_a_large_set_is_downloaded(generated_set):
    downloaded, calls = generated_set
    rows = read(Data(source="someone/large", start_row=101, end_row=300, sample=5, held_out=0))
    assert (
        len(rows.train) == 5
        and all(101 <= r.number <= 300 for r in rows.train)
        and calls == [("someone/large", None, True)]
    )
    assert len(downloaded) <= 301
    downloaded.clear()
    seen = preview(Data(source="someone/large"))
    assert (
        seen.kind == "hub"
        and seen.numbers == list(range(1, 21))
        and seen.rows[0] == Row("q1", "a1")
        and len(downloaded) <= 101
    )


def test_a_lost_connection_is_reported(generated_set):
    error = read_error("someone/large")
    assert problem_keys(error) == ["error.data_broke"] and "connection lost" in str(error)
    assert len(read(Data(source="someone/large", end_row=8_000, held_out=0)).train) == 8_000


def test_a_config_and_a_split_are_chosen_by_name(local_set):
    assert [r.instruction for r in read(Data(source="someone/set:ja", end_row=2, held_out=0)).train] == [
        "ja train 0",
        "ja train 1",
    ]
    assert read(Data(source="someone/set:ja@validation", held_out=0)).train[5].instruction == "ja validation 5"
    assert read(Data(source="someone/set:en", held_out=0)).train[0].instruction == "en main 0"  # its only one


def test_unknown_configs_and_splits_list_existing_ones(local_set):
    for source in ("someone/set", "someone/set:fr"):
        error = read_error(source)
        assert problem_keys(error) == ["error.data_config"] and "ja" in str(error) and "en" in str(error)
    error = read_error("someone/set:ja@test")
    assert problem_keys(error) == ["error.data_split"] and "train, validation" in str(error)


def test_a_huge_set_is_rejected_before_it_is_downloaded(generated_set, monkeypatch):
    import datasets

    downloaded, _ = generated_set
    load = datasets.load_dataset

    def with_size(*arguments, **named):
        splits = load(*arguments, **named)
        splits["train"].info.splits = datasets.SplitDict({"train": datasets.SplitInfo("train", num_examples=5_000_000)})
        return splits

    monkeypatch.setattr(datasets, "load_dataset", with_size)
    error = read_error("someone/large")
    assert problem_keys(error) == ["error.large_hub"] and "5000000" in str(error) and len(downloaded) <= 101
    rows = read(Data(source="someone/large", end_row=50, held_out=0))
    assert len(rows.train) == 50 and rows.total == 5_000_000 == preview(Data(source="someone/large")).total


@pytest.mark.parametrize("reason", ["unreachable", "absent", "gated"])
def test_an_inaccessible_set_is_reported_with_the_reason(monkeypatch, reason):
    monkeypatch.setattr(hub_status, "access_problem", lambda *_: reason)
    for source in ("someone/set:config@split", *(k for k, e in catalog.data_sets().items() if "hub" in e)):
        assert problem_keys(read_error(source)) == [f"error.data_{reason}"]


@pytest.mark.parametrize(
    "source,is_id",
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
def test_the_form_of_an_id_is_checked(source, is_id):
    assert hub_sets.is_id(source) is is_id


def test_every_hub_set_of_the_catalog_has_a_language_and_a_licence():
    for entry in catalog.data_sets().values():
        assert (
            entry["language"] in ("en", "ja") and entry["licence"] and ("file" in entry or hub_sets.is_id(entry["hub"]))
        )


@pytest.mark.slow
def test_reading_and_previewing_import_no_torch(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"question": "q", "answer": "a"}\n' * 50)
    code = """
import contextlib
import sys
import datasets
from playground import compat
from playground.catalog import hub_status
from playground.data.source import preview, read
from playground.settings import Data
load = datasets.load_dataset
hub_status.access_problem = lambda *_: None
compat.only_own_files = contextlib.nullcontext
datasets.load_dataset = lambda repo, name=None, streaming=False: load(sys.argv[1], name=name, streaming=streaming)
assert len(preview(Data(source="a/b")).records) == 20
assert len(read(Data(source="a/b", drop_duplicates=False, end_row=30, held_out=0)).train) == 30
print("torch" in sys.modules)
"""
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "set")], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert process.stdout.strip() == "False", process.stderr


@pytest.mark.parametrize(
    "named",
    ["{folder}/secret.jsonl", "../secret.jsonl", "http://127.0.0.1:1/secret.jsonl", "file:///etc/passwd",
     "x.zip::http://127.0.0.1:1/a.zip", "hf://datasets/some/other@main/a.jsonl"],
)  # fmt: skip
def test_a_readme_that_names_files_elsewhere_reads_none_of_them(monkeypatch, tmp_path, named):
    """The README's patterns are resolved as `datasets` resolves those of a hub's data set."""
    import datasets
    from datasets import data_files

    (tmp_path / "secret.jsonl").write_text('{"instruction": "key", "output": "1234"}\n')
    pattern, asked = named.format(folder=tmp_path), []

    def load_dataset(repo, name=None, streaming=False):
        found = data_files.DataFilesList.from_patterns([pattern], f"hf://datasets/{repo}@0123")
        return {"train": datasets.load_dataset("json", data_files=list(found))}

    monkeypatch.setattr(hub_status, "access_problem", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(data_files, "url_to_fs", lambda path, **_: asked.append(path) or 1 / 0)
    error = read_error("someone/set")
    assert problem_keys(error) == ["error.data_elsewhere"] and pattern in str(error) and asked == []
    pattern = "data/train.jsonl"
    assert problem_keys(read_error("someone/set")) == ["error.data_broke"]
    assert asked == ["hf://datasets/someone/set@0123/data/train.jsonl"]
