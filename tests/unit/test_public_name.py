"""Names that others see: no folder of this machine, no upload, no path on a card or in an answer to a program."""

import json
from types import SimpleNamespace

import pytest

from playground import catalog, runs
from playground.catalog.public_name import public_name
from playground.export.model_card import hub_id, model_card
from playground.settings import Settings
from playground.share.card import card_of, shareable
from playground.ui import run_progress

OFFLINE = next(name for name in catalog.offline_models() if catalog.source_of(catalog.models()[name], "hub"))


@pytest.mark.parametrize(
    "name,shown",
    [
        ("owner/name", "owner/name"),
        ("owner/rows:config@train", "owner/rows:config@train"),
        ("owner/name/folder/file.gguf", "owner/name/folder/file.gguf"),
        ("https://host/rows.jsonl", "https://host/rows.jsonl"),
        (OFFLINE, OFFLINE),
        ("", ""),
        ("upload:" + 32 * "0" + "/rows.csv", "rows.csv"),
        ("secret/rows.jsonl", "rows.jsonl"),
        ("secret/deep/model", "model"),
        ("../secret/model/", "model"),
        ("/home/secret/model", "model"),
        ("~/secret/model", "model"),
        ("C:\\secret\\model", "model"),
        ("here/model", "model"),  # such a folder exists
    ],
)
def test_paths_and_uploads_are_their_last_part(tmp_path, monkeypatch, name, shown):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here/model").mkdir(parents=True)
    assert public_name(name) == shown


def _run(root, base, **values):
    run = runs.create(root, "tune", Settings().with_values(values))
    run.adapter.mkdir()
    (run.adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return run


@pytest.mark.parametrize("source", ["upload:" + 32 * "a" + "/rows.csv", "aaaa/here/rows.csv", "./aaaa/rows.csv"])
def test_no_path_is_on_a_card_or_in_a_command(tmp_path, source):
    values = {"data": {"source": source}, "lora": {"start_from": "/home/secret/first"}, "load": {"model": "x/aaaa/me"}}
    run = _run(tmp_path, "/home/secret/me", **values)
    shown = [model_card(run, "adapter", "en"), str(card_of(run, "en")), str(shareable(run.settings()))]
    assert all("aaaa" not in text and "secret" not in text and "rows.csv" in text for text in shown)
    assert shareable(run.settings()).lora.start_from == "first"


def test_a_relative_folder_that_is_gone_is_no_hub_id():
    cache = "/cache/models--models--mine/snapshots/0"
    assert hub_id("models/mine") == "models/mine" and hub_id("models/mine", cache) == "models/mine"
    assert hub_id("models/mine", "/work/models/mine") is None and hub_id("models/mine", "models/mine") == "models/mine"


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_a_card_says_that_the_offline_copy_is_not_the_hubs_model(tmp_path, lang):
    entry = catalog.models()[OFFLINE]
    own, hub = catalog.source_of(entry, "folder"), catalog.source_of(entry, "hub")
    said = catalog.display_name(hub).split("-")[0]
    cards = [model_card(_run(tmp_path, base, load={"model": OFFLINE}), "adapter", lang) for base in (f"/c/{own}", hub)]
    assert said in cards[0] and len(cards[0].split("\n\n")) == len(cards[1].split("\n\n")) + 1


def test_a_program_is_told_no_path_of_an_export(tmp_path):
    run = runs.create(tmp_path, "export", Settings())
    run.append("done", job="export", result={"run": run.id, "path": "/home/secret/model.gguf", "bytes": 3})
    page = SimpleNamespace(root=tmp_path, engine=SimpleNamespace(state="off", run=""))
    assert run_progress.RunProgress(page, run, "en").state()["result"] == {"run": run.id, "bytes": 3}
