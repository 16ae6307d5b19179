"""The queue of jobs and the sweeps' results: a gr.HTML that polls `queue_state`, draws it, and asks `queue_do` to act.

Both server functions bypass Gradio's queue, and anyone who can open the page can call them, so they validate arguments.
One event, show_run with {"run": id} as its data. Script and style: assets/queue.js and .css.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from playground import ASSETS, catalog
from playground.errors import PlaygroundError, as_playground_error, problem
from playground.i18n import table
from playground.jobs import owner, runner, store
from playground.jobs.store import Listing, QueuedJob
from playground.jobs.sweep import MOST_RUNS_PUBLIC, value_text
from playground.jobs.sweep_jobs import can_resume
from playground.ui.page import Page
from playground.ui.poll_pace import PollPace
from playground.ui.sweep_view import sweep_html

MOST_SHOWN = 200  # jobs in the list; sweeps' tables have all of theirs
MOST_WAITING_PUBLIC = 8
MOST_SWEEPS = 5  # whose results are drawn, the newest ones
TEMPLATE = """
<section class="queue" hidden>
  <header><h4></h4> <span class="counts"></span> <span class="all"></span></header>
  <ul class="notes"></ul>
  <ol class="jobs" tabindex="0"></ol>
  <div class="sweeps"></div>
  <p class="spoken" aria-live="polite"></p>
</section>
"""


def build(page: Page) -> gr.HTML:
    """The component, hidden while the queue is empty. Jobs whose program died are marked as interrupted."""
    owner.mark_interrupted(page.root)
    pace = PollPace()

    def queue_state(request: Any) -> dict:
        """What the queue's view draws, or nothing where the browser has this state of it already."""
        shown, wait = state(page), {"wait_s": pace.next_wait(live=False)}
        known = request.get("version") if isinstance(request, dict) else None
        return ({"version": shown["version"]} if known == shown["version"] else shown) | wait

    def queue_do(request: Any) -> dict:
        """{"error": text, "" for none} of {"do": a key of ACTIONS, "id": of a job, or ""}."""
        do, job_id = (request.get("do"), request.get("id")) if isinstance(request, dict) else (None, None)
        if not isinstance(do, str) or do not in ACTIONS or not isinstance(job_id, str):
            return {"error": ""}
        try:
            ACTIONS[do](page, job_id)
        except Exception as error:
            return {"error": as_playground_error(error).text(page.lang)}
        return {"error": ""}

    words = {key.removeprefix("queue."): text for key, text in table(page.lang).items() if key.startswith("queue.")}
    return gr.HTML(
        html_template=TEMPLATE,
        css_template=(ASSETS / "queue.css").read_text(encoding="utf-8"),
        js_on_load=f"const WORDS = {json.dumps(words)};\n" + (ASSETS / "queue.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        server_functions=[queue_state, queue_do],
    )


def raise_if_full(page: Page, more: int) -> None:
    """Raise PlaygroundError where a page that strangers open would have too many waiting jobs."""
    count = len(store.listing(page.root).in_state("waiting"))
    if not page.private and count + more > MOST_WAITING_PUBLIC:
        raise problem("error.queue_full", count=count, most=MOST_WAITING_PUBLIC)


def state(page: Page) -> dict[str, Any]:
    """What is drawn, in the page's language: "notes", "counts", "all" (buttons), "jobs", "sweeps"; its "version"."""
    if not page.jobs.going:
        owner.mark_interrupted(page.root)
    queue = store.listing(page.root)
    groups = list(dict.fromkeys(job.group for job in reversed(queue.jobs) if job.combination))[:MOST_SWEEPS]
    shown: dict[str, Any] = {
        "empty": not queue.jobs and not queue.damaged,
        "notes": _notes(page, queue),
        "counts": page.translate(
            "queue.counts",
            waiting=len(queue.in_state("waiting")),
            running=len(queue.in_state("running")),
            ended=len(queue.in_state(*store.ENDED)),
        ),
        "all": _buttons(page, queue),
        "jobs": [_job(page, queue, job) for job in queue.jobs[-MOST_SHOWN:]],
        "sweeps": [sweep_html(page, queue, group) for group in groups],
    }
    text = json.dumps(shown, sort_keys=True)
    return {"version": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16], **shown}


def _notes(page: Page, queue: Listing) -> list[str]:
    """Sentences above the list: why nothing starts, who else works it off, what can't be read."""
    notes = []
    waiting, going = queue.in_state("waiting"), page.jobs.going
    other = None if going else owner.other_program(page.root)
    if other:
        notes.append(page.translate("queue.other", **other))
    elif waiting and not going and runner.next_job(queue) is None:
        notes.append(page.translate("queue.waits_before"))
    elif waiting and not going:
        key = "queue.waits_stopped" if page.jobs.has_worked else "queue.waits_restart"
        notes.append(page.translate(key, waiting=len(waiting)))
    if page.jobs.error:
        notes.append(page.jobs.error.text(page.lang))
    if queue.damaged:
        notes.append(page.translate("queue.damaged", files=list(queue.damaged[:5])))
    if not page.private:
        notes.append(page.translate("queue.public", most=MOST_RUNS_PUBLIC, jobs=MOST_WAITING_PUBLIC))
    return notes


def _buttons(page: Page, queue: Listing) -> list[str]:
    """The actions on the whole queue that make sense now."""
    can_go = not page.jobs.going and runner.next_job(queue) is not None
    offered = {
        "go_on": can_go,
        "stop_all": page.jobs.going or bool(queue.in_state("running")),
        "clear": bool(queue.in_state(*store.ENDED)) or bool(queue.damaged),
    }
    return [name for name, sensible in offered.items() if sensible]


def _job(page: Page, queue: Listing, job: QueuedJob) -> dict[str, Any]:
    """One line of the list, its texts in the page's language."""
    stopping = job.state == "running" and bool(job.stop)
    error = _error_text(job, page.lang)
    return {
        "id": job.id,
        "name": _name(page, job),
        "detail": _detail(page, queue, job),
        "state": job.state,
        "status": page.translate(f"queue.state.{'stopping' if stopping else job.state}"),
        "error": error or (page.translate("queue.interrupted") if job.state == "interrupted" else ""),
        "run": job.run,
        "actions": _actions(page, job, stopping),
        "answers": [
            [page.translate(f"queue.{side}"), str(job.result.get(side, ""))[:2000]]
            for side in ("base", "tuned")
            if job.kind == "compare" and job.result.get(side)
        ],
    }


def _name(page: Page, job: QueuedJob) -> str:
    """Kind and model, as "Fine-tune · SmolLM2", or the kind of file of an export."""
    kind = page.translate(f"queue.kind.{job.kind}") if f"queue.kind.{job.kind}" in table(page.lang) else job.kind
    load = job.settings.get("load")
    model = catalog.display_name(str(load.get("model", ""))) if isinstance(load, dict) else ""
    target = str(job.options.get("to", ""))
    if f"queue.to.{target}" in table(page.lang):
        target = page.translate(f"queue.to.{target}")
    return " · ".join(part for part in (kind, model, target) if part)


def _detail(page: Page, queue: Listing, job: QueuedJob) -> str:
    """The combination of a sweep, the question, and whose run is used."""
    values = [f"{name} = {value_text(value)}" for name, value in job.combination.items()]
    question = str(job.options.get("question", ""))[:200]
    after = [page.translate("queue.after")] if job.after and job.state == "waiting" else []
    return " · ".join([*values, *([question] if question else []), *after])


def _actions(page: Page, job: QueuedJob, stopping: bool) -> list[str]:
    """What can be done with a job now, as keys of ACTIONS and of the words."""
    if job.state == "running":
        return [] if stopping else ["stop"]
    if job.state == "waiting":
        return ["up", "down", "remove"]
    resume = ["resume"] if job.state != "done" and can_resume(page.root, job) else []
    return [*resume, *(["again"] if job.state != "done" else []), "remove"]


def _error_text(job: QueuedJob, lang: str) -> str:
    """The text of a stored error; one of another version of the program stands for itself."""
    try:
        return PlaygroundError.from_dict(job.error).text(lang) if job.error else ""
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return str(job.error)[:200]


def _stop_all(page: Page, job_id: str) -> None:
    page.jobs.pause()
    for job in store.listing(page.root).in_state("running"):
        runner.stop(page.root, job.id, "all")


def _again(page: Page, job_id: str) -> None:
    raise_if_full(page, 1 + len(store.done_with(store.listing(page.root), job_id)))
    page.jobs.start_after(lambda: store.again(page.root, job_id))


def _resume(page: Page, job_id: str) -> None:
    raise_if_full(page, 1 + len(store.done_with(store.listing(page.root), job_id)))
    if not can_resume(page.root, store.read(page.root, job_id)):
        raise problem("error.queue_no_checkpoint", id=job_id)
    page.jobs.start_after(lambda: store.again(page.root, job_id, resume=True))


ACTIONS: dict[str, Callable[[Page, str], object]] = {
    "go_on": lambda page, job_id: page.jobs.go_on(),
    "stop_all": _stop_all,
    "clear": lambda page, job_id: store.clear(page.root),
    "stop": lambda page, job_id: runner.stop(page.root, job_id),
    "remove": lambda page, job_id: store.remove(page.root, job_id),
    "up": lambda page, job_id: store.move(page.root, job_id, -1),
    "down": lambda page, job_id: store.move(page.root, job_id, 1),
    "again": _again,
    "resume": _resume,
}
