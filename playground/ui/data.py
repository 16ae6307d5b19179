"""Tab 3: what is to be taught: which set, which of its rows, how the model will see them, and what a cutoff costs."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import gradio as gr

from playground import catalog
from playground.catalog import cache_folder
from playground.data import source
from playground.data.columns import FIELDS, format_mapping, parse_mapping
from playground.data.readers import KINDS
from playground.errors import PlaygroundError
from playground.settings import PROMPT_FORMATS
from playground.ui import cost_view, rows_view, xray_view
from playground.ui.page import QUIET, THIS_MACHINE, UNQUEUED, Page, card_choices, memory_of, message, message_box

ENCODINGS = ("auto", "utf-8", "cp932", "euc_jp", "utf-16")  # on offer; any name that Python knows will do
PREVIEWED = 20  # records
SAMPLED = 2000  # rows whose tokens are counted at once; all of them on a click
SLICE = (
    "source",
    "encoding",
    "columns",
    "start_row",
    "end_row",
    "sample",
    "contains",
    "category",
    "min_chars",
    "max_chars",
    "drop_duplicates",
    "drop_empty",
    "strip_citations",
    "held_out",
    "seed",
)
WRITTEN = ("prompt_format", "custom_format", "train_on_prompt")
OFFERED = ("parts", "category")  # what is chosen from a set's own columns and values
LOOK = 0.3  # seconds between two looks at how far a long question is
NEWEST = {
    **QUIET,
    "trigger_mode": "always_last",
}  # of the changes made while an answer is awaited, only the last is asked


def build(page: Page) -> SimpleNamespace:
    """The tab's components; its fields are the page's."""
    translate, field = page.translate, page.field
    gr.Markdown(translate("rows.lead"), elem_classes="lead")
    chosen = field(
        gr.Dropdown,
        "data",
        "source",
        choices=[(translate(e["name"]), key) for key, e in catalog.data_sets().items()],
        allow_custom_value=True,
    )
    with gr.Row():
        upload = gr.UploadButton(
            f"{translate('rows.upload')} ({translate('rows.upload.info')})",
            file_types=list(KINDS),
            size="sm",
            min_width=200,
        )
        fetch = gr.Button(translate("rows.fetch"), size="sm", min_width=200, visible=False)
    with gr.Accordion(translate("rows.paste"), open=False):
        text = gr.Textbox(show_label=False, placeholder=translate("rows.paste.info"), lines=5, max_lines=14)
        keep = gr.Button(translate("rows.paste.go"), size="sm")
    told = message_box()
    about = gr.HTML()
    table = gr.Dataframe(
        headers=[translate("rows.question"), translate("rows.answer")],
        wrap=True,
        interactive=False,
        max_height=260,
        show_label=False,
        buttons=[],
        column_widths=["50%", "50%"],
    )
    mapping = _columns(page)
    sliced = _slice(page)
    counted = gr.HTML()
    stop = gr.Button(translate("rows.stop"), variant="stop", size="sm", visible=False)
    seen, costs = _seen(page), _costs(page)
    return SimpleNamespace(
        source=chosen,
        upload=upload,
        fetch=fetch,
        text=text,
        keep=keep,
        message=told,
        about=about,
        table=table,
        **mapping,
        **sliced,
        counted=counted,
        stop=stop,
        **seen,
        **costs,
    )


def _columns(page: Page) -> dict:
    translate, field = page.translate, page.field
    with gr.Accordion(translate("rows.columns"), open=False):
        gr.Markdown(translate("rows.columns.info"), elem_classes="quiet")
        with gr.Row():
            parts = {
                part: gr.Dropdown(
                    label=translate(f"rows.part.{part}"),
                    choices=[(translate("rows.guess"), "")],
                    value="",
                    min_width=140,
                )
                for part in FIELDS
            }
        with gr.Row():
            field(gr.Textbox, "data", "columns", min_width=240)
            field(gr.Dropdown, "data", "encoding", choices=ENCODINGS, allow_custom_value=True, min_width=160)
        raw = gr.Dataframe(label=translate("rows.raw"), wrap=True, interactive=False, max_height=260, buttons=[])
    return {"parts": parts, "raw": raw}


def _slice(page: Page) -> dict:
    translate, field = page.translate, page.field
    with gr.Row():
        for name in ("start_row", "end_row", "sample"):
            field(gr.Number, "data", name, precision=0, min_width=120)
    with gr.Accordion(translate("rows.filter"), open=False):
        with gr.Row():
            field(gr.Textbox, "data", "contains", min_width=160)
            category = field(gr.Dropdown, "data", "category", choices=[""], allow_custom_value=True, min_width=160)
        with gr.Row():
            field(gr.Number, "data", "min_chars", precision=0, min_width=140)
            field(gr.Number, "data", "max_chars", precision=0, min_width=140)
        with gr.Row():
            for name in ("drop_duplicates", "drop_empty", "strip_citations"):
                field(gr.Checkbox, "data", name)
        with gr.Row():
            field(gr.Number, "data", "held_out", min_width=140)
            field(gr.Number, "data", "seed", precision=0, min_width=140)
    return {"category": category}


def _seen(page: Page) -> dict:
    translate, field = page.translate, page.field
    gr.Markdown(f"### {translate('rows.xray')}\n{translate('rows.xray.info')}")
    with gr.Row():
        number = gr.Number(label=translate("rows.number"), value=1, precision=0, minimum=1, min_width=110)
        field(gr.Dropdown, "data", "prompt_format", choices=PROMPT_FORMATS, min_width=200, scale=2)
    form = field(gr.Textbox, "data", "custom_format", lines=4, visible=page.start.data.prompt_format == "custom")
    field(gr.Checkbox, "data", "train_on_prompt")
    return {"number": number, "form": form, "xray": gr.HTML()}


def _costs(page: Page) -> dict:
    translate = page.translate
    gr.Markdown(f"### {translate('rows.price')}\n{translate('rows.price.info')}")
    with gr.Row():
        cutoff = gr.Slider(
            label=translate("rows.cutoff"),
            info=translate("train.max_seq_length.info"),
            minimum=16,
            maximum=4096,
            step=8,
            value=page.start.train.max_seq_length,
            min_width=240,
        )
        card = gr.Dropdown(label=translate("plan.card"), choices=card_choices(page), value=THIS_MACHINE, min_width=200)
    return {
        "cutoff": cutoff,
        "card": card,
        "price": gr.HTML(),
        "all": gr.Button(translate("rows.count_all"), size="sm", visible=False),
    }


def connect(page: Page, tab: SimpleNamespace, shown: gr.Tab) -> None:
    """The tab's listeners, once all fields of the page are there. `shown` is the tab itself: tokens are looked at only once it was opened."""
    opened = gr.State(False)
    form = [page.fields["data", name] for name in SLICE]
    inputs, looks = (
        page.inputs(),
        [tab.about, tab.table, tab.raw, tab.category, *tab.parts.values(), tab.fetch, tab.message],
    )
    length = page.fields["train", "max_seq_length"]

    def looking(offer: tuple[str, ...]) -> Callable:
        return lambda *values: _looked(page, values, offer)

    def count(opened, *values):
        yield from _counted(page, opened, values)

    def draw(opened, number, *values):
        return _xrayed(page, number, values) if opened else gr.skip()

    def cost(opened, cutoff, card, *values):
        yield from _priced(page, opened, cutoff, card, values, SAMPLED)

    counting, drawing, costing = (
        ([opened, *inputs], [tab.counted, tab.stop]),
        ([opened, tab.number, *inputs], tab.xray),
        ([opened, tab.cutoff, tab.card, *inputs], [tab.price, tab.all, tab.stop]),
    )
    offers = {"source": OFFERED, "encoding": OFFERED, "columns": OFFERED[1:]}
    for name, component in zip(SLICE, form):
        component.change(looking(offers.get(name, ())), inputs, looks, **UNQUEUED)
    gr.on([component.change for component in form], count, *counting, **NEWEST).then(draw, *drawing, **NEWEST).then(
        cost, *costing, **NEWEST
    )
    gr.on([tab.number.change, *(page.fields["data", name].change for name in WRITTEN)], draw, *drawing, **NEWEST)
    gr.on([tab.cutoff.release, length.change], draw, *drawing, **NEWEST)
    gr.on([tab.cutoff.change, tab.card.change, page.fields["data", "prompt_format"].change], cost, *costing, **NEWEST)
    tab.cutoff.release(lambda value: value, tab.cutoff, length, **UNQUEUED)
    length.change(
        lambda value: gr.update(value=value) if value and 16 <= value <= 4096 else gr.skip(),
        length,
        tab.cutoff,
        **UNQUEUED,
    )
    shown.select(lambda: True, None, opened, **UNQUEUED).then(looking(OFFERED), inputs, looks, **UNQUEUED).then(
        count, *counting, **NEWEST
    ).then(draw, *drawing, **NEWEST).then(cost, *costing, **NEWEST)
    tab.all.click(
        lambda cutoff, card, *values: (yield from _priced(page, True, cutoff, card, values, 0)),
        costing[0][1:],
        costing[1],
        **QUIET,
    )
    tab.fetch.click(lambda *values: _looked(page, values, OFFERED, fetch=True), inputs, looks, **QUIET)
    tab.stop.click(lambda: page.planner.stop("count_rows"), **UNQUEUED)
    _connect_sources(page, tab)


def _connect_sources(page: Page, tab: SimpleNamespace) -> None:
    """Uploads, pasted text, columns by hand, and the own template's field."""

    def paste(text):
        try:
            return gr.update(value=str(source.save_pasted(text or "", cache_folder() / "pasted"))), message()
        except Exception as error:
            return gr.skip(), page.trouble(error)

    tab.upload.upload(lambda path: gr.update(value=path), tab.upload, tab.source, **UNQUEUED)
    tab.keep.click(paste, tab.text, [tab.source, tab.message], **UNQUEUED)
    for part in tab.parts.values():
        part.input(
            lambda *names: format_mapping({name: value for name, value in zip(FIELDS, names) if value}),
            [*tab.parts.values()],
            page.fields["data", "columns"],
            **UNQUEUED,
        )
    columns = page.fields["data", "columns"]
    columns.change(_by_hand, [columns, *tab.parts.values()], [*tab.parts.values()], **UNQUEUED)
    page.fields["data", "prompt_format"].change(
        lambda name: gr.update(visible=name == "custom"), page.fields["data", "prompt_format"], tab.form, **UNQUEUED
    )


def _by_hand(columns: str, *shown: str) -> list:
    """What the choices of columns show for the written ones; those that go on from there, quicker than this answer, stay."""
    try:
        said = parse_mapping(columns or "")
    except PlaygroundError:  # the preview tells
        return [gr.skip() for _ in FIELDS]
    if said and said.items() <= dict(zip(FIELDS, shown)).items():
        return [gr.skip() for _ in FIELDS]
    return [gr.update(value=said.get(part, "")) for part in FIELDS]


def _looked(page: Page, values, offer: tuple[str, ...], fetch: bool = False) -> tuple:
    """The beginning of the chosen set: what it is, the first rows as they'd be taught, and as they stand.

    offer: fields whose choices may have become others; new choices take away what is just being typed there.
    """
    same = [gr.skip() for _ in FIELDS]
    try:
        data = page.settings(values).data
        if not fetch and source.is_remote(data.source):
            return (
                rows_view.remote(page.translate, source.short_name(data.source)),
                [],
                [],
                gr.skip(),
                *same,
                gr.update(visible=True),
                message(),
            )
        found = source.preview(data, PREVIEWED)
    except Exception as error:
        return "", [], [], gr.skip(), *same, gr.update(visible=False), page.trouble(error)
    choices = [(page.translate("rows.guess"), ""), *((name, name) for name in found.found)]
    parts = [gr.update(choices=choices) if "parts" in offer else gr.skip() for _ in FIELDS]
    categories = gr.update(choices=["", *found.categories]) if "category" in offer else gr.skip()
    wrong = message("\n".join(problem.text(page.lang) for problem in found.problems), bad=True)
    taught = [[rows_view.question(row), row.output] for row in found.rows]
    return (
        rows_view.about(page.translate, found),
        taught,
        rows_view.raw(page.translate, found),
        categories,
        *parts,
        gr.update(visible=False),
        wrong,
    )


def _counted(page: Page, opened: bool, values) -> Iterator[tuple]:
    """How many rows are learned and held out, and what was left out, by reason; reading a large set shows how far it is."""
    if not opened:
        yield gr.skip(), gr.skip()
        return
    try:
        settings = page.settings(values)
        if source.is_remote(settings.data.source):
            yield "", gr.update(visible=False)
            return
        found = yield from _asking(
            page,
            "count_rows",
            lambda how: (rows_view.progress(page.translate, how), gr.update(visible=True)),
            settings=settings.to_dict(),
        )
    except Exception as error:
        yield rows_view.stopped(page.translate, page.lang, error), gr.update(visible=False)
        return
    yield rows_view.counted(page.translate, found), gr.update(visible=False)


def _xrayed(page: Page, number, values) -> str:
    try:
        settings = page.settings(values)
        if source.is_remote(settings.data.source):
            return ""
        return xray_view.draw(
            page.translate, page.planner.ask("xray", settings=settings.to_dict(), row=int(number or 1))
        )
    except Exception as error:
        return rows_view.stopped(page.translate, page.lang, error)


def _priced(page: Page, opened: bool, cutoff, card: str, values, sample: int) -> Iterator[tuple]:
    if not opened:
        yield gr.skip(), gr.skip(), gr.skip()
        return
    try:
        settings = page.settings(values)
        if source.is_remote(settings.data.source):
            yield "", gr.update(visible=False), gr.update(visible=False)
            return
        on = memory_of(card)
        asked = {
            "settings": settings.to_dict(),
            "cutoff": int(cutoff),
            "sample": sample,
            "root": str(page.root),
            "capacity": on["bytes"],
            "device": on["device"],
            "card": on["name"],
        }
        found = yield from _asking(
            page,
            "cutoff_cost",
            lambda how: (rows_view.progress(page.translate, how), gr.update(visible=False), gr.update(visible=True)),
            **asked,
        )
    except Exception as error:
        yield rows_view.stopped(page.translate, page.lang, error), gr.update(visible=False), gr.update(visible=False)
        return
    yield (
        cost_view.draw(page.translate, page.lang, found),
        gr.update(visible=found["counted"] < found["rows"]),
        gr.update(visible=False),
    )


def _asking(page: Page, do: str, going: Callable, **values) -> Iterator:
    """The planner's answer; while it takes long, what `going` makes of (done, total, unit), or of None, is yielded. Raises what the answer raises."""
    how, answer = [], {}

    def ask() -> None:
        try:
            answer["found"] = page.planner.ask(do, lambda *far: how.append(far), **values)
        except BaseException as error:
            answer["error"] = error

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    while asking.is_alive():
        asking.join(LOOK)
        if asking.is_alive():
            yield going(how[-1] if how else None)
    if "error" in answer:
        raise answer["error"]
    return answer["found"]
