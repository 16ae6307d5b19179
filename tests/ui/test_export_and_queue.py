"""The Take home tab exports a run, and the queue works off what an earlier program left: on the engine, in a page."""

import re
import zipfile

import pytest
import torch
from actions import LONG, notices, open_tab, unfold
from peft import LoraConfig, get_peft_model
from playwright.sync_api import expect
from transformers import AutoModelForCausalLM

from playground import runs
from playground.i18n import translate
from playground.jobs import store
from playground.jobs.store import QueuedJob
from playground.settings import Settings

SWEEP = [{"train.lr": 0.001}, {"train.lr": 0.01}]


def _run(root, model, loss=2.0, **train):
    settings = Settings().with_values({"load": {"model": str(model), "bits": 32}, "train": train})
    made = runs.create(root, "tune", settings, hardware={"device": "cpu", "name": "CPU"})
    made.append("done", job="tune", result={"seconds": 5, "loss": {"before": 3.0, "after": loss}})
    return made


@pytest.fixture(scope="module")
def run(app):
    """A fine-tune that has an adapter, as PEFT saves it."""
    made = _run(app.runs, app.model)
    model = AutoModelForCausalLM.from_pretrained(app.model, dtype=torch.float32)
    get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(made.adapter)
    return made


@pytest.fixture(scope="module")
def queue(app, run):
    """What an earlier program left: a sweep that ended, a job that failed, two exports that wait."""
    swept = [_run(app.runs, app.model, 1.0 + n, lr=one["train.lr"]) for n, one in enumerate(SWEEP)]
    error = {"problems": [{"key": "error.no_run", "values": {"run": "x"}}]}
    jobs = [
        QueuedJob("tune", made.settings().to_dict(), group="sweep-1", combination=one, state="done", run=made.id)
        for made, one in zip(swept, SWEEP)
    ]
    jobs.append(QueuedJob("tune", run.settings().to_dict(), state="failed", error=error))
    jobs += [QueuedJob("export", options={"to": to}, uses=run.id) for to in ("merged", "adapter")]
    yield store.add(app.runs, jobs)
    for job in store.listing(app.runs).jobs:
        store.remove(app.runs, job.id)


def test_a_queue_that_was_left_goes_on_in_the_order_that_a_person_gives_it(app, run, queue, shared_page):
    page = shared_page
    open_tab(page, "tab.tune")
    jobs = page.locator(".queue .jobs > li")
    expect(jobs).to_have_count(5, timeout=LONG)
    expect(page.locator(".queue .notes")).to_contain_text("2 jobs left from an earlier start of the program")
    expect(page.locator(".queue .sweep svg[role=img]")).to_be_visible()
    expect(page.locator(".queue .sweep")).to_contain_text("1.000")
    expect(jobs.nth(2)).to_contain_text(translate("en", "error.no_run", run="x"))
    jobs.nth(4).get_by_role("button", name=translate("en", "queue.up")).click()
    expect(jobs.nth(3)).to_contain_text(translate("en", "queue.to.adapter"))
    jobs.nth(4).get_by_role("button", name=translate("en", "queue.remove")).click()
    expect(jobs).to_have_count(4)
    page.locator(".queue").get_by_role("button", name=translate("en", "queue.go_on")).click()
    expect(jobs.nth(3)).to_contain_text(translate("en", "queue.state.done"), timeout=LONG)
    with zipfile.ZipFile(run.folder / "export" / "adapter.zip") as archive:
        assert any(name.endswith("adapter_model.safetensors") for name in archive.namelist())
    page.locator(".queue").get_by_role("button", name=translate("en", "queue.clear")).click()
    expect(page.locator(".queue")).to_be_hidden()


def test_an_export_says_its_size_ends_in_a_download_and_refuses_a_name_that_is_taken(run, shared_page, tmp_path):
    page = shared_page
    open_tab(page, "tab.take")
    expect(page.locator(".export-size.prose")).to_contain_text("The disk has")
    name = page.get_by_label(f"{translate('en', 'export.name')} {translate('en', 'export.name.info')}", exact=True)
    name.fill("mine.zip")
    name.blur()
    page.locator("#export-start").click()
    expect(notices(page, "good")).to_contain_text("Exported: mine.zip", timeout=LONG)
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile(f"^{translate('en', 'export.download')} · ")).click()
    download.value.save_as(tmp_path / "mine.zip")
    assert zipfile.is_zipfile(tmp_path / "mine.zip")
    page.locator("#export-start").click()
    expect(notices(page)).to_contain_text("mine.zip", timeout=LONG)
    unfold(page, "trackio.title")
    expect(page.get_by_text("pip install trackio").or_(page.locator("#trackio-start"))).to_be_visible()
