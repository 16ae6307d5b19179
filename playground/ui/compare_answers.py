"""Answers of the Compare tab: stream the engine's and the service's replies into the last turn of the comparison."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from playground.chat.openai_client import PendingAnswer, Service
from playground.errors import Problem
from playground.job import Job
from playground.settings import Generation, Settings, raise_all
from playground.ui.comparison import SIDES, Answer, Turn, history
from playground.ui.page import Page

POLL_SECONDS = 0.1  # between two looks at what the service has written


@dataclass(frozen=True)
class Request:
    """A question as it was sent, validated.

    turn: the question, and where the answers go.
    """

    turn: Turn
    settings: Settings
    generation: Generation
    service: Service | None

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that the engine answers: without an adapter only the base."""
        return SIDES if self.turn.adapter else SIDES[:1]


def answer(page: Page, request: Request, earlier: Sequence[Turn]) -> Generator[None, None, None]:
    """Fill in the request's turn; yields whenever it has changed.

    Raises PlaygroundError where no answer came: the engine is busy, the job failed. Where only the service failed, its
    answer is taken out of the turn, and its error is raised after both models have answered. Closing the iterator
    stops the answers.
    """
    job = _start(page, request, earlier)
    turn = request.turn
    turn.status = page.translate("chat.working")
    turn.answers = {side: Answer() for side in request.sides}
    service = _ask_service(request, earlier)
    if service:
        turn.answers["service"] = Answer()
    try:
        yield
        yield from _stream(page, request, job, service)
        if service:
            yield from _stream_service(turn, service, job)
    finally:
        if service:
            service.stop()
        page.engine.stop_job(job)  # where the page was closed or cleared, nobody reads the rest


def _start(page: Page, request: Request, earlier: Sequence[Turn]) -> Job:
    """Start the job. Raises PlaygroundError that says what the engine is doing, if it is busy."""
    under_way = page.engine.job
    if under_way:
        raise_all([Problem(f"chat.busy_{under_way.do}")])
    turn = request.turn
    conversations = {side: _turns(history(earlier, side, turn.adapter), turn.question) for side in request.sides}
    return page.engine.chat(request.settings, turn.adapter or None, conversations, request.generation)


def _turns(answered: Sequence[tuple[str, str]], question: str) -> list[dict]:
    """A conversation as the engine takes it, with the question as the turn that has no answer yet."""
    turns: list[dict] = [{"instruction": text, "answer": answer} for text, answer in answered]
    return [*turns, {"instruction": question, "answer": None}]


def _ask_service(request: Request, earlier: Sequence[Turn]) -> PendingAnswer | None:
    if request.service is None:
        return None
    messages = []
    for question, text in history(earlier, "service", request.turn.adapter):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
    messages.append({"role": "user", "content": request.turn.question})
    return PendingAnswer(request.service, messages, request.generation)


def _stream(page: Page, request: Request, job: Job, service: PendingAnswer | None) -> Iterator[None]:
    """Take in the engine's events, and what the service has written meanwhile."""
    turn = request.turn
    for event in job.latest():
        if event["kind"] == "answer":
            turn.status = ""
            for side in request.sides:
                turn.answers[side].text = event.get(side, "")
        elif event["kind"] == "progress" and event.get("unit") == "tokens":
            turn.status = page.translate("chat.waiting", beams=request.generation.num_beams, tokens=event["done"])
        elif event["kind"] == "done":
            _end(page, turn, event["result"])
        if service:
            turn.answers["service"].text = service.text
        yield


def _end(page: Page, turn: Turn, result: dict) -> None:
    """Take in how the answers ended, and how fast they were."""
    ends = result.get("sides", {})
    for side, end in ends.items():
        turn.answers[side] = replace(turn.answers[side], **end)
    together = "together" if result.get("together") else "apart"
    turn.status = ""
    turn.measured = (f"chat.measured_{together}" if len(ends) > 1 else "chat.measured") if ends else ""


def _stream_service(turn: Turn, service: PendingAnswer, job: Job) -> Iterator[None]:
    """Take in what the service still writes after both models have ended. Raises its error, without its answer.

    A question that was stopped is stopped there too; its thread isn't waited for, as a service may be silent for long.
    """
    while not service.ended:
        if job.stopping:
            service.stop()
            turn.answers["service"] = Answer(service.text, "stopped")
            yield
            return
        service.wait(POLL_SECONDS)
        turn.answers["service"].text = service.text
        yield
    if service.error:
        del turn.answers["service"]
        raise service.error
    turn.answers["service"] = Answer(service.text, "end")
    yield
