"""Fixtures of all tests: toy models saved once a session, no network, no cache of the user's."""

import gc
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import toys
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from playground.settings import Settings

BROWSER_TESTS = "tests/ui/"
MAX_PROCESSES = 4  # of the whole suite; one takes up to 0.8 GiB (measured without the slow and browser tests)
_HOME = Path(tempfile.mkdtemp(prefix="playground-tests-"))
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": str(_HOME / "hf"),
    "PLAYGROUND_CACHE": str(_HOME / "cache"),
    "TOKENIZERS_PARALLELISM": "false",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "PLAYGROUND_CALIBRATE": "0",  # tests that need a speed say which
    "OMP_NUM_THREADS": "1",  # threads that wait for each other cost toys more than they save
}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes for the whole suite; none for named files, which start faster without, and where tests share a GPU."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return min(MAX_PROCESSES, os.cpu_count() or 1) if whole and not shutil.which("nvidia-smi") else 0


class _BrowserTestsTogether(LoadFileScheduling):
    """Whole files to each process. One takes the browser tests, since a second page is slow beside the first, until
    nothing else is left for the others: then these take browser tests too, from the last file on."""

    def _assign_work_unit(self, node: Any) -> None:
        browser = [scope for scope in self.workqueue if scope.startswith(BROWSER_TESTS)]
        others = [scope for scope in self.workqueue if not scope.startswith(BROWSER_TESTS)]
        mine = browser + others if node is self.nodes[0] else others + browser[::-1]
        self.workqueue.move_to_end(mine[0], last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return _BrowserTestsTogether(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exhaustive", action="store_true", help="also the tests marked `exhaustive`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out exhaustive tests unless asked for; mark browser tests as slow, since each waits for a real page."""
    if not config.getoption("exhaustive"):
        left_out = [item for item in items if item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
    items.sort(key=lambda item: not item.nodeid.startswith(BROWSER_TESTS))
    for item in items:
        if item.nodeid.startswith(BROWSER_TESTS):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def freeze_imported_objects() -> None:
    """Exclude the libraries' million objects from garbage collection, which runs whenever a model is released."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def unlimited_preview_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a preview take the time it needs: a busy machine is no reason for fewer rows."""
    from playground.data import source

    monkeypatch.setattr(source, "PREVIEW_SECONDS", 120.0)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`toy(family, chat=False)`: the folder of a toy model, saved on first use."""
    home = tmp_path_factory.mktemp("models")
    saved: dict[str, Path] = {}

    def folder(family: str = "llama", chat: bool = False, **changes: Any) -> Path:
        name = f"{family}{'-chat' if chat else ''}{''.join(f'-{k}-{v}' for k, v in changes.items())}"
        if name not in saved:
            saved[name] = toys.save(home / name, family, chat, **changes)
        return saved[name]

    return folder


@pytest.fixture(scope="session")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training file of 24 short rows."""
    path = tmp_path_factory.mktemp("data") / "lesson.jsonl"
    rows = [
        {"instruction": f"What is the answer to question {n}?", "output": f"The answer is {n * 7 % 10}."}
        for n in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def chosen(toy: Callable[..., Path], lesson: Path) -> "Callable[..., Settings]":
    """`chosen(load={...}, train={...})`: quick settings for the toy model."""
    from playground.settings import Settings

    def settings(**groups: dict) -> Settings:
        quick: dict[str, dict] = {
            "load": {"model": str(toy()), "bits": 32, "device": "cpu"},
            "data": {"source": str(lesson)},
            "train": {
                "max_steps": 3,
                "batch_size": 4,
                "max_seq_length": 128,
                "lr": 1e-2,
                "sample_every": "off",
                "measure_forgetting": False,
            },
        }
        return Settings().with_values({g: quick.get(g, {}) | groups.get(g, {}) for g in {**quick, **groups}})

    return settings
