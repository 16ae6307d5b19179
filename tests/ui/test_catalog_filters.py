"""The filters over the catalog's models in a real browser: their choices, a model's facts, and typed ids."""

import json
from pathlib import Path

import pytest
from actions import RENDERED, choose, load_toy, open_page, open_tab, unfold, visible_field
from pages import page_over
from playwright.sync_api import expect

from playground import catalog
from playground.catalog import filters
from playground.i18n import translate
from playground.settings import Settings
from playground.ui.model_choices import model_choices


def open_filters(page, lang: str = "en") -> None:
    """Open the Load tab with its filters shown."""
    open_tab(page, "tab.load", lang)
    unfold(page, "catalog.filter", lang)
    visible_field(page, translate(lang, "catalog.language")).wait_for()
    page.evaluate(RENDERED)


def pick(page, lang: str, key: str, value: str) -> None:
    """Choose in a dropdown by what it shows."""
    visible_field(page, translate(lang, key)).click()
    page.locator(f"[data-testid=dropdown-option][aria-label={json.dumps(value, ensure_ascii=False)}]").click()
    expect(page.get_by_test_id("dropdown-option")).to_have_count(0)


def offered(page, lang: str = "en") -> list[str]:
    """The names that the dropdown of models offers now."""
    field = visible_field(page, translate(lang, "load.model"))
    field.click()
    names = page.get_by_test_id("dropdown-option").all_inner_texts()
    field.blur()
    expect(page.get_by_test_id("dropdown-option")).to_have_count(0)
    return [name.replace("✓", "").strip() for name in names]


def named(models: list[str]) -> list[str]:
    """What the dropdown shows for these models, in its order."""
    page = page_over(Path("runs"))
    return [label for label, _ in model_choices(page, models)]


def outside() -> str:
    """How the form's first model is offered when the filters exclude it."""
    return f"{named([Settings().load.model])[0]} · {translate('en', 'catalog.outside.mark')}"


@pytest.fixture
def page(shared_page):
    """The Load tab with no filter set, and the form's first model."""
    open_filters(shared_page)
    for key in ("catalog.language", "catalog.size", "catalog.card"):
        pick(shared_page, "en", key, translate("en", f"{key}.any"))
    pick(shared_page, "en", "load.model", named([Settings().load.model])[0])
    return shared_page


def test_the_choices_follow_the_filters_and_facts_follow_the_choice(page):
    left = page.get_by_text(
        translate("en", "catalog.left", count=len(catalog.models()), all=len(catalog.models()))[:20]
    )
    expect(left.first).to_be_visible()
    assert offered(page) == named(filters.matching_models())
    pick(page, "en", "catalog.language", translate("en", "catalog.language.ja"))
    pick(page, "en", "catalog.size", translate("en", "catalog.size.large"))
    card = next(
        c
        for c in ((translate("en", "plan.card_name", gib=c["gib"], name=c["name"]), c["bytes"]) for c in _cards())
        if filters.matching_models("ja", "large", c[1])
    )
    pick(page, "en", "catalog.card", card[0])
    found = filters.matching_models("ja", "large", card[1])
    expect(
        page.get_by_text(translate("en", "catalog.left", count=len(found), all=len(catalog.models()))[:16]).first
    ).to_be_visible()
    assert offered(page) == [*named(found), outside()]
    expected = filters.model_facts(found[0], "en")
    pick(page, "en", "load.model", named(found)[0])
    facts = page.locator(".facts:not(.live .facts)").locator("visible=true")
    for text in (
        expected["for"],
        expected["family"],
        translate("en", "catalog.parameters", parameters=expected["parameters"]),
        expected["licence"],
        translate("en", "catalog.from", gib=expected["card"]["tune"]),
        expected["targets"][0],
    ):
        expect(facts.filter(has_text=text).first).to_be_visible()


def test_model_outside_the_filters_stays_chosen_by_its_name_and_is_said_to_be_outside(page):
    chosen, field = named([Settings().load.model])[0], visible_field(page, translate("en", "load.model"))
    said = page.get_by_text(translate("en", "catalog.outside", model=chosen))
    expect(field).to_have_value(chosen)
    pick(page, "en", "catalog.language", translate("en", "catalog.language.ja"))
    expect(said).to_be_visible()
    expect(field).to_have_value(outside())
    taken = named(["cyberagent/open-calm-small"])[0]
    pick(page, "en", "load.model", taken)
    expect(said).to_have_count(0)
    assert outside() not in offered(page)
    expect(field).to_have_value(taken)
    pick(page, "en", "catalog.language", translate("en", "catalog.language.any"))
    expect(field).to_have_value(taken)


def test_no_match_is_reported_and_typed_names_still_work(page, app):
    card = _cards()[0]
    assert not filters.matching_models("ja", "huge", card["bytes"])
    pick(page, "en", "catalog.language", translate("en", "catalog.language.ja"))
    pick(page, "en", "catalog.size", translate("en", "catalog.size.huge"))
    pick(page, "en", "catalog.card", translate("en", "plan.card_name", gib=card["gib"], name=card["name"]))
    expect(page.get_by_text(translate("en", "catalog.nothing"))).to_be_visible()
    assert offered(page) == [outside()]
    choose(page, translate("en", "load.model"), "nobody/no-such-model")
    expect(page.locator(".facts:not(.live .facts)").locator("visible=true")).to_have_count(0)
    load_toy(page, app)


def test_the_filters_fit_a_phone_in_japanese(browser, app):
    with open_page(browser, app, "/ja", 390, 844) as page:
        open_filters(page, "ja")
        pick(page, "ja", "catalog.language", translate("ja", "catalog.language.en"))
        left = translate("ja", "catalog.left", count=len(filters.matching_models("en")), all=len(catalog.models()))
        expect(page.get_by_text(left[:12])).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def _cards() -> list[dict]:
    from playground.catalog.cards import cards

    return cards()
