"""What a page keeps: fields, the open tab and the unsent question, over a reload and a switch of language."""

import pytest
from actions import LONG, choose, choose_several, expand, fill, open_tab, press, run_row, unfold, visible_field
from playwright.sync_api import expect

from playground import runs
from playground.i18n import translate
from playground.settings import Settings
from playground.ui.comparison import Answer, Turn, kept_text
from playground.ui.recordings_view import describe

ASKED = Turn("Since when?", {"base": Answer("Always.", "end", 2, 4.0)}, measured="chat.measured")
LAYER = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def changed(shared_page, app):
    """A page whose epochs, rank and question were changed, on Compare, after the lab, ticked runs and a recording."""
    page = shared_page
    page.evaluate("text => sessionStorage.setItem('playground.conversation', text)", kept_text([ASKED]))
    tick_runs(page, app)
    change_lab(page, app)
    play_recording(page)
    open_tab(page, "tab.tune")
    fill(page, translate("en", "train.epochs"), "7")
    fill(page, translate("en", "lora.r"), "24")
    open_tab(page, "tab.chat")
    fill(page, translate("en", "chat.ask"), "Where is the ferry?")
    return page


def number(lang, key):
    """The label of a slider's number."""
    return f"number input for {translate(lang, key)}"


def tick_runs(page, app):
    """Tick two fine-tunes and put those that brought most first."""
    ended = [runs.create(app.runs, "tune", Settings()) for _ in range(2)]
    for run in ended:
        run.append("done", job="tune", result={})
    open_tab(page, "tab.runs")
    for run in ended:  # whose rows may come while those of before are shown
        run_row(page, run.id).locator(".tick input").check()
    page.locator(".runs .query .sort").select_option("loss")
    expect(page.locator("#runs-overlay figure, #runs-overlay svg").first).to_be_visible(timeout=LONG)


def change_lab(page, app):
    open_tab(page, "tab.lab")
    choose_several(page, "#lab-models", [str(app.model)])
    unfold(page, "weight.title")
    expect(page.locator("figure.weight")).to_be_visible(timeout=LONG)
    choose(page, translate("en", "weight.layer"), LAYER)
    choose(page, translate("en", "weight.kind"), translate("en", "weight.kind.float"))
    fill(page, number("en", "weight.bits"), "3")
    choose(page, translate("en", "weight.size"), "128")
    fill(page, number("en", "weight.rank"), "5")
    unfold(page, "race.title")
    page.get_by_label("8 int8", exact=True).locator("visible=true").first.uncheck()


def play_recording(page):
    """Play a recording that isn't the first of the list, at double speed, and pause it after 3 s."""
    open_tab(page, "tab.runs")
    unfold(page, "recordings.title")
    page.get_by_label(translate("en", "recordings.choice")).click()
    page.get_by_role("option", name="OpenCALM 7B, 4 bits").last.click()
    press(page, "recordings.play")
    player = page.locator(".live .player")
    expect(page.locator(".live .recorded")).to_contain_text("NVIDIA H100", timeout=LONG)
    player.locator("select").select_option("2")
    player.locator("input").evaluate("(node) => { node.value = 3; node.dispatchEvent(new Event('input')); }")
    expect(player.locator(".clock")).to_contain_text("0:03")


def assert_lab_kept(page, lang):
    open_tab(page, "tab.lab", lang)
    expect(page.locator("figure.weight")).to_contain_text(LAYER, timeout=LONG)
    for key, value in (("layer", LAYER), ("kind", translate(lang, "weight.kind.float")), ("size", "128")):
        expect(visible_field(page, translate(lang, f"weight.{key}"))).to_have_value(value)
    for key, value in (("weight.bits", "3"), ("weight.rank", "5")):
        expect(visible_field(page, number(lang, key))).to_have_value(value)
    expect(page.get_by_label("8 int8", exact=True).locator("visible=true").first).not_to_be_checked()
    expect(page.get_by_label("16", exact=True).locator("visible=true").first).to_be_checked()


def assert_recording_kept(page, lang):
    live = page.locator(".live")
    expect(live.locator(".recorded")).to_contain_text("NVIDIA H100", timeout=LONG)
    expect(live.locator(".recorded")).to_contain_text(translate(lang, "chart.recorded.speed", speed=2))
    expect(live.locator(".clock")).to_contain_text("0:03")
    expect(live.locator(".player button")).to_have_text("▶")
    open_tab(page, "tab.runs", lang)
    expect(page.get_by_label(translate(lang, "recordings.choice"))).to_have_value(describe(lang, "calm-7b-lora-4"))
    open_tab(page, "tab.chat", lang)


def assert_ticks_kept(page, lang):
    open_tab(page, "tab.runs", lang)
    expect(page.locator(".runs .tick input:checked")).to_have_count(2)
    expect(page.locator(".runs .query .sort")).to_have_value("loss")
    expect(page.locator("#runs-overlay figure, #runs-overlay svg").first).to_be_visible(timeout=LONG)


def assert_kept(page, lang):
    expect(page.get_by_role("tab", name=translate(lang, "tab.chat"))).to_have_attribute("aria-selected", "true")
    expect(visible_field(page, translate(lang, "chat.ask"))).to_have_value("Where is the ferry?")
    expect(page.locator(".turn .asked")).to_have_text("Since when?")
    expect(page.locator(".turn .status")).to_have_text(translate(lang, "chat.measured"))
    open_tab(page, "tab.tune", lang)
    expect(visible_field(page, translate(lang, "train.epochs"))).to_have_value("7")
    expect(visible_field(page, translate(lang, "lora.r"))).to_have_value("24")
    open_tab(page, "tab.chat", lang)
    page.wait_for_function("sessionStorage.getItem('playground.tab') === 'chat'")


def test_the_key_of_a_service_is_not_kept(changed):
    open_tab(changed, "tab.chat")
    expand(changed, "chat.service_title")
    changed.locator("input[type=password]").fill("secret-1234")
    changed.keyboard.press("Tab")
    changed.wait_for_function("sessionStorage.getItem('playground.fields')?.includes('Where is the ferry?')")
    assert "secret-1234" not in changed.evaluate("JSON.stringify({...sessionStorage, ...localStorage})")


def test_a_reload_keeps_fields_tab_and_question(changed):
    changed.reload()
    assert_kept(changed, "en")


def test_the_other_language_keeps_them_too(changed):
    changed.locator("a.language").click()
    expect(changed.get_by_role("tab", name=translate("ja", "tab.chat"))).to_be_visible()
    assert_kept(changed, "ja")
    assert_ticks_kept(changed, "ja")
    assert_lab_kept(changed, "ja")
    assert_recording_kept(changed, "ja")


def test_a_kept_tab_that_was_not_built_in_time_is_pressed_until_somebody_chooses(changed):
    start = changed.locator("[data-tab-id=start]")
    start.click()
    changed.evaluate("keptState.press('chat')")  # somebody clicked: theirs stays
    expect(start).to_have_attribute("aria-selected", "true")
    changed.evaluate("keptState.touched = false, keptState.press('chat')")
    expect(changed.locator("[data-tab-id=chat]")).to_have_attribute("aria-selected", "true")


def test_the_open_tab_is_kept_at_the_click_before_gradios_event(changed):
    kept = """tabs => Promise.all(tabs.map(async tab => {
      document.querySelector(`[data-tab-id=${tab}]`).click();
      await new Promise(done => setTimeout(done));
      return sessionStorage.getItem('playground.tab');
    }))"""
    assert changed.evaluate(kept, ["tune"]) == ["tune"]
    changed.evaluate("[...document.querySelectorAll('[data-tab-id=chat]')].at(-1).click()")
    changed.evaluate("keptState.open('tune')")  # an event that comes late
    assert changed.evaluate("sessionStorage.getItem('playground.tab')") == "chat"


def test_fields_that_were_not_changed_follow_the_language(page):
    open_tab(page, "tab.tune")
    fill(page, translate("en", "lora.r"), "24")
    page.locator("a.language").click()
    open_tab(page, "tab.load", "ja")
    expect(visible_field(page, translate("ja", "preset.label"))).to_have_value(translate("ja", "preset.demo-ja"))


def test_another_tab_of_the_browser_starts_anew(changed, browser, app):
    other = browser.new_page()
    other.goto(app.url)
    expect(other.get_by_role("tab", name=translate("en", "tab.start"))).to_have_attribute("aria-selected", "true")
    other.close()
