"""The whole page: builds each language's page over one engine and one folder of runs."""

import html
from pathlib import Path

import gradio as gr

from playground import ASSETS, catalog
from playground.data.source import MOST_BYTES
from playground.engine.client import Engine
from playground.i18n import LANGUAGES, translate
from playground.planning.client import Planner
from playground.runs import find
from playground.settings import Settings
from playground.ui import chat, data, load, plan, runs, tune
from playground.ui.live_view import HEAD, STATIC, live_chart
from playground.ui.page import UNQUEUED, Page, outcome
from playground.ui.theme import theme

START = "demo-en"  # the preset that the form opens with


def build_app(root: Path, lang: str = "en", private: bool = False) -> gr.Blocks:
    """The playground over the runs in `root`; its first page is in `lang`, the other language's one link away.

    private: only its owner opens it, who may name files of this machine and have it ask any service. Starts the engine in the background.
    """
    engine = Engine(root)
    engine.start()
    planner = Planner(root)
    other = next(code for code in LANGUAGES if code != lang)
    gr.set_static_paths(STATIC)
    with gr.Blocks(title=translate(lang, "app.title"), analytics_enabled=False, fill_width=True) as app:
        _page(app, Page(lang, root, engine, planner, _preset(START), private), f"/{other}")
    with app.route(translate(lang, "app.other"), f"/{other}"):
        _page(app, Page(other, root, engine, planner, _preset(START), private), "/")
    app.engine = engine
    app.queue(default_concurrency_limit=None, max_size=64)
    return app


def launch_options() -> dict:
    """What `Blocks.launch` is to be given beside its address."""
    return {
        "theme": theme(),
        "css_paths": [ASSETS / "style.css", ASSETS / "figures.css", ASSETS / "tokens.css"],
        "head": HEAD,
        "max_file_size": MOST_BYTES,
        "run_history": False,
        "footer_links": ["gradio", "settings"],
    }


def _page(app: gr.Blocks, page: Page, other: str) -> None:
    _header(page, other)
    with gr.Row(elem_classes="stage"):
        with gr.Column(scale=6, min_width=320, elem_classes="desk"):
            with gr.Tabs():
                with gr.Tab(page.translate("tab.plan")):
                    planning = plan.build(page)
                with gr.Tab(page.translate("tab.load")):
                    preset = gr.Dropdown(
                        label=page.translate("preset.label"),
                        info=page.translate("preset.info"),
                        choices=[(page.translate(f"preset.{k}"), k) for k in catalog.presets()],
                        value=START,
                    )
                    loading = load.build(page)
                with gr.Tab(page.translate("tab.data")) as rows:
                    teaching = data.build(page)
                with gr.Tab(page.translate("tab.tune")):
                    tuning = tune.build(page)
                with gr.Tab(page.translate("tab.chat")):
                    chatting = chat.build(page)
                with gr.Tab(page.translate("tab.runs")) as past:
                    history = runs.build(page)
        with gr.Column(scale=5, min_width=320, elem_classes="watch"):
            chart = live_chart(page.lang, page.root, lambda: _current(page.engine))
    plan.connect(page, planning)
    load.connect(page, loading, chart)
    data.connect(page, teaching, rows)
    tune.connect(page, tuning, chart)
    chat.connect(page, chatting)
    runs.connect(page, history, chart)
    preset.input(lambda name: page.values(_preset(name)), preset, page.inputs(), **UNQUEUED)

    def refresh(adapter, model, bits):
        """What has to follow the engine: once on load, then the chart's `change` fires at every start and end of a job."""
        job, busy, choices = page.engine.last, page.engine.state == "busy", chat.adapters(page)
        ids = [run_id for _, run_id in choices]
        fresh = job.run if job and job.do == "tune" and job.ended and job.run in ids else None
        now = fresh or (adapter if adapter in ids else ids[0])
        return (
            outcome(page, job, "load", lambda: _loaded(page)),
            outcome(page, job, "tune", lambda: _tuned(page, job.result)),
            *(gr.update(interactive=not busy) for _ in (loading.go, tuning.go, chatting.go)),
            *(gr.update(interactive=busy) for _ in (tuning.stop, chatting.stop)),
            gr.update(choices=choices, value=now),
            *chat.badges(page, now, model, bits),
            *runs.listed(page),
        )

    shown = [
        loading.message,
        tuning.message,
        loading.go,
        tuning.go,
        chatting.go,
        tuning.stop,
        chatting.stop,
        chatting.adapter,
        *chatting.badges.values(),
        chatting.same,
        history.table,
        history.empty,
        history.pick,
        history.resume,
    ]
    chosen = [chatting.adapter, loading.model, page.fields["load", "bits"]]
    app.load(refresh, chosen, shown, **UNQUEUED)
    chart.change(refresh, chosen, shown, **UNQUEUED)
    past.select(
        lambda picked: runs.listed(page, picked),
        history.pick,
        [history.table, history.empty, history.pick, history.resume],
        **UNQUEUED,
    )


def _preset(name: str) -> Settings:
    return Settings().with_values(catalog.presets()[name]["settings"])


def _loaded(page: Page) -> str:
    """What to say once a model is loaded, read from the run that loaded it."""
    settings = find(page.root, page.engine.run).settings().load
    return page.translate("load.loaded", model=settings.model, bits=settings.bits)


def _tuned(page: Page, found: dict) -> str:
    """What to say once a fine-tune is over: how far it got, what was measured, what to do next."""
    lines = [page.translate("tune.stopped" if found.get("stopped") else "tune.done")]
    if found.get("recall"):
        lines.insert(0, page.translate("tune.recall", **found["recall"]))
    return "\n".join(lines)


def _current(engine: Engine) -> dict:
    state = {"off": "dead"}.get(engine.state, engine.state)
    return {"run": engine.run, "busy": engine.state == "busy", "engine": state}


def _header(page: Page, other: str) -> None:
    title, lead, link = (html.escape(page.translate(key)) for key in ("app.title", "app.lead", "app.other"))
    gr.HTML(
        f'<header class="top"><div><h1>{title}</h1><p>{lead}</p></div><a href="{other}" lang="{"en" if page.lang == "ja" else "ja"}">{link}</a></header>'
    )
