"""Predictions of real runs in a real browser: beside what was measured, before out of memory, and after it."""

import resource
from contextlib import contextmanager

import psutil
import pytest
import toys
from actions import (
    LONG,
    check_radio,
    choose,
    choose_toy,
    expand,
    fill,
    newest_run,
    notices,
    open_tab,
    press,
    run_row,
    start_fine_tune,
    visible_field,
    wait_until_idle,
)
from playwright.sync_api import expect

from playground.i18n import translate

MIB = 2**20


@contextmanager
def address_space_limit(pid: int, limit: int):
    """Limit a process's address space to so many bytes, and lift the limit again whatever happens."""
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_real_run_is_predicted_while_it_goes_and_its_errors_are_recorded(page, app):
    choose_toy(page, app)
    expand(page, "load.details")
    choose(page, translate("en", "load.simulate_gpu_gib"), "0.7")
    start_fine_tune(page, app, "1")
    rows = page.locator(".live .comparison tbody tr")
    expect(rows).to_have_count(4, timeout=LONG)  # load and fine-tune, on this machine and on that card
    expect(page.locator(".live .phase")).to_have_text(translate("en", "chart.outcome.done"), timeout=LONG)
    expect(rows.nth(2)).to_contain_text(translate("en", "chart.job.tune"))
    expect(rows.nth(3)).to_contain_text(translate("en", "chart.verdict.no"))
    expect(page.locator(".live .predicted-total")).to_contain_text("iB")
    run = newest_run(app)
    wait_until_idle(page)
    open_tab(page, "tab.runs")
    expect(run_row(page, run.name)).to_have_attribute("aria-current", "true")
    page.get_by_role("button", name=translate("en", "accuracy.title")).click()
    expect(page.locator(".plan tr.group")).to_have_text(
        [translate("en", "chart.job.load"), translate("en", "chart.job.tune")]
    )
    weights = page.locator(".plan tr", has_text=translate("en", "chart.part.weights")).locator("visible=true")
    expect(weights).to_have_count(2)
    expect(weights.first).to_contain_text("%")
    expect(run_row(page, run.name)).to_contain_text(translate("en", "state.done"))


@pytest.fixture
def padded_model(tmp_path_factory):
    return toys.save(tmp_path_factory.mktemp("model") / "toy-bloom", "bloom", chat=True)


def test_after_out_of_memory_one_click_applies_a_suggestion(page, app, padded_model):
    wait_until_idle(page)
    choose_toy(page, app, padded_model)
    check_radio(page, "32")  # whose products are in torch's own memory on every processor
    press(page, "load.go")
    expect(notices(page, "good").filter(has_text="toy-bloom")).to_be_visible(timeout=LONG)
    worker = next(
        p
        for p in psutil.Process(app.process.pid).children(recursive=True)
        if "playground.engine.process" in " ".join(p.cmdline())
    )
    open_tab(page, "tab.tune")
    fill(page, translate("en", "train.epochs"), "100")  # longer than it takes to stop it
    for key, values in (
        ("tune.train", {"train.batch_size": "256"}),
        ("tune.memory", {"train.max_tokens_per_micro_batch": "200000", "train.gradient_checkpointing": "off"}),
    ):
        expand(page, key)
        for name, value in values.items():
            choose(page, translate("en", name), value)
    limit = worker.memory_info().vms + 60 * MIB  # a step of 256 padded rows takes some hundreds
    with address_space_limit(worker.pid, limit):
        press(page, "tune.go")
        expect(page.locator(".live .failure")).to_contain_text("Out of memory", timeout=LONG)
        expect(page.locator(".live .measured-total")).to_contain_text(
            translate("en", "chart.parts.full", total="")[:20]
        )
        buttons = page.locator(".suggestions button").locator("visible=true")
        expect(notices(page, "good").filter(has_text=translate("en", "suggestion.lead"))).to_be_visible(timeout=LONG)
        expect(buttons).to_have_count(3, timeout=LONG)
    saved = [text.split("saves ")[1] for text in buttons.all_inner_texts()]
    assert all("predicted" in text for text in saved)
    tokens = buttons.filter(has_text=translate("en", "suggestion.train.max_tokens_per_micro_batch", value=256))
    tokens.click()
    expect(visible_field(page, translate("en", "train.max_tokens_per_micro_batch"))).to_have_value("256")
    press(page, "tune.go")
    expect(page.locator(".live .phase")).to_have_text(translate("en", "phase.train"), timeout=LONG)
    expect(buttons).to_have_count(0)
    press(page, "strip.stop")
    expect(page.locator(".live .phase")).to_have_text(translate("en", "chart.outcome.stopped"), timeout=LONG)


def test_model_that_cannot_fit_is_refused_and_can_be_forced(page, app, tmp_path):
    wait_until_idle(page)
    choose_toy(page, app, toys.too_large(tmp_path / "giant"))
    check_radio(page, "32")  # at 16, files are read where they lie, and fewer bits save nothing while loading
    press(page, "load.go")
    expect(page.locator(".notice.bad", has_text="(predicted)").first).to_be_visible(timeout=LONG)
    force = page.get_by_role("button", name=translate("en", "load.force"))
    expect(force).to_be_visible()
    expect(
        page.locator(".suggestions button", has_text=translate("en", "suggestion.load.bits", value=4)).first
    ).to_be_visible(timeout=LONG)
    force.click()
    expect(page.locator(".notice.bad", has_text="web page").first).to_be_visible(timeout=LONG)
    expect(force).to_be_hidden()
