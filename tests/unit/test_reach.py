"""What strangers may name on a page: the list, the hub, uploads and pasted rows; nothing else of the machine."""

from pathlib import Path

import pytest

from playground.catalog import cache_folder
from playground.data.source import save_pasted
from playground.errors import PlaygroundError
from playground.settings import Data, Load, Settings
from playground.ui.access import forbidden_sources
from playground.ui.page import Page


def refused(model: str = "smollm2-135m-instruct", source: str = "demo-en") -> list[str]:
    return [p.values["field"] for p in forbidden_sources(Settings(load=Load(model=model), data=Data(source=source)))]


@pytest.fixture
def secret(tmp_path) -> Path:
    (tmp_path / "gradio").mkdir()
    (tmp_path / "secret.json").write_text('[{"instruction": "a", "output": "b"}]')
    return tmp_path / "secret.json"


def test_the_list_the_hub_uploads_and_pasted_rows_can_be_named(monkeypatch, tmp_path, secret):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    uploaded = tmp_path / "gradio" / "abc" / "mine.csv"
    uploaded.parent.mkdir()
    uploaded.write_text("a,b\n")
    for source in (
        "demo-ja",
        "yahma/alpaca-cleaned",
        "squad:plain_text",
        str(uploaded),
        str(save_pasted("a,b\n1,2\n", cache_folder() / "pasted")),
    ):
        assert refused(source=source) == []
    for model in ("Qwen/Qwen3-0.6B", "someone/model/file.gguf", "x" * 5000, "a\0b"):
        assert refused(model) == []


def test_what_else_is_on_the_machine_cannot(monkeypatch, tmp_path, secret):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    (tmp_path / "gradio" / "link").symlink_to(secret)
    monkeypatch.chdir(tmp_path)
    for name in (
        str(secret),
        "secret.json",
        "./secret.json",
        "~/.ssh/id_rsa",
        "/no/such/file",
        "a/../secret.json",
        str(tmp_path / "gradio" / "../secret.json"),
        str(tmp_path / "gradio" / "link"),
    ):
        assert refused(name, name) == ["load.model", "data.source"], name


@pytest.mark.parametrize("private", [True, False])
def test_a_page_tells_it_with_all_other_problems(private, secret):
    page = Page("en", secret.parent, None, None, Settings(), private)
    fields, values = [("load", "model"), ("load", "bits"), ("data", "source")], [str(secret.parent), 3, str(secret)]
    with pytest.raises(PlaygroundError) as told:
        page.chosen(fields, values)
    assert [p.key for p in told.value.problems] == ["problem.bits"] + ([] if private else ["problem.not_here"] * 2)
    assert "anyone can open this page" in told.value.text("en") or private
