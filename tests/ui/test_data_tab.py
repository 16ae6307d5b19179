"""The Data tab in a real browser: a file is mapped, drawn token by token, filtered, costed, trained on; its errors."""

import json
import re

import pytest
import torch
import toys
from actions import (
    LONG,
    RENDERED,
    choose,
    choose_toy,
    expand,
    expect_counts,
    fill,
    notices,
    open_tab,
    press,
    upload,
    visible_field,
    wait_until_idle,
)
from playwright.sync_api import expect
from safetensors.torch import save_file

from playground.catalog.cards import cards
from playground.i18n import translate
from playground.settings import Train

BUNDLED = translate("en", "data.helpdesk.en")
ROWS = [{"c1": f"What is {n}?", "c2": f"It is <b>{n}</b>.", "kind": "odd" if n % 2 else "even"} for n in range(1, 21)]
PLAIN_ROWS = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(1, 9)]


# The page's next call that isn't queued reaches the program two seconds later.
FIRST_CALL_LATE = """() => {
  const fetched = window.fetch;
  window.fetch = async (...args) => {
    if (String(args[0]).includes("/run/predict")) {
      window.fetch = fetched;
      await new Promise((done) => setTimeout(done, 2000));
    }
    return fetched(...args);
  };
}"""


def prepare(page, app):
    """The Data tab with the toy model's tokenizer, as it opens: the bundled set, no other choices."""
    wait_until_idle(page)
    choose_toy(page, app)
    open_tab(page, "tab.data")
    source = visible_field(page, translate("en", "data.source"))
    if source.input_value() != BUNDLED:
        choose(page, translate("en", "data.source"), BUNDLED)
    choose(page, translate("en", "data.prompt_format"), translate("en", "choice.data.prompt_format.auto"))
    set_cutoff(page, str(Train().max_seq_length))
    expect_counts(page, train=330, held_out=90, total=420)
    expect(page.locator(".cost .histogram")).to_be_visible(timeout=2 * LONG)  # the planning process starts
    expect(notices(page)).to_have_count(0)
    return page


def set_cutoff(page, tokens: str) -> None:
    field = page.get_by_label(f"number input for {translate('en', 'rows.cutoff')}")
    field.fill(tokens)
    field.press("Tab")


@pytest.fixture
def data_tab(shared_page, app):
    return prepare(shared_page, app)


@pytest.fixture
def fresh_data_tab(page, app):
    """A newly opened page at its Data tab, for a test that maps columns and filters rows."""
    return prepare(page, app)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [*ROWS, ROWS[4], {"c1": "Empty?", "c2": "", "kind": "odd"}]))
    return path


def write(path, rows, broken: str = ""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + broken)
    return path


def test_counts_add_up_to_all_rows_of_the_set(data_tab):
    expect_counts(data_tab, train=330, held_out=90, total=420)
    expect(data_tab.locator(".about").first).to_contain_text(translate("en", "rows.in_file", count=420))


def test_the_tokens_of_a_row_are_counted_the_same_everywhere(data_tab):
    total = int(re.search(r"Tokens: ([0-9]+)", data_tab.locator(".xray > p").first.inner_text()).group(1))
    for legend in data_tab.locator(".xray .legend").all():
        assert sum(int(count) for count in legend.locator("b").all_inner_texts()) == total


def test_an_uploaded_file_is_drawn_at_once_under_its_own_name(data_tab, tmp_path):
    upload(data_tab, write(tmp_path / "my rows.jsonl", PLAIN_ROWS))
    expect(visible_field(data_tab, translate("en", "data.source"))).to_have_value("my rows.jsonl")
    expect(data_tab.locator(".xray .tokens")).to_contain_text("What is 1?", timeout=LONG)
    assert "gradio/" not in data_tab.inner_text("body") and "/tmp" not in data_tab.inner_text("body")


def test_a_broken_file_is_reported_once_and_the_report_vanishes(data_tab, tmp_path):
    upload(data_tab, write(tmp_path / "broken.jsonl", PLAIN_ROWS, '{"question": "What"\n'))
    expect(notices(data_tab)).to_have_count(1)
    expect(notices(data_tab)).to_contain_text("broken.jsonl, line 9")
    for place in (".counted-rows", ".drawn-tokens", ".drawn-cost"):
        expect(data_tab.locator(place).first).to_have_text("", timeout=LONG)
    assert data_tab.inner_text("body").count("line 9") == 1
    upload(data_tab, write(tmp_path / "whole.jsonl", PLAIN_ROWS))
    expect(notices(data_tab)).to_have_count(0, timeout=LONG)
    expect(data_tab.locator(".xray .tokens")).to_contain_text("What is 1?", timeout=LONG)


def test_pasted_rows_are_called_so(data_tab):
    expand(data_tab, "rows.paste")
    field = data_tab.get_by_placeholder(translate("en", "rows.paste.info"))
    field.fill("".join(json.dumps(row) + "\n" for row in PLAIN_ROWS) + "{broken\n")
    press(data_tab, "rows.paste.go")
    pasted = translate("en", "rows.pasted")
    expect(visible_field(data_tab, translate("en", "data.source"))).to_have_value(pasted)
    expect(notices(data_tab)).to_have_count(1)
    expect(notices(data_tab)).to_contain_text(f"{pasted}, line 9")


def test_the_line_of_the_cutoff_is_where_longer_rows_begin(data_tab):
    expect(data_tab.locator(".cost .cutoff.beyond")).to_have_text(re.compile("256"))
    set_cutoff(data_tab, "64")
    expect(data_tab.locator(".xray > p").first).to_contain_text("64", timeout=LONG)  # the row's tokens agree
    line = data_tab.locator(".cost .cutoff:not(.beyond)")
    expect(line).to_have_text(re.compile("64"), timeout=LONG)
    boxes = data_tab.evaluate("""() => [...document.querySelectorAll('.cost .columns > *')].map(node => {
      const {left, right} = node.getBoundingClientRect();
      return [node.className, left, right];
    })""")
    [x] = [right if "before" in look else left for look, left, right in boxes if "cutoff" in look]
    assert all(left < x for look, left, _ in boxes if look == "within")
    assert all(right > x for look, _, right in boxes if look == "over") and any(look == "over" for look, *_ in boxes)


def test_of_two_cutoffs_shortly_after_each_other_the_later_is_taken_over(data_tab):
    data_tab.evaluate(FIRST_CALL_LATE)
    set_cutoff(data_tab, "128")
    set_cutoff(data_tab, "64")
    expect(data_tab.locator(".xray > p").first).to_contain_text("Within the maximum length of 64", timeout=LONG)
    set_cutoff(data_tab, str(Train().max_seq_length))
    expect(data_tab.locator(".xray > p").first).to_contain_text("within the maximum length of 256", timeout=LONG)


def test_a_row_is_picked_by_keyboard_and_the_number_keeps_the_focus(data_tab):
    button = data_tab.locator(".first-rows button[data-row='3']")
    button.focus()
    button.press("Enter")
    number = visible_field(data_tab, translate("en", "rows.number"))
    expect(number).to_have_value("3")
    expect(data_tab.locator(".xray > p").first).to_contain_text("Row 3.", timeout=LONG)
    number.focus()
    number.fill("5")
    number.press("Enter")
    expect(data_tab.locator(".xray > p").first).to_contain_text("Row 5.", timeout=LONG)
    expect(number).to_be_focused()


def test_a_problem_of_the_template_stands_by_the_tokens_once(data_tab):
    data_tab.evaluate(RENDERED)
    number = visible_field(data_tab, translate("en", "rows.number"))
    number.fill("9999")
    number.press("Tab")
    expect(notices(data_tab)).to_have_count(1, timeout=LONG)
    expect(data_tab.locator(".drawn-tokens .notice")).to_contain_text("9999")
    expect(data_tab.locator(".cost .histogram")).to_be_visible()
    number.fill("2")
    number.press("Tab")
    expect(notices(data_tab)).to_have_count(0, timeout=LONG)


def test_custom_format_is_drawn_at_once_and_refused_without_an_answer(data_tab):
    tokens = data_tab.locator(".xray .tokens")
    expect(tokens).to_contain_text("password", timeout=LONG)
    choose(data_tab, translate("en", "data.prompt_format"), "custom")
    form = data_tab.get_by_label(translate("en", "data.custom_format")).locator("visible=true").first
    form.fill("Q: {instruction}")
    form.press("Tab")
    expect(notices(data_tab).first).to_contain_text("{answer}", timeout=LONG)
    form.fill("Frage: {instruction}\nAntwort: {answer}")
    form.press("Tab")
    expect(tokens).to_contain_text("Antwort", timeout=LONG)


def test_cutoff_changes_the_truncated_rows_and_the_cost(data_tab):
    expect(data_tab.locator(".cost .histogram i.within").first).to_be_visible(timeout=LONG)
    assert data_tab.locator(".cost .histogram i.over").count() == 0
    set_cutoff(data_tab, "64")
    expect(data_tab.locator(".cost .histogram i.over").first).to_be_visible(timeout=LONG)
    expect(data_tab.locator(".cost .facts .no").first).to_be_visible()


def test_a_model_larger_than_the_gpu_costs_what_it_needs_with_streamed_layers(fresh_data_tab, app, tmp_path):
    page, size = fresh_data_tab, {"hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32}
    folder = toys.too_large(tmp_path / "large", **size, num_attention_heads=32)
    save_file({"none": torch.zeros(1)}, folder / "model.safetensors")
    choose_toy(page, app, folder)
    open_tab(page, "tab.data")
    smallest = cards()[0]
    choose(page, translate("en", "plan.card"), translate("en", "plan.card_name", **smallest))
    facts = page.locator(".cost .facts")
    expect(facts).to_contain_text("of 32 layers streamed from RAM", timeout=LONG)
    expect(facts).to_contain_text(translate("en", "cost.no_streamed_estimate"))
    expect(facts).not_to_contain_text(translate("en", "plan.verdict.no"))


def test_format_of_pasted_rows_is_detected(data_tab):
    expand(data_tab, "rows.paste")
    data_tab.get_by_placeholder(translate("en", "rows.paste.info")).fill("question,answer\nWhere?,Here.\nWhen?,Now.\n")
    press(data_tab, "rows.paste.go")
    expect(data_tab.locator(".rows .quiet").first).to_contain_text("CSV")
    expect_counts(data_tab, train=1, held_out=1, total=2)


def test_uploaded_file_is_mapped_drawn_filtered_and_trained_on(fresh_data_tab, file):
    page = fresh_data_tab
    upload(page, file)
    expect(notices(page).first).to_contain_text("c1, c2, kind")
    expand(page, "rows.columns")
    expect(
        page.get_by_role("cell", name="What is 1?").or_(page.get_by_text("What is 1?")).locator("visible=true").first
    ).to_be_visible()
    for part, name in (("instruction", "c1"), ("output", "c2"), ("category", "kind")):
        choose(page, translate("en", f"rows.part.{part}"), name)
    expect(page.locator(".rows .columns li")).to_have_count(3)
    expect(notices(page)).to_have_count(0)
    expect_counts(page, train=18, held_out=2, left_out=2, total=22)
    dropped = page.locator(".rows .dropped")
    for reason, number in (("duplicate", 21), ("empty", 22)):
        where = translate("en", "rows.numbers", rows=number)
        expect(dropped).to_contain_text(f"{translate('en', f'dropped.{reason}')}: 1 ({where})")
    trained = page.locator(".xray .tokens .run.trained")
    expect(trained).to_contain_text("<b>", timeout=LONG)  # as text: nothing of a row is ever markup
    assert page.locator(".xray .tokens b").count() == 0
    expand(page, "rows.filter")
    choose(page, translate("en", "data.category"), "even")
    expect_counts(page, train=9, held_out=1, left_out=12, total=22)
    expect(page.locator(".cost .facts")).to_contain_text("tokens per epoch", timeout=LONG)
    open_tab(page, "tab.tune")
    fill(page, translate("en", "train.epochs"), "1")
    press(page, "tune.go")
    expect(page.locator(".live .notes")).to_contain_text(
        translate("en", "note.data", rows=9, held_out=1, total=22, template="chat"), timeout=LONG
    )  # until then the chart shows the run before
    expect(page.locator(".live .phase")).to_have_text(translate("en", "chart.outcome.done"), timeout=LONG)
