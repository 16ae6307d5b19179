"""What every test gets: toy models saved once a session, no network, no cache of the person's."""

import gc
import json
import os
import tempfile
from pathlib import Path

import pytest
import toys

_HOME = Path(tempfile.mkdtemp(prefix="playground-tests-"))
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": str(_HOME / "hf"),
    "PLAYGROUND_CACHE": str(_HOME / "cache"),
    "TOKENIZERS_PARALLELISM": "false",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "OMP_NUM_THREADS": "1",  # threads that wait for each other cost toys more than they save
}


@pytest.fixture(scope="module", autouse=True)
def imported():
    """What was imported so far stays: a model that is given back needn't have a million of the libraries' objects looked through each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A preview takes the time it needs: a busy machine is no reason for fewer rows."""
    from playground.data import source

    monkeypatch.setattr(source, "PATIENCE", 120.0)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """`toy(family, chat=False)`: the folder of a toy model, made on first use."""
    home, made = tmp_path_factory.mktemp("models"), {}

    def folder(family: str = "llama", chat: bool = False, **changes) -> Path:
        name = f"{family}{'-chat' if chat else ''}{''.join(f'-{k}-{v}' for k, v in changes.items())}"
        if name not in made:
            made[name] = toys.save(home / name, family, chat, **changes)
        return made[name]

    return folder


@pytest.fixture(scope="session")
def lesson(tmp_path_factory) -> Path:
    """A data file of 24 short rows."""
    path = tmp_path_factory.mktemp("data") / "lesson.jsonl"
    rows = [
        {"instruction": f"What is the answer to question {n}?", "output": f"The answer is {n * 7 % 10}."}
        for n in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def chosen(toy, lesson):
    """`chosen(load={...}, train={...})`: quick settings for the toy model."""
    from playground.settings import Settings

    def settings(**groups) -> Settings:
        quick = {
            "load": {"model": str(toy()), "bits": 32, "device": "cpu"},
            "data": {"source": str(lesson)},
            "train": {"max_steps": 3, "batch_size": 4, "max_seq_length": 128, "lr": 1e-2, "sample_every": "off"},
        }
        return Settings().with_values({g: quick.get(g, {}) | groups.get(g, {}) for g in {**quick, **groups}})

    return settings
