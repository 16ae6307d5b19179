"""The part of the Fine-tune tab on several runs: add one to the queue, what follows it, and a sweep over settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.errors import PlaygroundError, problem
from playground.i18n import format_duration
from playground.jobs import kinds, store
from playground.jobs.sweep import MOST_RUNS, MOST_RUNS_PUBLIC, Sweep, parse_sweep
from playground.jobs.sweep_jobs import Follower, chain, put_sweep
from playground.ui import queue_view
from playground.ui.known_answers import help_desk_examples
from playground.ui.page import EACH_CLICK, LATEST_ONLY, QUIET, Page, Update, message, message_box

# What the lists offer; any other setting can be typed in.
OFFERED = (
    "train.lr",
    "lora.r",
    "lora.alpha",
    "train.epochs",
    "train.batch_size",
    "load.bits",
    "lora.target_modules",
    "train.seed",
)
MOST_TIMED = 9  # runs whose time is predicted one by one: each takes up to a second


@dataclass(frozen=True)
class QueueForm:
    """Its components. axes: setting and values, of the first and the second setting."""

    add: gr.Button
    message: gr.HTML
    then: gr.CheckboxGroup
    question: gr.Textbox
    axes: tuple[gr.Dropdown, gr.Textbox, gr.Dropdown, gr.Textbox]
    runs: gr.HTML
    start: gr.Button
    view: gr.HTML


def build(page: Page, add: gr.Button) -> QueueForm:
    """The components. add: the button beside the one that starts a fine-tune."""
    word = page.translate
    box = message_box()
    with gr.Accordion(word("queue.several"), open=False, elem_id="several"):
        with gr.Row():
            followers = [(word(f"queue.then.{name}"), name) for name in _followers_offered(page)]
            then = gr.CheckboxGroup(followers, label=word("queue.then"), info=word("queue.then.info"))
            question = gr.Textbox(
                help_desk_examples(page.lang)[0], label=word("queue.question"), info=word("queue.question.info")
            )
        gr.Markdown(f"**{word('sweep.title')}.** {word('sweep.lead')}", elem_classes="quiet")
        settings = [(f"{word(name)} ({name})", name) for name in OFFERED]
        axes: list[Any] = []
        for label, chosen in (("sweep.setting", OFFERED[0]), ("sweep.second", None)):
            with gr.Row():
                axes.append(gr.Dropdown(settings, value=chosen, label=word(label), allow_custom_value=True))
                axes.append(gr.Textbox("", label=word("sweep.values"), info=word("sweep.values.info")))
        with gr.Row(elem_classes="actions"):
            counted = gr.HTML(elem_classes="counted")
            start = gr.Button(word("sweep.go"), elem_id="sweep-start")
    view = queue_view.build(page)
    return QueueForm(add, box, then, question, (axes[0], axes[1], axes[2], axes[3]), counted, start, view)


def connect(page: Page, form: QueueForm, live_view: gr.HTML) -> None:
    """Attach the listeners, once all fields of the page exist."""
    fields, following = page.inputs(), [form.then, form.question]

    def add(then: list, question: str, *values: Any) -> Update:
        settings = page.settings(values)
        page.raise_if_too_much_work(settings)
        jobs = chain(settings, _followers(page, then, question), group=f"chain-{store.new_id()}")
        queue_view.raise_if_full(page, len(jobs))
        page.jobs.start_after(lambda: store.add(page.root, jobs))
        return message(page.translate("queue.added" if page.jobs.going else "queue.added_waits"))

    def start(*values: Any) -> Update:
        axes, (then, question, *rest) = values[:4], values[4:]
        sweep, followers = _sweep(page, axes, rest), _followers(page, then, question)
        runs = len(sweep.combinations)
        queue_view.raise_if_full(page, runs * (1 + len(followers)))
        kept = page.jobs.start_after(lambda: put_sweep(page.root, sweep, followers))
        lines = [page.translate("sweep.started", runs=runs - kept)] if runs > kept else []
        lines += [page.translate("sweep.kept", kept=kept, runs=runs)] if kept else []
        return message("\n".join(lines))

    def count(*values: Any) -> str:
        axes, rest = values[:4], values[4:]
        if not any(axes[1::2]):
            return ""
        try:
            return _predicted(page, _sweep(page, axes, rest))
        except PlaygroundError as error:
            return page.error_message(error)["value"]

    def show(event: gr.EventData) -> Update:
        return gr.update(follow=_run_id(event))

    form.add.click(page.with_error_message(add), [*following, *fields], form.message, **QUIET)
    form.start.click(page.with_error_message(start), [*form.axes, *following, *fields], form.message, **QUIET)
    gr.on([one.change for one in form.axes], count, [*form.axes, *fields], form.runs, **LATEST_ONLY)
    form.view.show_run(show, None, live_view, **EACH_CLICK)


def _sweep(page: Page, axes: Sequence, values: Sequence) -> Sweep:
    """The sweep that the form describes. Raises PlaygroundError with everything that is wrong with it."""
    pairs = zip(axes[::2], axes[1::2])
    texts = [f"{name or ''}={listed or ''}" for name, listed in pairs if (listed or "").strip()]
    most = MOST_RUNS if page.private else MOST_RUNS_PUBLIC
    return parse_sweep(texts, page.settings(values), most, page.raise_if_forbidden)


def _predicted(page: Page, sweep: Sweep) -> str:
    """How many runs a sweep has and, where earlier runs or the GPU tell, how long they take."""
    combinations = sweep.combinations
    seconds: list[float | None] = []
    for combination in combinations if len(combinations) <= MOST_TIMED else ():
        settings = sweep.settings(combination).to_dict()
        seconds.append(page.planner.ask("tune_summary", settings=settings, root=str(page.root))["seconds"])
    known = [one for one in seconds if one]
    if len(known) < len(combinations):
        return f"<p>{page.translate('sweep.runs', runs=len(combinations))}</p>"
    return f"<p>{page.translate('sweep.time', runs=len(combinations), time=format_duration(sum(known)))}</p>"


def _followers_offered(page: Page) -> list[str]:
    """What can follow a fine-tune, as keys of the words: exports only where the engine has them, on a private page."""
    offered = kinds.offered(page.engine)
    exports = [f"export_{target}" for target in kinds.TARGETS] if "export" in offered and page.private else []
    return ["compare", *exports]


def _followers(page: Page, then: Sequence[str], question: str) -> list[Follower]:
    """The chosen ones. Raises PlaygroundError where a comparison has no question."""
    chosen = [name for name in _followers_offered(page) if name in (then or [])]
    if "compare" in chosen and not (question or "").strip():
        raise problem("error.queue_question")
    options: dict[str, dict] = {"compare": {"question": (question or "").strip()[:2000]}}
    return [Follower(name.partition("_")[0], options.get(name, {"to": name.partition("_")[2]})) for name in chosen]


def _run_id(event: gr.EventData) -> str:
    """The run that a button of the view named; whoever uses it looks it up."""
    run_id = getattr(event, "run", "")
    return run_id if isinstance(run_id, str) else ""
