"""The page: one Blocks page a language, over one engine, one planner and one folder of runs.

Two pages rather than one with `gr.I18n` (tried with Gradio 6.31): that translates labels and choices in the browser,
but no table headers and no text with values in it, has no address for a language, and doesn't tell the server, which
draws most texts, what the browser shows. The second page takes about 2 s to build (two busy cores) and 6 to 9 MiB.
"""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from playground import ASSETS, catalog
from playground.data.source import MAX_FILE_BYTES
from playground.engine.client import Engine
from playground.i18n import LANGUAGES, translate
from playground.planning.client import Planner
from playground.runs import find
from playground.settings import Settings
from playground.ui import compare_tab, data_listeners, data_tab, fine_tune_tab, load_tab, plan_tab, runs_tab
from playground.ui.live_view import HEAD, STATIC, live_view
from playground.ui.page import UNQUEUED, Page, job_message
from playground.ui.theme import theme

START_PRESET = "demo-en"  # that the form opens with
STYLES = ("style.css", "figures.css", "tokens.css", "data.css")


def build_app(root: Path, lang: str = "en", private: bool = False) -> gr.Blocks:
    """The playground over the runs in `root`: the first page in `lang`, the other language's under its code.

    private: only its owner opens the page, and may name files of this machine and have it call any service.
    Starts the engine in the background.
    """
    engine = Engine(root)
    engine.start()
    planner = Planner(root)
    start = _preset(START_PRESET)
    other = next(code for code in LANGUAGES if code != lang)
    gr.set_static_paths(STATIC)
    with gr.Blocks(title=translate(lang, "app.title"), analytics_enabled=False, fill_width=True) as app:
        _build_page(app, Page(lang, root, engine, planner, start, private), f"/{other}")
    with app.route(translate(lang, "app.other"), f"/{other}"):
        _build_page(app, Page(other, root, engine, planner, start, private), "/")
    app.engine = engine
    app.queue(default_concurrency_limit=None, max_size=64)
    return app


def launch_options() -> dict[str, Any]:
    """Arguments of `Blocks.launch`, except the address."""
    return {
        "theme": theme(),
        "css_paths": [ASSETS / name for name in STYLES],
        "head": HEAD,
        "max_file_size": MAX_FILE_BYTES,
        "run_history": False,
        "footer_links": ["gradio", "settings"],
    }


@dataclass(frozen=True)
class Tabs:
    """Every tab's components, the preset above the form, and the tabs that are filled when they are opened."""

    plan: plan_tab.PlanTab
    preset: gr.Dropdown
    load: load_tab.LoadTab
    data: data_tab.DataTab
    fine_tune: fine_tune_tab.FineTuneTab
    compare: compare_tab.CompareTab
    runs: runs_tab.RunsTab
    data_header: gr.Tab
    runs_header: gr.Tab


def _build_page(app: gr.Blocks, page: Page, other_path: str) -> None:
    """One language's page: header, tabs, live view and all listeners."""
    _build_header(page, other_path)
    with gr.Row(elem_classes="stage"):
        with gr.Column(scale=6, min_width=320, elem_classes="desk"):
            tabs = _build_tabs(page)
        with gr.Column(scale=5, min_width=320, elem_classes="watch"):
            view = live_view(page.lang, page.root, lambda: _current_run(page.engine))
    plan_tab.connect(page, tabs.plan)
    load_tab.connect(page, tabs.load, view)
    data_listeners.connect(page, tabs.data, tabs.data_header)
    fine_tune_tab.connect(page, tabs.fine_tune, view)
    compare_tab.connect(page, tabs.compare)
    runs_tab.connect(page, tabs.runs, view)
    tabs.preset.input(lambda name: page.values(_preset(name)), tabs.preset, page.inputs(), **UNQUEUED)
    _connect_engine_state(app, page, tabs, view)


def _build_tabs(page: Page) -> Tabs:
    with gr.Tabs():
        with gr.Tab(page.translate("tab.plan")):
            plan = plan_tab.build(page)
        with gr.Tab(page.translate("tab.load")):
            preset = gr.Dropdown(
                label=page.translate("preset.label"),
                info=page.translate("preset.info"),
                choices=[(page.translate(f"preset.{name}"), name) for name in catalog.presets()],
                value=START_PRESET,
            )
            load = load_tab.build(page)
        with gr.Tab(page.translate("tab.data")) as data_header:
            data = data_tab.build(page)
        with gr.Tab(page.translate("tab.tune")):
            fine_tune = fine_tune_tab.build(page)
        with gr.Tab(page.translate("tab.chat")):
            compare = compare_tab.build(page)
        with gr.Tab(page.translate("tab.runs")) as runs_header:
            runs = runs_tab.build(page)
    return Tabs(plan, preset, load, data, fine_tune, compare, runs, data_header, runs_header)


def _connect_engine_state(app: gr.Blocks, page: Page, tabs: Tabs, view: gr.HTML) -> None:
    """Listeners that update buttons, messages and lists at every start and end of a job, and when the page opens."""
    load, fine_tune, compare = tabs.load, tabs.fine_tune, tabs.compare
    start_buttons = [load.load, fine_tune.start, compare.send]
    stop_buttons = [fine_tune.stop, compare.stop]

    def refresh(adapter: str, model: str, bits: int) -> tuple:
        job, busy, choices = page.engine.last, page.engine.state == "busy", compare_tab.adapter_choices(page)
        ids = [run_id for _, run_id in choices]
        tuned_now = job.run if job and job.do == "tune" and job.ended and job.run in ids else None
        selected = tuned_now or (adapter if adapter in ids else ids[0])
        return (
            job_message(page, job, "load", lambda: _loaded_text(page)),
            job_message(page, job, "tune", lambda: _tuned_text(page, job.result if job else {})),
            *(gr.update(interactive=not busy) for _ in start_buttons),
            *(gr.update(interactive=busy) for _ in stop_buttons),
            gr.update(choices=choices, value=selected),
            *compare_tab.badge_updates(page, selected, model, bits),
            *runs_tab.listing_updates(page),
        )

    inputs = [compare.adapter, load.model, page.fields["load", "bits"]]
    outputs = [
        load.message,
        fine_tune.message,
        *start_buttons,
        *stop_buttons,
        compare.adapter,
        *compare.badges.values(),
        compare.no_adapter,
        *tabs.runs.listing,
    ]
    for event in (app.load, view.change):  # the live view changes at every start and end of a job
        event(refresh, inputs, outputs, **UNQUEUED)
    opened = tabs.runs_header.select
    opened(lambda run_id: runs_tab.listing_updates(page, run_id), tabs.runs.choice, tabs.runs.listing, **UNQUEUED)


def _preset(name: str) -> Settings:
    return Settings().with_values(catalog.presets()[name]["settings"])


def _loaded_text(page: Page) -> str:
    """The message after a model was loaded, from the run that loaded it."""
    settings = find(page.root, page.engine.run).settings().load
    return page.translate("load.loaded", model=settings.model, bits=settings.bits)


def _tuned_text(page: Page, result: dict) -> str:
    """The message after a fine-tune: recall as measured, whether it was stopped, what to do next."""
    lines = [page.translate("tune.stopped" if result.get("stopped") else "tune.done")]
    if result.get("recall"):
        lines.insert(0, page.translate("tune.recall", **result["recall"]))
    return "\n".join(lines)


def _current_run(engine: Engine) -> dict[str, Any]:
    """The engine's run and state, as the live view takes them."""
    return {"run": engine.run, "busy": engine.state == "busy", "engine": engine.state}


def _build_header(page: Page, other_path: str) -> None:
    title, lead, link = (html.escape(page.translate(key)) for key in ("app.title", "app.lead", "app.other"))
    other_lang = "en" if page.lang == "ja" else "ja"
    gr.HTML(
        f'<header class="top"><div><h1>{title}</h1><p>{lead}</p></div>'
        f'<a href="{other_path}" lang="{other_lang}">{link}</a></header>'
    )
