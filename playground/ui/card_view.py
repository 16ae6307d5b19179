"""The part of the Take home tab on the result card: choose a question, see the card, download it as HTML or PNG."""

from dataclasses import dataclass

import gradio as gr

from playground import ASSETS, runs
from playground.share.card import card_of, question_choices
from playground.share.card_drawing import card_page, card_svg
from playground.share.files import write_whole
from playground.ui import downloads
from playground.ui.page import LAST_INPUT, UNQUEUED, Page, Update, message, message_box

SAVE_PNG = ASSETS / "share" / "save_png.js"  # the browser draws the card on a canvas


@dataclass(frozen=True)
class CardView:
    """Its components."""

    accordion: gr.Accordion
    question: gr.Dropdown
    picture: gr.HTML
    html: gr.DownloadButton
    png: gr.Button
    message: gr.HTML


def build(page: Page, accordion: gr.Accordion) -> CardView:
    """The components, in the accordion that is open for them."""
    word = page.translate
    gr.Markdown(word("card.lead"), elem_classes="quiet")
    question = gr.Dropdown(label=word("card.question"), choices=[(word("card.question.auto"), 0)], value=0)
    picture = gr.HTML(elem_classes="result-card")
    with gr.Row():
        html = gr.DownloadButton(word("card.html"), interactive=False)
        png = gr.Button(word("card.png"), interactive=False)
    return CardView(accordion, question, picture, html, png, message_box())


def connect(page: Page, view: CardView, run: gr.Dropdown) -> None:
    """Draw the card of the chosen run as the accordion unfolds and at every choice."""
    outputs = [view.question, view.picture, view.html, view.png, view.message]

    def new_run(run_id: str | None) -> tuple:
        return _draw(page, run_id, None)

    def new_question(run_id: str | None, question: int | None) -> tuple:
        return _draw(page, run_id, question or 0)

    for event in (view.accordion.expand, run.change):
        event(new_run, run, outputs, **UNQUEUED)
    view.question.input(new_question, [run, view.question], outputs, **LAST_INPUT)
    view.png.click(None, None, None, js=SAVE_PNG.read_text(encoding="utf-8"), api_visibility="private")


def _draw(page: Page, run_id: str | None, question: int | None) -> tuple[Update, ...]:
    """Updates of the components. question: None where the run has just been chosen, which lists its questions."""
    off = gr.update(interactive=False)
    if not run_id:
        return gr.skip(), "", off, off, message(page.translate("card.none"))
    try:
        run = runs.find(page.root, run_id)
        card = card_of(run, page.lang, question or 0)
        choices = [(page.translate("card.question.auto"), 0), *question_choices(run)]
        asked = gr.update(choices=choices, value=0) if question is None else gr.skip()
        path = downloads.place(page.visitor, "cards") / _file_name(run.id, page.lang, question)
        write_whole(path, card_page(card, page.lang))
    except Exception as error:
        return gr.skip(), "", off, off, page.error_message(error)
    return (
        asked,
        card_svg(card, page.lang),
        gr.update(value=path, interactive=True),
        gr.update(interactive=True),
        message(),
    )


def _file_name(run_id: str, lang: str, question: int | None) -> str:
    """Each card has its own: people who look at other questions, or in another language, may save theirs meanwhile."""
    number = f"-{question}" if question else ""
    return f"{run_id}-{lang}{number}.html"
