"""Answers of the Compare tab: stream the engine's and the service's replies into the conversations."""

import html
from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr

from playground.chat.openai_client import PendingAnswer, Service
from playground.job import Job
from playground.settings import Generation, Settings
from playground.ui.page import Page, Update, message

SIDES = ("base", "tuned")  # answered by the engine
POLL_SECONDS = 0.1  # between two looks at what the service has written
PENDING = "…"  # an answer that hasn't begun

Conversations = dict[str, list[dict]]  # a chatbot's messages, by column


@dataclass(frozen=True)
class Request:
    """A question as it was sent, validated."""

    question: str
    adapter: str  # the id of the run whose adapter answers, or ""
    settings: Settings
    generation: Generation
    service: Service | None

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that answer: without an adapter only the base."""
        return SIDES if self.adapter else SIDES[:1]


def answer(page: Page, request: Request, conversations: Conversations) -> Iterator[tuple]:
    """Stream all columns. On an error the conversations are restored and the question returns to its field."""
    before = {name: list(messages) for name, messages in conversations.items()}
    for name in (*request.sides, "service") if request.service else request.sides:
        opening = [_chat_message("user", request.question), _chat_message("assistant", PENDING)]
        conversations[name] = [*before[name], *opening]
    turns = {side: _turns(before[side], request.question) for side in request.sides}
    try:
        job = page.engine.chat(request.settings, request.adapter or None, turns, request.generation)
    except Exception as error:
        yield request.question, *before.values(), "", page.error_message(error)
        return
    service = _ask_service(request, before["service"])
    ended = False
    try:
        yield from _stream(page, request, job, service, conversations, before)
        ended = True
    except Exception as error:
        ended = True
        yield request.question, *before.values(), "", page.error_message(error)
    finally:
        if service:
            service.stop()
        if not ended and page.engine.job is job:  # the page was closed: nobody reads the rest
            page.engine.stop()


def _ask_service(request: Request, history: list[dict]) -> PendingAnswer | None:
    if request.service is None:
        return None
    messages = [*_plain_messages(history), {"role": "user", "content": request.question}]
    return PendingAnswer(request.service, messages, request.generation)


def _stream(
    page: Page,
    request: Request,
    job: Job,
    service: PendingAnswer | None,
    conversations: Conversations,
    before: Conversations,
) -> Iterator[tuple]:
    """Updates while the engine and the service answer; not of the question, where the next may be typed already."""
    speed = page.translate("chat.working")
    yield "", *conversations.values(), speed, message()
    for event in job.latest():
        if event["kind"] == "answer":
            speed = ""
            for side in request.sides:
                conversations[side][-1] = _chat_message("assistant", event.get(side, "") or PENDING)
        elif event["kind"] == "progress" and event.get("unit") == "tokens":
            speed = page.translate("chat.waiting", beams=request.generation.num_beams, tokens=event["done"])
        elif event["kind"] == "done":
            for side in request.sides:
                if conversations[side][-1]["content"] == PENDING:
                    conversations[side][-1] = _chat_message("assistant", "")
            result = event["result"]
            speed = page.translate("chat.wrote", **result) if "tokens" in result else ""
        if service and service.text:
            conversations["service"][-1] = _chat_message("assistant", service.text)
        yield gr.skip(), *conversations.values(), speed, message()
    if service:
        yield from _stream_service(page, service, conversations, before, speed)


def _stream_service(
    page: Page, service: PendingAnswer, conversations: Conversations, before: Conversations, speed: str
) -> Iterator[tuple]:
    """Updates while the service still writes, after both models have ended; on its error its column is restored."""
    while not service.ended:
        service.wait(POLL_SECONDS)
        conversations["service"][-1] = _chat_message("assistant", service.text or PENDING)
        yield gr.skip(), *conversations.values(), speed, message()
    result: Update = message()
    if service.error:
        conversations["service"], result = before["service"], page.error_message(service.error)
    else:
        conversations["service"][-1] = _chat_message("assistant", service.text)
    yield gr.skip(), *conversations.values(), speed, result


def _chat_message(role: str, text: str) -> dict:
    """A chatbot's message. Escaped: the chatbot draws tags even without Markdown, and answers are shown verbatim."""
    return {"role": role, "content": html.escape(text, quote=False)}


def _plain_messages(history: list[dict]) -> list[dict]:
    """A chatbot's messages, with their content as plain text again."""
    texts = (
        m["content"] if isinstance(m["content"], str) else "".join(block.get("text", "") for block in m["content"])
        for m in history
    )
    return [{"role": m["role"], "content": html.unescape(text)} for m, text in zip(history, texts)]


def _turns(history: list[dict], question: str) -> list[dict]:
    """A chatbot's messages as turns, with the question as the one that has no answer yet."""
    texts = [m["content"] for m in _plain_messages(history)]
    answered = [{"instruction": text, "answer": answer} for text, answer in zip(texts[::2], texts[1::2])]
    return [*answered, {"instruction": question, "answer": None}]
