"""The page: one Blocks page a language, over one engine, one planner and one folder of runs.

Two pages rather than one with `gr.I18n` (tried with Gradio 6.31): that translates labels and choices in the browser,
but no table headers and no text with values in it, has no address for a language, and doesn't tell the server, which
draws most texts, what the browser shows. The second page takes about 2 s to build (two busy cores) and 6 to 9 MiB.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from playground import catalog
from playground.engine.client import Engine
from playground.errors import problem
from playground.i18n import LANGUAGES, translate
from playground.planning.client import Planner
from playground.runs import empty_trash, put_back_all_spares
from playground.settings import Settings
from playground.talk.steps import Step, read_steps
from playground.ui import (
    adapter_choice,
    adapters_chat_view,
    api,
    compare_tab,
    conversation,
    data_listeners,
    data_tab,
    fine_tune_tab,
    header,
    interrupted_notice,
    kept_state,
    lab_tab,
    load_tab,
    plan_listeners,
    plan_tab,
    runs_tab,
    sign_in,
    spectrum_view,
    start_tab,
    status_strip,
    take_home_tab,
    talk_tab,
    weight_view,
)
from playground.ui.engine_state import engine_state, loaded_text, tuned_text
from playground.ui.live_view import STATIC, live_view
from playground.ui.page import LAST_INPUT, UNQUEUED, Page, job_message
from playground.ui.quick_sessions import quicken_sessions
from playground.ui.sentences import answer_in_sentences
from playground.ui.separate_events import separate_events
from playground.ui.shared_page import SharedPage
from playground.ui.whole_updates import send_whole_updates
from playground.ui.workspaces import Workspace
from playground.zero_gpu import make_engine

TABS = ("start", "plan", "load", "data", "tune", "chat", "lab", "talk", "runs", "take")  # in their order; "start" opens


def build_app(root: Path, lang: str = "en", private: bool = False, talk: Sequence[Step] = ()) -> gr.Blocks:
    """The playground over the runs in `root`: the first page in `lang`, the other language's under its code.

    private: only its owner opens the page, and may name files of this machine and have it call any service. talk: the
    steps of the Talk tab; those that ship with the program if there are none. Starts the engine in the background. Runs
    that were deleted earlier are removed for good, and what others wrote to spare folders is put back.
    """
    empty_trash(root)
    put_back_all_spares(root)
    shared = None if private else SharedPage(root)
    environment, folder = (shared.environment, shared.folder) if shared else (None, None)
    most_seconds = shared.limits.question if shared else math.inf
    planner = Planner(root, environment=environment, folder=folder, most_seconds=most_seconds)
    engine = make_engine(root, planner, environment, folder)
    engine.start()
    workspace = shared.workspaces(engine, planner) if shared else _one_workspace(root, engine, planner)
    other = next(code for code in LANGUAGES if code != lang)
    talk = talk or read_steps()

    gr.set_static_paths(STATIC)
    first, second = (
        Page(code, workspace, _preset(f"demo-{code}"), private, shared.limits if shared else None)
        for code in (lang, other)
    )
    title, tidy = translate(lang, "app.title"), None if private else (600, 3600)  # Gradio's own copies of files
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True, delete_cache=tidy) as app:
        api.mount(first)  # before the listeners, which would take the names "tune" and "stop"
        _build_page(app, first, f"/{other}", talk)
    with app.route(translate(lang, "app.other"), f"/{other}"):
        _build_page(app, second, "/", talk)
    app.engine, app.planner, app.shared = engine, planner, shared
    app.queue(default_concurrency_limit=None, max_size=64)
    sign_in.keep_private(app)
    send_whole_updates(app)
    answer_in_sentences(app, lang)
    quicken_sessions()
    return app


def _one_workspace(root: Path, engine: Engine, planner: Planner) -> Callable[[], Workspace]:
    """On a private page whoever opens it has everything."""
    workspace = Workspace("", root, engine, planner)
    return lambda: workspace


@dataclass(frozen=True)
class Tabs:
    """Every tab's components, the preset above the form, and the tabs' headers by their id."""

    tabs: gr.Tabs
    headers: dict[str, gr.Tab]
    start: start_tab.StartTab
    plan: plan_tab.PlanTab
    preset: gr.Dropdown
    load: load_tab.LoadTab
    data: data_tab.DataTab
    fine_tune: fine_tune_tab.FineTuneTab
    compare: compare_tab.CompareTab
    lab: lab_tab.LabTab
    runs: runs_tab.RunsTab
    take_home: take_home_tab.TakeHomeTab


def _build_page(app: gr.Blocks, page: Page, other_path: str, talk: Sequence[Step]) -> None:
    """One language's page: header, status strip, tabs, live view and all listeners."""
    header.build(page, other_path)
    strip = status_strip.build(page)
    with gr.Row(elem_classes="stage"):
        with gr.Column(scale=6, min_width=320, elem_classes="desk"):
            tabs = _build_tabs(page, talk)
        with gr.Column(scale=5, min_width=320, elem_classes="watch"):
            view = live_view(page.lang, lambda: page.root, lambda: engine_state(page))
    headers = tabs.headers
    start_tab.connect(page, tabs.start, app, tabs.tabs, tabs.compare)
    plan_listeners.connect(page, tabs.plan, headers["plan"])
    load_tab.connect(page, tabs.load, headers["load"], view)
    data_listeners.connect(page, tabs.data, headers["data"])
    fine_tune_tab.connect(page, tabs.fine_tune, app, tabs.tabs, headers["tune"], view, strip.view)
    compare_tab.connect(page, tabs.compare, tabs.tabs, headers["chat"], view)
    lab_tab.connect(page, tabs.lab, headers["lab"], view)
    runs_changed = runs_tab.connect(page, tabs.runs, view)
    chosen, generation = tabs.runs.overlay.chosen_runs, tabs.compare.settings.generation
    adapters_chat_view.connect(page, tabs.runs.adapters_chat, chosen, generation)
    take_home_tab.connect(page, tabs.take_home, headers["take"])
    status_strip.connect(page, strip)
    for notice in (tabs.start.interrupted, tabs.fine_tune.interrupted):
        interrupted_notice.connect(page, notice, app, view)
    tabs.preset.input(lambda name: page.values(_preset(name)), tabs.preset, page.inputs(), **LAST_INPUT)
    tabs.plan.choice.use.click(lambda: None, None, tabs.preset, **UNQUEUED)  # the form no longer holds a preset
    _connect_engine_state(app, page, tabs, strip, view)
    for event in runs_changed:
        adapter = [tabs.compare.adapter, tabs.compare.seen_runs]
        event(partial(adapter_choice.adapter_update, page, ""), adapter, tabs.compare.adapter, **UNQUEUED)
    kept_state.keep_tab(app, tabs.tabs, headers)
    kept_state.keep_fields(app, _kept_components(page, tabs), _kept_lists(tabs))
    drawn_with = [tabs.compare.adapter, tabs.compare.settings.service_enabled]
    conversation.connect(page, app, tabs.compare.turns, tabs.compare.comparison, drawn_with)
    kept_state.name_accordions(app)
    separate_events(app)


def _build_tabs(page: Page, talk: Sequence[Step]) -> Tabs:
    headers: dict[str, gr.Tab] = {}

    def tab(name: str) -> gr.Tab:
        headers[name] = gr.Tab(page.translate(f"tab.{name}"), id=name)
        return headers[name]

    with gr.Tabs(overflow_behavior="wrap") as tabs:
        with tab("start"):
            start = start_tab.build(page)
        with tab("plan"):
            plan = plan_tab.build(page)
        with tab("load"):
            preset = _build_preset(page)
            load = load_tab.build(page)
        with tab("data"):
            data = data_tab.build(page)
        with tab("tune"):
            fine_tune = fine_tune_tab.build(page)
        with tab("chat"):
            compare = compare_tab.build(page)
        with tab("lab"):
            lab = lab_tab.build(page)
        with tab("talk"):
            talk_tab.build(page, talk)
        with tab("runs"):
            runs = runs_tab.build(page)
        with tab("take"):
            take_home = take_home_tab.build(page)
    return Tabs(tabs, headers, start, plan, preset, load, data, fine_tune, compare, lab, runs, take_home)


def _build_preset(page: Page) -> gr.Dropdown:
    return gr.Dropdown(
        label=page.translate("preset.label"),
        info=page.translate("preset.info"),
        choices=[(page.translate(f"preset.{name}"), name) for name in catalog.presets()],
        value=f"demo-{page.lang}",
    )


def _kept_components(page: Page, tabs: Tabs) -> dict[str, Any]:
    """What is kept over a reload, by name: the form and every other field, but the secret ones."""
    named = {f"form.{group}.{name}": component for (group, name), component in page.fields.items()}
    named |= {f"plan.{group}.{name}": component for (group, name), component in tabs.plan.fields.items()}
    named |= {"plan.card": tabs.plan.card, "plan.gpus": tabs.plan.gpus, "plan.context": tabs.plan.context}
    named |= {"preset": tabs.preset}
    generation = {
        f"chat.generation.{index}": component for index, component in enumerate(tabs.compare.settings.generation)
    }
    lab = {f"lab.{index}": component for index, component in enumerate(tabs.lab.inputs())}
    weight = {f"weight.{index}": component for index, component in enumerate(tabs.lab.weight.inputs()[1:])}
    filters, data, export = tabs.load.filters, tabs.data, tabs.take_home.export
    queue, service = tabs.fine_tune.queue, tabs.compare.settings
    numbered: dict[str, list[Any]] = {
        "filter": [filters.language, filters.size, filters.card],
        "data": [data.inputs.text, data.cost_view.card, data.token_view.row_number],
        "queue": [queue.then, queue.question, *queue.axes],
        "service": [service.service_enabled, *service.service_address[:2]],  # not its key
        "export": [export.to, export.type, export.content, export.repo, export.name],  # not the hub's token
    }
    single = {
        "race": tabs.lab.race.widths,
        "recording": tabs.runs.recordings.choice,
        "question": tabs.compare.question,
        "elsewhere": tabs.compare.elsewhere,
        "adapters.question": tabs.runs.adapters_chat.question,
    }
    groups = {f"{group}.{n}": one for group, listed in numbered.items() for n, one in enumerate(listed)}
    return named | generation | lab | weight | groups | single


def _kept_lists(tabs: Tabs) -> dict[str, Any]:
    """The kept lists that are filled once the program knows the runs, or the model, by their names there."""
    return {
        adapter_choice.KEPT: tabs.compare.adapter,
        spectrum_view.KEPT: tabs.lab.weight.spectrum.adapter,
        weight_view.KEPT: tabs.lab.weight.layer,
        take_home_tab.KEPT: tabs.take_home.run,
    }


def _connect_engine_state(
    app: gr.Blocks, page: Page, tabs: Tabs, strip: status_strip.StatusStrip, view: gr.HTML
) -> None:
    """Listeners that update buttons, messages and lists at every start and end of a job, and when the page opens."""
    load, fine_tune, compare = tabs.load, tabs.fine_tune, tabs.compare
    start_buttons = [tabs.start.teach, load.load, fine_tune.start]

    def refresh(kept: str, adapter: str | None, seen: dict) -> tuple:
        job, busy = page.engine.last, page.engine.state == "busy"
        has_tuned = job is not None and job.do == "tune" and job.run == adapter_choice.latest_tuned_run(page)
        return (
            job_message(page, job, "load", lambda: loaded_text(page)),
            job_message(page, job, "tune", lambda: tuned_text(page, job.result if job else {})),
            gr.update(visible=has_tuned and not busy),
            *(gr.update(interactive=not busy) for _ in start_buttons),
            *status_strip.button_updates(page),
            adapter_choice.adapter_update(page, kept, adapter, seen),
        )

    outputs = [
        load.message,
        fine_tune.message,
        fine_tune.compare,
        *start_buttons,
        strip.stop,
        strip.unload,
        compare.adapter,
    ]
    inputs, with_kept = [compare.adapter, compare.seen_runs], kept_state.with_kept(adapter_choice.KEPT)
    for event in (app.load, view.change):  # the live view changes at every start and end of a job
        event(refresh, [gr.Textbox(visible=False), *inputs], outputs, js=with_kept, **UNQUEUED)
    for event in (app.load, tabs.headers["runs"].select):
        event(lambda value: runs_tab.table_update(page, value), view, tabs.runs.table, **UNQUEUED)
    for button in (tabs.start.teach, load.load, fine_tune.start):
        button.click(lambda: gr.update(follow=""), None, view, **UNQUEUED)  # whoever starts a job wants to see it


def _preset(name: str | None) -> Settings:
    """The settings of a preset. Raises PlaygroundError where there is none of that name."""
    preset = catalog.presets().get(name or "")
    if preset is None:
        raise problem("request.value", field="preset", value=str(name))
    return Settings().with_values(preset["settings"])
