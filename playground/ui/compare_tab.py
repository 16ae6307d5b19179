"""Tab "Compare": one question to the base and the tuned model, and to an OpenAI-compatible service if one is named."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from playground import ASSETS, catalog
from playground.errors import Problem, problem
from playground.settings import Generation, Settings, raise_all
from playground.ui import adapter_choice, card_picture, chat_settings, foreign_adapter
from playground.ui.chat_settings import ChatSettings
from playground.ui.compare_answers import Request, answer
from playground.ui.compare_heads import head_texts, notice_updates, with_tab
from playground.ui.comparison import Turn, comparison_html, heads_html, kept
from playground.ui.conversation import new_turn
from playground.ui.foreign_adapter import base_of, check_allowed, is_foreign
from playground.ui.known_answers import help_desk_examples, known_answers
from playground.ui.page import LATEST_ONLY, QUIET, UNQUEUED, Page, message, message_box, select_tab

AFTER_A_MOMENT = "() => new Promise((done) => setTimeout(done, 1500))"
FOCUS_QUESTION = "() => { document.querySelector('#question textarea').focus(); }"


@dataclass(frozen=True)
class CompareTab:
    """The tab's components.

    turns: a gr.State of Turns, which `comparison` shows. seen_runs: a gr.State, as in adapter_choice.py.
    """

    adapter: gr.Dropdown
    elsewhere: gr.Textbox
    elsewhere_message: gr.HTML
    seen_runs: gr.State
    notice: gr.HTML
    use_model: gr.Button
    go_tune: gr.Button
    heads: gr.HTML
    turns: gr.State
    comparison: gr.HTML
    message: gr.HTML
    question: gr.Textbox
    send: gr.Button
    clear: gr.Button
    examples: gr.Dataset
    settings: ChatSettings
    picture: gr.HTML


def build(page: Page) -> CompareTab:
    """The tab's components."""
    translate = page.translate
    gr.Markdown(translate("chat.lead"), elem_classes="lead")
    with gr.Row():
        adapter = gr.Dropdown(
            label=translate("chat.adapter"),
            info=translate("chat.adapter.info"),
            choices=[(translate("chat.none"), "")],
            value=None,
            min_width=260,
        )  # the first refresh selects the newest
        elsewhere = foreign_adapter.build(page)
    elsewhere_message = message_box()
    seen_runs = gr.State({})
    with gr.Row(elem_classes="compare-notice"):
        notice = message_box()
        use_model = gr.Button(translate("chat.use_model"), visible=False, scale=0, min_width=220)
        go_tune = gr.Button(with_tab(page, "chat.go_tune"), visible=False, scale=0, min_width=220)
    heads = gr.HTML(heads_html(page.lang, head_texts(page, "", "", 0, False)), elem_classes="compare-heads")
    turns = gr.State([])
    script = (ASSETS / "compare.js").read_text(encoding="utf-8")
    comparison = gr.HTML(comparison_html(page.lang, []), js_on_load=script, apply_default_css=False)
    with gr.Column(elem_classes="compare-ask"):
        box = message_box()
        with gr.Row(elem_classes="compare-line"):
            question = gr.Textbox(
                label=translate("chat.ask"),
                placeholder=translate("chat.placeholder"),
                elem_id="question",
                container=False,
                lines=1,
                max_lines=4,
                scale=5,
                min_width=160,
            )
            send = gr.Button(translate("chat.send"), variant="primary", scale=0, min_width=150)
        with gr.Row(elem_classes="compare-more"):
            examples = gr.Dataset(
                components=[gr.Textbox(visible=False)],
                samples=_samples(page, ""),
                layout="gallery",
                show_label=False,
                label=translate("chat.examples"),
                samples_per_page=20,
                scale=5,
            )
            clear = gr.Button(translate("chat.clear"), size="sm", scale=0, min_width=160)
    settings = chat_settings.build(page)
    with gr.Accordion(translate("chat.memory"), open=False):
        picture = card_picture.build(page)
    return CompareTab(
        adapter, elsewhere, elsewhere_message, seen_runs, notice, use_model, go_tune, heads, turns, comparison, box,
        question, send, clear, examples, settings, picture,
    )  # fmt: skip


def connect(page: Page, tab: CompareTab, tabs: gr.Tabs, header: gr.Tab, live_view: gr.HTML) -> None:
    """Attach the tab's listeners, once all fields of the page exist."""
    chat_settings.connect(tab.settings)
    _connect_questions(page, tab)
    cleared = [tab.turns, tab.comparison, tab.message]
    _connect_clear(page, tab, cleared)
    select_tab(tab.go_tune.click, tabs, "tune")
    adapter_choice.connect(page, tab.adapter, tab.seen_runs, header)
    choices = partial(adapter_choice.choices_with, page)
    foreign_adapter.connect(page, tab.elsewhere, tab.adapter, tab.elsewhere_message, choices)
    _connect_model(page, tab)
    card_picture.connect_form(page, tab.picture, "chat", header, live_view)


def _connect_clear(page: Page, tab: CompareTab, cleared: list) -> None:
    """Drop the conversation, and a moment later draw the empty one once more, unless a question was asked meanwhile.

    The last update of an answer can reach a busy browser, or the state of the page, after those of the click.
    """

    def empty(turns: list[Turn], adapter: str, service: bool) -> Any:
        return gr.skip() if kept(turns) else comparison_html(page.lang, turns, adapter, service)

    dropped = tab.clear.click(lambda turns: _clear(page, turns), tab.turns, cleared, **QUIET)
    settled = dropped.then(None, None, None, js=AFTER_A_MOMENT, api_visibility="private")
    held = [tab.turns, tab.adapter, tab.settings.service_enabled]
    settled.then(empty, held, tab.comparison, **LATEST_ONLY, queue=False)


def _connect_questions(page: Page, tab: CompareTab) -> None:
    """Send the question, or an example at once."""

    def ask(question: str, turns: list[Turn], adapter: str, *values: Any) -> Iterator[tuple]:
        """One generator answers all columns: several listeners of one click would answer one after the other."""
        yield from _ask(page, question, turns, adapter, values)

    def ask_example(example: list | None, *values: Any) -> Iterator[tuple]:
        """The same, and what is typed but not sent stays."""
        if not example:
            raise problem("request.value", field="example", value=str(example))
        for _, *updates in ask(example[0], *values):
            yield gr.skip(), *updates

    outputs = [tab.question, tab.turns, tab.comparison, tab.message]
    inputs = [tab.turns, tab.adapter, *page.inputs(), *tab.settings.components]
    tab.send.click(None, None, None, js=FOCUS_QUESTION)
    for trigger in (tab.send.click, tab.question.submit):
        trigger(ask, [tab.question, *inputs], outputs, **QUIET)
    tab.examples.click(ask_example, [tab.examples, *inputs], outputs, **QUIET)


def _connect_model(page: Page, tab: CompareTab) -> None:
    """Keep heads, notice and examples in step with the adapter, the form's model and whether a service is asked."""

    def describe(adapter: str, model: str, bits: int, service: bool, turns: list[Turn]) -> tuple:
        heads = heads_html(page.lang, head_texts(page, adapter, model, bits, service))
        # The demo draws its own turns, which this page doesn't have before it ends.
        drawn = gr.skip() if page.story.running else comparison_html(page.lang, turns, adapter, service)
        return heads, drawn, *notice_updates(page, adapter, model)

    form = [page.fields["load", "model"], page.fields["load", "bits"]]
    inputs = [tab.adapter, *form, tab.settings.service_enabled, tab.turns]
    outputs = [tab.heads, tab.comparison, tab.notice, tab.use_model, tab.go_tune]
    changes = [component.change for component in (tab.adapter, *form, tab.settings.service_enabled)]
    gr.on(changes, describe, inputs, outputs, **LATEST_ONLY, queue=False)  # one listener: its last answer stays
    tab.adapter.change(lambda run_id: gr.Dataset(samples=_samples(page, run_id)), tab.adapter, tab.examples, **UNQUEUED)
    load_fields = [name for name in page.fields if name[0] == "load"]

    def use_model(adapter: str) -> list:
        if is_foreign(adapter):
            base = base_of(page, adapter)
            return [base if base and name == "model" else gr.skip() for _, name in load_fields]
        load = page.run_settings(adapter).load
        return [getattr(load, name) for _, name in load_fields]

    tab.use_model.click(use_model, tab.adapter, [page.fields[name] for name in load_fields], **UNQUEUED)


def _ask(page: Page, question: str, turns: list[Turn], adapter: str, values: Sequence) -> Iterator[tuple]:
    """Updates of question, turns, comparison and message while a question is answered.

    Where no answer comes, the question returns to its field and the comparison stays as it was.
    """
    unchanged = (gr.skip(), gr.skip())
    try:
        request = _parse(page, question, adapter, values)
        answering = answer(page, request, turns)
        next(answering)
    except Exception as error:
        yield gr.skip(), *unchanged, page.error_message(error)
        return
    has_service = request.service is not None

    def shown(listed: list[Turn], busy: bool = False) -> tuple:
        return listed, comparison_html(page.lang, listed, adapter, has_service, busy)

    with_turn = [*kept(turns), request.turn]
    yield "", *shown(with_turn, busy=True), message()
    try:
        for _ in answering:
            if request.turn.dropped:
                break
            # Not the question's field, where the next may be typed already.
            yield gr.skip(), *shown(with_turn, busy=True), message()
        if request.turn.dropped:  # cleared again, since an update may have been under way
            yield gr.skip(), *_cleared(page)
        else:
            yield gr.skip(), *shown(with_turn), message()
    except Exception as error:
        if request.turn.dropped:  # cleared meanwhile: nobody asks for the answer any more, nor for its error
            yield gr.skip(), *_cleared(page)
            return
        answered = any(text.finish for text in request.turn.answers.values())
        rest = (gr.skip(), *shown(with_turn)) if answered else (question, *shown(turns))
        yield *rest, page.error_message(error)
    finally:
        answering.close()


def _clear(page: Page, turns: list[Turn]) -> tuple:
    """Drop all turns; one that is being answered knows from its mark that nobody reads it any more."""
    for turn in turns:
        turn.dropped = True
        if any(not answer.finish for answer in turn.answers.values()):
            page.engine.stop("chat")
    return _cleared(page)


def _cleared(page: Page) -> tuple:
    """Updates of turns, comparison and message for a new conversation."""
    return [], comparison_html(page.lang, []), message()


def _parse(page: Page, question: str, adapter: str, values: Sequence) -> Request:
    """A request from the values of the form and of the tab's settings. Raises PlaygroundError with all problems."""
    count = len(page.fields)
    generation, service, problems = chat_settings.parse(page, values[count:])
    question = (question or "").strip()
    if not question:
        problems.insert(0, Problem("chat.empty_question"))
    raise_all(problems)
    if is_foreign(adapter):
        check_allowed(page, adapter)
    form = page.settings(values[:count]) if not adapter or is_foreign(adapter) else None
    return Request(*_turn(page, question, adapter, form), generation, service)


def _turn(page: Page, question: str, adapter: str, form: Settings | None = None) -> tuple[Turn, Settings]:
    """A turn to be answered with the settings of the adapter's run, or with the form's where there is no adapter."""
    if not adapter or is_foreign(adapter):
        assert form
        return new_turn(page, question, adapter), form
    return new_turn(page, question, adapter), page.run_settings(adapter)


def ask_once(page: Page, question: str, adapter: str, settings: Settings, max_new_tokens: int) -> Turn:
    """A question with its answers, outside any conversation. settings: of the base where there is no adapter ("")."""
    request = Request(*_turn(page, question, adapter, settings), Generation(max_new_tokens), None)
    for _ in answer(page, request, []):
        pass
    return request.turn


def _samples(page: Page, adapter: str) -> list[list[str]]:
    """Held-out questions of the data that the adapter was trained on, and the talk's prompts in the page's language."""
    is_run = adapter and not is_foreign(adapter)
    held_out = known_answers(page.root, adapter, page.private).examples() if is_run else []
    prompts = catalog.prompts()["talk"]["prompts"][page.lang]
    return [[text] for text in [*(held_out or help_desk_examples(page.lang)), *prompts]]
