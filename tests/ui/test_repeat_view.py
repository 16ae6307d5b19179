"""The Take home tab repeats a run: its picture, its command, its settings file, and a file that is opened again."""

import json

import pytest
from actions import LONG, open_tab
from playwright.sync_api import expect

from playground import runs
from playground.i18n import translate
from playground.settings import Settings
from playground.share.command_lines import settings_text


@pytest.fixture(scope="module")
def run(app):
    """A fine-tune without steps, as the history shows one: its folder has an adapter."""
    made = runs.create(app.runs, "tune", Settings().with_values({"train": {"lr": 0.0123}}), hardware={"device": "cpu"})
    made.append("done", job="tune", result={"seconds": 5, "loss": {"before": 3.0, "after": 2.0}})
    made.adapter.mkdir()
    answers = {"question": "Where?", "base": {"text": "<b>no"}, "tuned": {"text": "Here."}}
    (made.folder / "answers.jsonl").write_text(json.dumps(answers) + "\n", encoding="utf-8")
    return made


def test_picture_command_and_settings_file_of_a_run(run, shared_page, tmp_path):
    page = shared_page
    open_tab(page, "tab.take")
    page.get_by_role("button", name=translate("en", "card.title")).click()
    picture = page.locator(".result-card svg[role=img]")
    expect(picture).to_contain_text("3.00 → 2.00", timeout=LONG)
    expect(picture).to_contain_text("<b>no")
    with page.expect_download() as download:
        page.get_by_role("button", name=translate("en", "card.png")).click()
    download.value.save_as(tmp_path / "card.png")
    assert (tmp_path / "card.png").read_bytes().startswith(b"\x89PNG")
    page.get_by_role("button", name=translate("en", "repeat.title")).click()
    expect(page.locator("label", has_text=translate("en", "repeat.command.info")).locator("textarea")).to_have_value(
        "python -m playground tune --lora-layers 0 --lr 0.0123 --batch-size 16"
    )
    page.get_by_role("button", name=translate("en", "repeat.make")).click()
    expect(page.get_by_text("ended before its first training step")).to_be_visible(timeout=LONG)
    upload = page.locator("input[type=file][accept*='.json']").last
    bad, good = tmp_path / "bad.json", tmp_path / "good.json"
    bad.write_text('{"schema": 987654}', encoding="utf-8")
    upload.set_input_files(bad)
    expect(page.get_by_text("987654")).to_be_visible()
    good.write_text(settings_text(Settings().with_values({"lora": {"r": 77}})), encoding="utf-8")
    upload.set_input_files(good)
    expect(page.get_by_text(translate("en", "repeat.opened", file="good.json"))).to_be_visible()
    open_tab(page, "tab.tune")
    expect(page.get_by_label(translate("en", "lora.r"), exact=True).locator("visible=true").first).to_have_value("77")
