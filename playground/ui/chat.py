"""Tab 4: the same question to the untouched and the tuned model, and to a service beside them if one is named."""

import html
from dataclasses import asdict, fields
from types import SimpleNamespace

import gradio as gr

from playground import catalog, runs
from playground.chat.openai_client import PendingAnswer, Service, service_problems
from playground.data import source
from playground.errors import Problem
from playground.settings import TALK_GENERATION, Data, Generation, Settings, generation_problems, merge_group, raise_all
from playground.ui.page import QUIET, UNQUEUED, Page, message, message_box

SIDES = ("base", "tuned")
COLUMNS = (*SIDES, "service")
LOOK = 0.1  # seconds between two looks at what the service has written


def build(page: Page) -> SimpleNamespace:
    """The tab's components."""
    translate = page.translate
    gr.Markdown(translate("chat.lead"), elem_classes="lead")
    adapter = gr.Dropdown(
        label=translate("chat.adapter"),
        info=translate("chat.adapter.info"),
        choices=[(translate("chat.none"), "")],
        value=None,
    )  # the first refresh takes the newest
    same = message_box()
    with gr.Row(elem_classes="sides"):
        chats, labels = {}, {}
        for side in COLUMNS:
            with gr.Column(min_width=150, visible=side in SIDES) as column:
                labels[side] = gr.HTML(badge(translate(f"chat.{side}"), ""))
                chats[side] = gr.Chatbot(
                    height=340,
                    show_label=False,
                    label=translate(f"chat.{side}"),
                    placeholder=translate(f"chat.empty_{side}"),
                    buttons=["copy"],
                    render_markdown=False,
                    elem_classes=f"side-{side}",
                )
    labels.pop("service")
    speed = gr.Markdown(elem_classes="quiet")
    with gr.Row(elem_classes="ask"):
        question = gr.Textbox(
            label=translate("chat.ask"), placeholder=translate("chat.placeholder"), lines=1, max_lines=4, scale=5
        )
    with gr.Row(elem_classes="actions"):
        go = gr.Button(translate("chat.send"), variant="primary")
        stop = gr.Button(translate("chat.stop"), variant="stop", interactive=False)
        clear = gr.Button(translate("chat.clear"))
    gr.Examples(_prompts(page), question, label=translate("chat.prompts"), examples_per_page=12)
    with gr.Accordion(translate("chat.generation"), open=False):
        with gr.Row():
            talk = gr.Button(translate("chat.talk"), size="sm")
            plain = gr.Button(translate("chat.plain"), size="sm")
        with gr.Row():
            generation = [
                gr.Number(
                    value=f.default,
                    precision=0 if f.type is int else None,
                    label=translate(f"generation.{f.name}"),
                    info=translate(f"generation.{f.name}.info"),
                    min_width=140,
                )
                for f in fields(Generation)
            ]
    with gr.Accordion(translate("chat.beside_service"), open=False, visible=page.private):
        gr.Markdown(translate("chat.service_lead"), elem_classes="quiet")
        on = gr.Checkbox(label=translate("chat.service_on"), value=False)
        with gr.Row():
            url = gr.Textbox(
                label=translate("chat.service_url"), placeholder="https://api.openai.com/v1", min_width=200
            )
            model = gr.Textbox(label=translate("chat.service_model"), min_width=140)
            key = gr.Textbox(
                label=translate("chat.service_key"),
                info=translate("chat.service_key.info"),
                type="password",
                min_width=140,
            )
    return SimpleNamespace(
        adapter=adapter,
        same=same,
        chats=chats,
        column=column,
        service=[on, url, model, key],
        badges=labels,
        speed=speed,
        question=question,
        go=go,
        stop=stop,
        clear=clear,
        talk=talk,
        plain=plain,
        generation=generation,
        message=message_box(),
    )


def connect(page: Page, tab: SimpleNamespace) -> None:
    """The tab's listeners, once all fields of the page are there."""
    chats, number, count = [tab.chats[side] for side in COLUMNS], len(page.fields), len(fields(Generation))

    def ask(question, adapter, base, tuned, third, *values):
        """One generator yields all columns: several listeners of one click would answer one after the other."""
        history, form, options = (
            dict(zip(COLUMNS, (base or [], tuned or [], third or []))),
            values[:number],
            values[number : number + count],
        )
        try:
            chosen, wanted, service = _asked(page, question, adapter, form, options, values[number + count :])
        except Exception as error:
            yield question, base, tuned, third, "", page.trouble(error)
            return
        yield from _answers(page, chosen, adapter, question.strip(), history, wanted, service)

    shown = [tab.question, *chats, tab.speed, tab.message]
    inputs = [tab.question, tab.adapter, *chats, *page.inputs(), *tab.generation, *tab.service]
    for trigger in (tab.go.click, tab.question.submit):
        trigger(ask, inputs, shown, **QUIET)
    tab.stop.click(page.engine.stop, **UNQUEUED)
    tab.clear.click(lambda: ([], [], [], "", message()), None, [*chats, tab.speed, tab.message], **UNQUEUED)
    tab.talk.click(lambda: list(asdict(TALK_GENERATION).values()), None, tab.generation, **UNQUEUED)
    tab.plain.click(lambda: list(asdict(Generation()).values()), None, tab.generation, **UNQUEUED)
    tab.service[0].change(lambda on: gr.update(visible=on and page.private), tab.service[0], tab.column, **UNQUEUED)
    watched = [tab.adapter, page.fields["load", "model"], page.fields["load", "bits"]]
    for component in watched:
        component.change(lambda *shown: badges(page, *shown), watched, [*tab.badges.values(), tab.same], **UNQUEUED)


def badge(title: str, text: str) -> str:
    """Whose answers a column holds."""
    return f'<div class="badge"><strong>{html.escape(title)}</strong> <span>{html.escape(text)}</span></div>'


def adapters(page: Page) -> list[tuple[str, str]]:
    """Every run that has an adapter, newest first, and "none"."""
    found = [
        (f"{catalog.display_name(s.model)} · {s.bits} bit · {s.data} · {s.id}", s.id)
        for s in runs.history(page.root)
        if s.has_adapter
    ]
    return [*found, (page.translate("chat.none"), "")]


def badges(page: Page, adapter: str, model: str, bits: int) -> tuple:
    """Both badges, and what to say where the columns can't differ. The model and bits are the form's."""
    key = "chat.badge_none"
    if adapter:
        chosen = runs.find(page.root, adapter).settings()
        model, bits = chosen.load.model, chosen.load.bits
        key = "chat.badge_full" if chosen.train.method == "full" else "chat.badge_tuned"
    named = {"model": catalog.display_name(model or ""), "bits": bits or "auto"}
    tuned = page.translate(key, run=adapter, **named)
    base = badge(page.translate("chat.base"), page.translate("chat.badge_base", **named))
    return base, badge(page.translate("chat.tuned"), tuned), message("" if adapter else page.translate("chat.same"))


def _asked(
    page: Page, question: str, adapter: str, form, options, service
) -> tuple[Settings, Generation, Service | None]:
    """The settings, the generation and the service of a question. Raises PlaygroundError with all problems at once."""
    wanted, wrong = merge_group(Generation(), dict(zip((f.name for f in fields(Generation)), options)), "generation")
    wrong += generation_problems(wanted)
    on, *named = service
    third = Service(*(text or "" for text in named)) if on and page.private else None
    wrong += service_problems(third) if third else []
    if not (question or "").strip():
        wrong.insert(0, Problem("chat.empty_question"))
    raise_all(wrong)
    if adapter:
        return runs.find(page.root, adapter).settings(), wanted, third
    return page.settings(form), wanted, third


def _answers(
    page: Page,
    chosen: Settings,
    adapter: str,
    question: str,
    history: dict,
    wanted: Generation,
    service: Service | None,
):
    """Stream all columns; on trouble the conversation stays as it was and the question goes back into its field."""
    before = {side: list(turns) for side, turns in history.items()}
    live = SIDES if adapter else SIDES[:1]
    for side in (*live, "service") if service else live:
        history[side] = [*before[side], _said("user", question), _said("assistant", "…")]
    speed = page.translate("chat.working")
    try:
        job = page.engine.chat(chosen, adapter or None, {side: _turns(before[side], question) for side in live}, wanted)
    except Exception as error:
        yield question, *before.values(), "", page.trouble(error)
        return
    third = (
        PendingAnswer(service, [*_messages(before["service"]), {"role": "user", "content": question}], wanted)
        if service
        else None
    )
    ended = False
    try:
        yield "", *history.values(), speed, message()
        for event in job.latest():
            if event["kind"] == "answer":
                speed = ""
                for side in live:
                    history[side][-1] = _said("assistant", event.get(side, "") or "…")
            elif event["kind"] == "progress" and event.get("unit") == "tokens":
                speed = page.translate("chat.waiting", beams=wanted.num_beams, tokens=event["done"])
            elif event["kind"] == "done":
                for side in live:
                    if history[side][-1]["content"] == "…":
                        history[side][-1] = _said("assistant", "")
                result = event["result"]
                speed = page.translate("chat.wrote", **result) if "tokens" in result else ""
            if third and third.text:
                history["service"][-1] = _said("assistant", third.text)
            yield gr.skip(), *history.values(), speed, message()  # the next question may be being typed
        yield from _rest(page, third, history, before, speed)
        ended = True
    except Exception as error:
        ended = True
        yield question, *before.values(), "", page.trouble(error)
    finally:
        if third:
            third.stop()
        if not ended and page.engine.job is job:  # the page was closed: nobody reads on
            page.engine.stop()


def _rest(page: Page, third: PendingAnswer | None, history: dict, before: dict, speed: str):
    """What the service still writes once both models have ended; where it failed, its column stays as it was before."""
    while third and not third.ended:
        third.wait(LOOK)
        history["service"][-1] = _said("assistant", third.text or "…")
        yield gr.skip(), *history.values(), speed, message()
    if third and third.error:
        history["service"] = before["service"]
        yield gr.skip(), *history.values(), speed, page.trouble(third.error)
    elif third:
        history["service"][-1] = _said("assistant", third.text)
        yield gr.skip(), *history.values(), speed, message()


def _said(role: str, text: str) -> dict:
    """A message as a chatbot is to have it: it draws tags, also with Markdown off, and what a model wrote is to be seen as written."""
    return {"role": role, "content": html.escape(text, quote=False)}


def _messages(history: list[dict]) -> list[dict]:
    """A chatbot's messages, their content as plain text again."""
    texts = (
        m["content"] if isinstance(m["content"], str) else "".join(b.get("text", "") for b in m["content"])
        for m in history
    )
    return [{"role": m["role"], "content": html.unescape(text)} for m, text in zip(history, texts)]


def _turns(history: list[dict], question: str) -> list[dict]:
    """A chatbot's messages as turns, with the question as the open one."""
    texts = [m["content"] for m in _messages(history)]
    pairs = zip(texts[::2], texts[1::2])
    return [
        *({"instruction": asked, "answer": answer} for asked, answer in pairs),
        {"instruction": question, "answer": None},
    ]


def _prompts(page: Page) -> list[list[str]]:
    """The talk's prompts, and a few held-out questions of the help desk in the page's language."""
    desk = source.read(Data(source=f"helpdesk.{page.lang}")).held_out
    return [[text] for text in [*_catalog_prompts(), *(row.instruction for row in desk[:: len(desk) // 3][:3])]]


def _catalog_prompts() -> list[str]:
    return catalog.prompts()["talk"]["prompts"]
