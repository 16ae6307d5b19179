"""The page on a phone, 390 pixels wide, in both languages: everything is there, in order, and nothing is wider."""

from dataclasses import fields

import pytest
from actions import (
    LONG,
    TABS,
    choose,
    expect_counts,
    fill,
    keep_brackets_whole,
    notices,
    open_page,
    open_tab,
    press,
    unfold,
)
from playwright.sync_api import expect

from playground.i18n import LANGUAGES, translate
from playground.settings import Data, Lora, Train

OVERFLOWING = """() => [...document.querySelectorAll('.form > .block')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)"""


@pytest.fixture(scope="module", params=LANGUAGES)
def lang(request):
    return request.param


@pytest.fixture(scope="module")
def phone(browser, app, lang):
    with open_page(browser, app, "" if lang == "en" else f"/{lang}", 390, 844) as page:
        keep_brackets_whole(page)
        yield page


def assert_fits(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(OVERFLOWING) == []


def test_every_tab_is_named_on_the_screen(phone, lang):
    for tab in TABS:
        expect(
            phone.get_by_role("tab", name=translate(lang, f"tab.{tab}")).locator("visible=true").first
        ).to_be_in_viewport()


def test_each_result_of_the_data_tab_follows_its_choices(phone, lang):
    open_tab(phone, "tab.data", lang)
    expect_counts(phone, train=330, held_out=90, total=420)
    names = ("source", "rows-shown", "selection", "template", "tokens-shown", "cutoff", "cost-shown")
    tops = [phone.locator(f".data-tab .{name}").first.bounding_box()["y"] for name in names]
    assert tops == sorted(tops)
    assert_fits(phone)


def test_every_setting_has_a_field(phone, lang):
    for key, folded, groups in (
        ("tab.data", ("rows.paste", "rows.columns", "rows.filter"), (Data,)),
        ("tab.tune", ("tune.lora", "tune.train", "tune.memory"), (Lora, Train)),
    ):
        open_tab(phone, key, lang)
        for part in folded:
            unfold(phone, part, lang)
        names = {f"{group.__name__.lower()}.{field.name}" for group in groups for field in fields(group)}
        names.discard("data.custom_format")  # visible only for a custom prompt format
        for name in sorted(names):
            hint = "snapshot.cpu" if name == "train.memory_snapshot" else f"{name}.info"  # which no CPU records
            expect(phone.get_by_text(translate(lang, hint), exact=True).locator("visible=true").first).to_be_visible()
        assert_fits(phone)


def test_the_plan_never_scrolls_sideways(phone, lang):
    open_tab(phone, "tab.plan", lang)
    expect(phone.locator(".plan .bar")).to_have_count(3, timeout=LONG)
    expect(phone.locator(".plan .pill").locator("visible=true")).to_have_text(
        translate(lang, "plan.predicted"), use_inner_text=True
    )
    for key in ("plan.more", "plan.explained", "plan.largest"):
        unfold(phone, key, lang)
    phone.locator(".largest table").first.wait_for()
    expect(phone.locator(".plan .arithmetic li").first).to_contain_text("GiB")
    assert_fits(phone)
    choose(phone, translate(lang, "load.model"), f"{translate(lang, 'catalog.mark')} OPT 125M")
    expect(phone.locator(".plan header strong")).to_have_text("OPT 125M", timeout=LONG)
    assert_fits(phone)


def test_errors_are_in_the_pages_language(phone, lang):
    open_tab(phone, "tab.tune", lang)
    fill(phone, translate(lang, "lora.r"), "0")
    press(phone, "tune.go", lang)
    expect(notices(phone).first).to_contain_text({"en": "rank r", "ja": "ランク r"}[lang])
    expect(phone.get_by_role("heading", name=translate(lang, "app.title"))).to_be_attached()
    assert_fits(phone)


ABOVE_LABEL = """key => {
  const label = [...document.querySelectorAll('[data-testid=block-info]')].find(e => e.innerText === key);
  const ask = document.querySelector('.compare-ask');
  const middle = e => {
    const box = e.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  scrollBy(0, middle(label)[1] - ask.getBoundingClientRect().y - 20);
  return ask.contains(document.elementFromPoint(...middle(label)));
}"""


def test_the_compare_tab_is_readable_and_nothing_shows_through_the_question(phone, lang):
    open_tab(phone, "tab.chat", lang)
    expect(phone.locator(".compare-notice button").locator("visible=true")).to_have_count(1, timeout=LONG)
    assert phone.locator(".compare-notice .notice").bounding_box()["width"] > 250
    assert phone.locator("#elsewhere textarea, #elsewhere input").first.bounding_box()["width"] > 100
    assert phone.evaluate(ABOVE_LABEL, translate(lang, "chat.elsewhere"))
    assert_fits(phone)
