"""The Runs tab: a picked run stays picked, a row's buttons act on that row alone, and a deletion can be undone."""

import shutil
import time

import pytest
from actions import (
    LONG,
    choose_toy,
    download,
    notices,
    open_page,
    open_tab,
    press,
    row_button,
    run_row,
    start_fine_tune,
    unfold,
    wait_until_idle,
    wait_until_tuned,
)
from playwright.sync_api import expect

from playground import runs
from playground.i18n import translate
from playground.runs.store import TRASH
from playground.settings import Settings

HARDWARE = {"device": "cpu", "name": "CPU", "capacity": 2**33}
PHASES = (("fetch", 0.0), ("train", 0.1), ("save", 1.5), ("idle", 1.6))
TICKS = "() => [...document.querySelectorAll('.live .memory .xtick text')].map(tick => tick.textContent)"
# The server's answer with all events of a run comes three seconds late; several polls pass meanwhile.
LATE_EVENTS = """() => {
  window.promptFetch = window.fetch;
  window.fetch = async (url, options) => {
    if (String(options?.body).includes('all_events')) await new Promise((resolve) => setTimeout(resolve, 3000));
    return window.promptFetch(url, options);
  };
}"""
MARKED = "() => [...document.querySelectorAll('.runs tr[aria-current]')].map(row => row.dataset.run)"


def _past_run(app, job="tune", source="helpdesk.en"):
    """A run of 1.6 seconds with phases too short for a label, as the engine would have written it."""
    settings = Settings().with_values({"load": {"bits": 16}, "data": {"source": source}})
    run = runs.create(app.runs, job, settings, hardware=HARDWARE)
    for name, at in PHASES:
        run._clock = time.monotonic() - at  # so that an event is written as of that second
        run.append("phase", name=name)
        run.append("memory", rss=2**30)
    result = {"loss": {"before": 3.0, "after": 1.5}, "recall": {"base": 0.0, "tuned": 0.91}} if job == "tune" else {}
    run._clock = time.monotonic() - PHASES[-1][1]
    run.append("done", job=job, result=result)
    return run


@pytest.fixture
def page(shared_page):
    open_tab(shared_page, "tab.load")  # so that opening the Runs tab lists the runs anew
    return shared_page


@pytest.fixture
def past(app):
    """Two fine-tunes and a load; whatever a test does with them, they are gone after it."""
    made = [_past_run(app), _past_run(app, source="/tmp/gradio/0a1b/my rows.csv"), _past_run(app, "load")]
    yield made
    for run in made:
        for folder in (run.folder, app.runs / TRASH / run.id):
            shutil.rmtree(folder, ignore_errors=True)


def test_fine_tunes_stand_first_with_readable_names_and_loads_are_folded(app, past, page):
    open_tab(page, "tab.runs")
    tune, uploaded, load = past
    first = page.locator(f'.runs .tunes tr[data-run="{tune.id}"]')
    expect(first).to_contain_text("SmolLM2 135M Instruct · 16 bits · Help desk (English)")
    expect(first.get_by_role("cell")).to_have_text(
        [
            "3.000 → 1.500",
            "0% → 91%",
            "",
            "",
            "0:02",
            "done",
            "r 8 · lr 0.001 · epochs 3CompareShowUse settingsName and noteDelete",
        ]
    )
    expect(run_row(page, uploaded.id)).to_contain_text("my rows.csv")
    expect(run_row(page, uploaded.id)).not_to_contain_text("/tmp/")
    folded = page.locator(f'.runs .others tr[data-run="{load.id}"]')
    expect(folded).to_be_hidden()
    page.locator(".runs summary").click()
    expect(folded).to_be_visible()


def test_a_picked_run_stays_picked_while_another_job_runs_and_ends(app, past, page, browser):
    picked, other, _ = past
    wait_until_idle(page)
    open_tab(page, "tab.runs")
    run_row(page, picked.id).locator("th").click()
    expect(run_row(page, picked.id)).to_have_attribute("aria-current", "true")
    second = browser.new_page()
    second.goto(app.url)
    newest = start_fine_tune(second, app, "0.2").name
    wait_until_tuned(second)
    second.close()
    expect(run_row(page, newest)).to_contain_text(translate("en", "state.done"), timeout=LONG)
    assert page.evaluate(MARKED) == [picked.id]
    row_button(page, other.id, "runs.delete").click()
    expect(run_row(page, other.id)).to_contain_text(translate("en", "runs.deleted"))
    assert picked.folder.is_dir() and (app.runs / newest).is_dir() and not other.folder.exists()
    assert page.evaluate(MARKED) == [picked.id]
    expect(page.locator(".live .facts")).to_contain_text("0:02")
    press(page, "runs.live")
    expect(run_row(page, newest)).to_have_attribute("aria-current", "true")
    expect(page.get_by_role("button", name=translate("en", "runs.live"))).to_be_hidden()


def test_a_run_is_named_and_found_by_its_name(app, past, page):
    run, name = past[0], 'a/b <b>"x"</b> 🎚️ ' + "n" * 280
    open_tab(page, "tab.runs")
    row_button(page, run.id, "runs.edit").click()
    row = run_row(page, run.id)
    row.get_by_label(translate("en", "runs.name"), exact=True).fill(name)
    row.get_by_label(translate("en", "runs.note"), exact=True).fill("warmer")
    row.get_by_role("button", name=translate("en", "runs.save"), exact=True).click()
    expect(row.locator("th span")).to_have_text(name)
    expect(row.locator(".note")).to_have_text("warmer")
    assert runs.read_label(run.folder) == runs.Label(name, "warmer")
    search = page.locator(".runs .query input")
    search.fill("WARMER")
    expect(page.locator(".runs .tunes tbody tr")).to_have_count(1)
    expect(row).to_be_visible()
    search.fill("no such run")
    expect(page.locator(".runs .none")).to_have_text(translate("en", "runs.none_found"))
    search.fill("")
    expect(run_row(page, past[1].id)).to_be_visible()


def test_ticked_runs_are_laid_over_each_other_until_one_is_deleted(app, past, page):
    open_tab(page, "tab.runs")
    overlay, chosen = page.locator("#runs-overlay"), page.locator(".runs .chosen")
    for run in past:
        run_row(page, run.id).get_by_label(translate("en", "overlay.choose")).check()
    expect(overlay.locator(".runs-of li")).to_have_count(3)
    expect(overlay.locator(".plot .line")).to_have_count(3)  # of memory: these runs have no steps
    expect(overlay).to_contain_text(translate("en", "overlay.no_steps", letters=["A", "B", "C"]))
    expect(overlay.locator("tr", has_text=translate("en", "data.source"))).to_contain_text("my rows.csv")
    expect(overlay).not_to_contain_text("/tmp/")
    page.locator(".runs .query input").fill("no such run")  # what is ticked stays so, out of sight
    expect(page.locator(f'.runs tr[data-run="{past[0].id}"]')).to_have_count(0)
    page.locator(".runs .query input").fill("")
    expect(run_row(page, past[0].id).get_by_label(translate("en", "overlay.choose"))).to_be_checked()
    row_button(page, past[0].id, "runs.delete").click()
    expect(overlay.locator(".runs-of li")).to_have_count(2)
    run_row(page, past[2].id).get_by_label(translate("en", "overlay.choose")).uncheck()
    expect(overlay.locator(".notice")).to_have_text(translate("en", "error.overlay_count", count=1))
    expect(chosen.locator(".go")).to_be_hidden()
    chosen.locator(".clear").click()
    expect(overlay).to_have_text(translate("en", "overlay.lead"))


def test_a_deletion_is_undone_even_after_a_reload(app, past, page):
    run = past[0]
    before = sorted(path.name for path in run.folder.iterdir())
    open_tab(page, "tab.runs")
    row_button(page, run.id, "runs.delete").click()
    expect(run_row(page, run.id)).to_contain_text(translate("en", "runs.deleted"))
    assert not run.folder.exists() and (app.runs / TRASH / run.id).is_dir()
    page.reload()
    open_tab(page, "tab.runs")
    row_button(page, run.id, "runs.undo").click()
    expect(row_button(page, run.id, "runs.show")).to_be_visible()
    assert sorted(path.name for path in run.folder.iterdir()) == before


def test_an_emptied_trash_removes_the_row(app, past, page):
    open_tab(page, "tab.runs")
    row_button(page, past[1].id, "runs.delete").click()
    press(page, "runs.empty_trash")
    expect(page.locator(f'.runs tr[data-run="{past[1].id}"]')).to_have_count(0)
    expect(page.locator(".runs .trash")).to_be_hidden()
    assert not list((app.runs / TRASH).iterdir())


def test_a_run_that_is_shown_leaves_the_live_view_when_it_is_deleted(app, past, page):
    open_tab(page, "tab.runs")
    row_button(page, past[0].id, "runs.show").click()
    expect(run_row(page, past[0].id)).to_have_attribute("aria-current", "true")
    row_button(page, past[0].id, "runs.delete").click()
    page.wait_for_function(f"run => !({MARKED.strip()})().includes(run)", arg=past[0].id)
    expect(page.get_by_text(translate("en", "chart.gone"))).to_be_hidden()


def test_runs_that_are_deleted_shortly_after_each_other_all_go(app, past, page):
    open_tab(page, "tab.runs")
    expect(row_button(page, past[0].id, "runs.delete")).to_be_visible()
    page.evaluate("() => document.querySelectorAll('.runs [data-event=delete_run]').forEach(button => button.click())")
    for run in past:
        expect(row_button(page, run.id, "runs.undo")).to_be_visible()
        assert not run.folder.exists()


def test_the_keyboard_alone_shows_deletes_and_restores(app, past, page):
    run = past[0]
    focused = "() => [document.activeElement.closest('tr')?.dataset.run, document.activeElement.dataset.event]"
    open_tab(page, "tab.runs")
    row_button(page, run.id, "runs.show").focus()
    page.keyboard.press("Enter")
    expect(run_row(page, run.id)).to_have_attribute("aria-current", "true")
    assert page.evaluate(focused) == [run.id, "show_run"]
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate(focused) == [run.id, "delete_run"]
    page.keyboard.press("Space")
    expect(row_button(page, run.id, "runs.undo")).to_be_focused()
    page.keyboard.press("Enter")
    expect(row_button(page, run.id, "runs.show")).to_be_focused()
    assert run.folder.is_dir()


def test_focus_stays_where_rows_come_and_go_around_it(app, past, page):
    """On a button and on a tick, also where their row is drawn anew, and where a run above it comes and goes."""
    focused = "() => [document.activeElement.closest('tr')?.dataset.run, document.activeElement.outerHTML.slice(0, 12)]"
    open_tab(page, "tab.runs")
    tick = run_row(page, past[0].id).get_by_label(translate("en", "overlay.choose"))
    tick.focus()
    before = page.evaluate(focused)
    row_button(page, past[0].id, "runs.show").evaluate("button => button.click()")  # which leaves focus alone
    expect(run_row(page, past[0].id)).to_have_attribute("aria-current", "true")
    assert page.evaluate(focused) == before
    turn = page.locator(".runs .query .reverse")
    for _ in range(2):  # other rows come before it, and after it
        made = _past_run(app)
        turn.evaluate("button => button.click()")
        expect(run_row(page, made.id)).to_be_visible()
        assert page.evaluate(focused) == before
        shutil.rmtree(made.folder)


def test_a_runs_settings_go_into_the_form(app, past, browser):
    with open_page(browser, app) as page:
        open_tab(page, "tab.runs")
        row_button(page, past[1].id, "runs.reuse").click()
        expect(notices(page, "good").first).to_contain_text("my rows.csv")
        open_tab(page, "tab.data")
        source = page.get_by_label(translate("en", "data.source"), exact=True).first
        expect(source).to_have_value("my rows.csv")  # without the folder of uploads


def test_starting_a_job_leads_back_from_a_past_run(app, past, page):
    wait_until_idle(page)
    open_tab(page, "tab.runs")
    row_button(page, past[0].id, "runs.show").click()
    expect(run_row(page, past[0].id)).to_have_attribute("aria-current", "true")
    choose_toy(page, app)
    press(page, "load.go")
    expect(page.locator(".live .run-title")).to_contain_text("toy-llama", timeout=LONG)


def test_a_short_run_has_ticks_that_differ_and_names_its_narrow_phases(app, past, page):
    open_tab(page, "tab.runs")
    row_button(page, past[0].id, "runs.show").click()
    page.wait_for_function(f"() => ({TICKS.strip()})().length > 1", timeout=LONG)
    ticks = page.evaluate(TICKS)
    assert len(set(ticks)) == len(ticks), ticks
    bands = page.locator('.live .memory .legend li:has(i[data-kind="band"])')
    expect(bands).to_have_text([translate("en", "phase.fetch"), translate("en", "phase.save")])


def test_thirty_runs_scroll_within_the_table(app, browser):
    made = [_past_run(app) for _ in range(30)]
    below = translate("ja", "accuracy.record")
    try:
        with open_page(browser, app, "/ja") as page:
            open_tab(page, "tab.runs", "ja")
            expect(run_row(page, made[0].id)).to_be_attached()
            for width, height in ((1440, 900), (390, 844)):
                page.set_viewport_size({"width": width, "height": height})
                sizes = page.locator(".runs .tunes .scroll").evaluate(
                    "e => [e.scrollHeight > e.clientHeight, e.scrollWidth <= e.clientWidth]"
                )
                assert sizes == [True, True]
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert width == 390 or page.get_by_role("button", name=below).bounding_box()["y"] < 2 * height
    finally:
        for run in made:
            shutil.rmtree(run.folder)


def test_a_prediction_is_compared_with_the_measurement_and_recorded(app, page):
    run = runs.create(app.runs, "load", Settings(), hardware=HARDWARE)
    run.append("memory_predicted", phase="load", parts={"weights": 2**30}, allocated=2**30, rss=2**31)
    run.append("memory_measured", phase="load", peak={"rss": 2**30}, parts={"weights": 2**30})
    run.append("done", job="load", result={"run": run.id})
    open_tab(page, "tab.runs")
    row_button(page, run.id, "runs.show").click()
    unfold(page, "accuracy.title")
    row = page.locator(".plan tr", has_text=translate("en", "chart.memory.rss")).locator("visible=true")
    expect(row).to_contain_text("2.00 GiB")
    expect(row).to_contain_text("+100.0%")
    page.get_by_role("button", name=translate("en", "accuracy.record")).click()
    expect(page.locator(".scrolled tr", has_text="2.00 GiB → 1.00 GiB")).to_be_visible()
    runs.delete(app.runs, run.id)


def test_a_shipped_recording_is_played_paused_moved_and_never_taken_for_live(app, page):
    open_tab(page, "tab.runs")
    unfold(page, "recordings.title")
    choice = page.get_by_label(translate("en", "recordings.choice"))
    choice.click()
    page.get_by_role("option", name="OpenCALM 7B, 4 bits").last.click()
    press(page, "recordings.play")
    live, player = page.locator(".live"), page.locator(".live .player")
    expect(live.locator(".recorded")).to_contain_text("NVIDIA H100", timeout=LONG)
    expect(live.locator(".recorded")).to_contain_text(translate("en", "chart.recorded.random"))
    expect(live.locator(".step, .phase").first).not_to_be_empty()
    expect(player.locator("button")).to_have_attribute(
        "aria-label", translate("en", "chart.player.pause"), timeout=LONG
    )
    player.locator("button").click()  # it plays since all its events are here
    shown = player.locator(".clock").inner_text()
    page.wait_for_timeout(1500)
    expect(player.locator(".clock")).to_have_text(shown)
    _move(player, "input", "input", 999)
    expect(live.locator(".phase")).to_have_text(translate("en", "chart.outcome.done"))
    _move(player, "input", "input", 0.1)
    expect(live.locator(".phase")).not_to_have_text(translate("en", "chart.outcome.done"))
    _move(player, "select", "change", 20)
    expect(live.locator(".recorded")).to_contain_text(translate("en", "chart.recorded.speed", speed=20))
    player.locator("button").click()
    expect(live.locator(".phase")).to_have_text(translate("en", "chart.outcome.done"), timeout=LONG)
    expect(live.locator(".recorded")).to_be_visible()
    expect(page.locator(".strip .run")).not_to_contain_text(translate("en", "chart.job.tune"))


def test_an_ended_run_is_played_again_and_marked_while_it_plays(app, page, past):
    open_tab(page, "tab.runs")
    row_button(page, past[0].id, "runs.show").click()
    live, player = page.locator(".live"), page.locator(".live .player")
    expect(player).to_be_visible(timeout=LONG)
    expect(live.locator(".recorded")).to_be_hidden()
    player.locator("button").click()
    expect(live.locator(".recorded")).to_contain_text("CPU")
    expect(live.locator(".phase")).to_have_text(translate("en", "chart.outcome.done"), timeout=LONG)


def test_a_run_whose_events_come_late_is_played_all_the_same(app, page, past):
    open_tab(page, "tab.runs")
    row_button(page, past[0].id, "runs.show").click()
    live, play = page.locator(".live"), page.locator(".live .player button")
    expect(play).to_be_visible(timeout=LONG)

    page.evaluate(LATE_EVENTS)
    play.click()
    expect(live.locator(".recorded")).to_contain_text("CPU", timeout=LONG)
    page.evaluate("() => { window.fetch = window.promptFetch; }")


def test_a_recording_is_opened_from_a_file_and_the_shown_run_saved_as_one(app, page, past, tmp_path):
    open_tab(page, "tab.runs")
    unfold(page, "recordings.title")
    row_button(page, past[0].id, "runs.show").click()
    file = download(page, translate("en", "recordings.save"), tmp_path / "saved.jsonl")
    before = {run.id for run in runs.history(app.runs)}
    with page.expect_file_chooser() as chooser:
        press(page, "recordings.open")
    chooser.value.set_files(file)
    expect(page.locator(".live .recorded")).to_contain_text("CPU", timeout=LONG)
    [opened] = {run.id for run in runs.history(app.runs)} - before
    runs.delete(app.runs, opened)


def _move(player, part, event, value):
    player.locator(part).evaluate(
        "(node, [event, value]) => { node.value = value; node.dispatchEvent(new Event(event)); }", [event, value]
    )
