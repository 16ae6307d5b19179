"""What the page does about Gradio's own faults and slowness, and what of Gradio's insides that relies on."""

import inspect
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio import component_meta, processing_utils
from gradio.route_utils import file_fetch
from gradio.state_holder import SessionState
from run_async import run_async
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from playground.errors import problem
from playground.ui import downloads, quick_sessions
from playground.ui.bounds import setting_slider
from playground.ui.page import select_tab
from playground.ui.quick_gradio import _hide_from_gradio
from playground.ui.quick_scripts import SCRIPTS, QuickScripts, quickened
from playground.ui.sentences import answer_in_sentences
from playground.ui.separate_events import separate_events
from playground.ui.whole_updates import send_whole_updates

CHANGED = "gradio changed: playground/ui/quick_gradio.py needs another way to import it quickly"


def test_importing_gradio_leaves_inspect_as_it_was():
    assert inspect.getfile is not _hide_from_gradio
    assert _hide_from_gradio(gr.Textbox) == inspect.getfile(gr.Textbox)  # for any other caller


def test_gradio_writes_no_stub_of_a_component_whose_file_it_cannot_find(monkeypatch):
    monkeypatch.setattr(inspect, "getfile", _hide_from_gradio)
    monkeypatch.setattr(component_meta, "create_pyi", lambda *_: pytest.fail(CHANGED))
    assert component_meta.create_or_modify_pyi(gr.Textbox, "Textbox", []) is None, CHANGED


@pytest.fixture
def two_listeners():
    """A page on which two listeners follow one field, and one of them a button as well; then separated."""
    with gr.Blocks() as app:
        field, first, second, button = gr.Number(), gr.Number(), gr.Number(), gr.Button()
        field.change(lambda value: value, field, first)
        gr.on([field.change, button.click], lambda value: value, field, second, trigger_mode="always_last")
        button.click(lambda: None)
        separate_events(app)
    return app, field, button


def test_each_listener_that_keeps_the_last_call_gets_an_event_of_its_own(two_listeners):
    app, field, button = two_listeners
    of_first, of_second, of_button = list(app.fns.values())[:3]
    tickets = {target for listener in (of_first, of_second) for target in listener.targets}
    assert len(tickets) == 2 and (field._id, "change") not in tickets
    assert of_button.targets == [(button._id, "click")]  # its calls are never kept


def test_every_event_still_reaches_its_listeners_through_their_tickets(two_listeners):
    app, field, button = two_listeners
    reached: dict = {}
    for listener in list(app.fns.values())[3:]:
        [ticket] = listener.outputs
        assert listener.fn is None and "ticketNumber" in listener.js
        reached[ticket._id] = set(listener.targets)
    of_first, of_second = ([number for number, _ in listener.targets] for listener in list(app.fns.values())[:2])
    assert reached[of_first[0]] == {(field._id, "change")}
    assert reached[of_second[0]] == {(field._id, "change"), (button._id, "click")}


def test_separating_twice_changes_nothing(two_listeners):
    app, *_ = two_listeners
    count = len(app.fns)
    with app:
        separate_events(app)
    assert len(app.fns) == count


def test_a_generators_updates_are_sent_whole_and_its_texts_appended():
    with gr.Blocks() as app:
        notice, text = gr.HTML(), gr.HTML()
        gr.Button().click(lambda: None, None, [notice, text])
    send_whole_updates(app)
    [listener] = app.fns.values()

    def sent(*values, final=False):
        return app.handle_streaming_diffs(listener, list(values), session_hash="s", run="r", final=final)

    assert sent(gr.update(value="no", visible=False), "a") == [gr.update(value="no", visible=False), "a"]
    assert sent(gr.skip(), "ab") == [[["replace", [], gr.skip()]], [["append", [], "b"]]]
    assert sent(gr.skip(), "b") == [[], [["replace", [], "b"]]]
    assert sent(None, None, final=True) == [gr.skip(), "b"]


def test_a_session_describes_the_components_that_are_asked_for_as_gradio_does(monkeypatch):
    with gr.Blocks() as app:
        name, kept = gr.Textbox("a", label="Name"), gr.State(3)
    with monkeypatch.context() as plain:
        plain.setattr(SessionState, "__init__", quick_sessions._begin)
        by_gradio = SessionState(app).config_values
    quick_sessions.quicken_sessions()
    described = []
    describe = app.default_config.config_for_block
    monkeypatch.setattr(
        type(app.default_config), "config_for_block", lambda *a: described.append(a[-3]) or describe(*a[-3:])
    )
    session = SessionState(app)
    assert described == []
    session._update_value_in_config(name._id, "b")
    assert described == [name._id] and session.config_values[name._id]["props"]["value"] == "b"
    session._update_value_in_config(name._id, "a")
    assert dict(session.config_values) == by_gradio and len(session.config_values) == len(by_gradio)
    assert session[kept._id] == 3 and 9**9 not in session.config_values
    with pytest.raises(KeyError):
        session.config_values[9**9]


def test_a_tab_is_selected_in_the_browser_alone():
    with gr.Blocks() as app:
        button = gr.Button()
        with gr.Tabs() as tabs, gr.Tab("One", id="one"):
            pass
        select_tab(button.click, tabs, "one", where="1 < 2")
    [listener] = app.fns.values()
    assert listener.fn is None
    assert listener.js == "() => ({ ...(1 < 2 ? { selected: \"one\" } : {}), __type__: 'update' })"


def test_the_changed_scripts_are_served_in_place_of_gradios_and_all_others_as_they_are():
    changed = quickened(SCRIPTS)
    marks = (
        "lastStatus",
        "===0)return;",
        "this.sending??",
        "this.sending?.",
        "foundById",
        "attachedEvents",
        ".size)o.open",
    )
    assert [mark for mark in marks if any(mark in text for text in changed.values())] == list(marks), (
        "gradio changed: look whether playground/ui/quick_scripts.py is still needed"
    )
    page = TestClient(QuickScripts(PlainTextResponse("Gradio's")))
    for name in changed:
        assert page.get(f"/assets/{name}").text == changed[name] != (SCRIPTS / name).read_text(encoding="utf-8")
        assert page.get(f"/elsewhere/{name}").text == page.post(f"/assets/{name}").text == "Gradio's"
    assert page.get("/assets/other.js").text == "Gradio's"


def test_scripts_without_the_lines_are_left_as_they_are(tmp_path):
    for name, text in (("Blocks-1.js", "another version"), ("core-1.js", "of Gradio"), ("core-2.js", "")):
        (tmp_path / name).write_text(text)
    assert quickened(tmp_path) == {}
    [search] = [text for name, text in quickened(SCRIPTS).items() if name.startswith("core-")]
    plain = (SCRIPTS / next(name for name in quickened(SCRIPTS) if name.startswith("core-"))).read_text()
    (tmp_path / "core-2.js").write_text(plain + plain)  # which of the two is meant?
    assert quickened(tmp_path) == {} and "foundById" in search


@pytest.mark.parametrize(
    "lang,sentence", [("en", "Length: 99 is above the limit of 8"), ("ja", "Length：99 は上限の 8 を")]
)
def test_a_number_beyond_the_bounds_of_a_component_is_refused_in_the_pages_words(lang, sentence):
    with gr.Blocks() as app:
        inputs = [
            gr.Slider(1, 8, label="Length"),
            gr.Number(minimum=2, label="Row"),
            setting_slider(minimum=1, maximum=8),
        ]
        gr.Button().click(lambda *values: None, inputs, None)
    answer_in_sentences(app, lang)
    [listener] = app.fns.values()

    def prepare(*values):
        return run_async(app.preprocess_data(listener, list(values), None))

    assert prepare(3, 4, 99) == [3, 4, 99]  # a setting is checked elsewhere
    with pytest.raises(gr.Error, match=sentence) as refused:
        prepare(99, 4, 5)
    assert refused.value.title == {"en": "Error", "ja": "エラー"}[lang]
    with pytest.raises(gr.Error, match=r"Row.*-1.*2"):
        prepare(3, -1, 5)


def test_what_a_listener_or_a_component_refuses_is_a_sentence():
    def refuse(value):
        raise problem("error.no_run", run=value)

    with gr.Blocks() as app:
        examples = gr.Dataset(components=[gr.Textbox()], samples=[["a"]])
        gr.Button().click(refuse, examples, None)
    answer_in_sentences(app, "en")
    [listener] = app.fns.values()

    async def ask(value):
        given = await app.preprocess_data(listener, [value], None)
        return await app.call_function(listener, given)

    for value, sentence in ((0, "There is no run"), (7, "not possible here"), ({}, "not possible here")):
        with pytest.raises(gr.Error, match=sentence) as caught:
            run_async(ask(value))
        assert not caught.value.print_exception


def test_a_runs_file_is_offered_without_being_read_and_served_from_where_it_lies(tmp_path, monkeypatch):
    """Gradio hashes and copies other files in its event loop: 2 s a GiB, in which it answers nobody."""
    file, other = tmp_path / "run" / "adapter.zip", tmp_path / "run" / "events.jsonl"
    file.parent.mkdir()
    file.write_bytes(b"zip"), other.write_bytes(b"{}")
    monkeypatch.setattr(downloads, "folder", lambda: tmp_path / "downloads")
    monkeypatch.setattr(processing_utils, "hash_file", lambda *file: pytest.fail("the whole file was read"))
    button = gr.DownloadButton()
    for _ in range(2):
        made = downloads.link(file, "ada", "run")
    shown = button.postprocess(made).model_dump()
    sent = run_async(processing_utils.async_move_files_to_cache(shown, button, postprocess=True))
    assert sent["path"] == str(made) and sent["url"].endswith(f"file={made}")

    def fetch(path):
        page = SimpleNamespace(blocked_paths=[], allowed_paths=[])
        return file_fetch(str(path), SimpleNamespace(headers={}), page, str(tmp_path / "uploads"))

    answer = fetch(made)
    assert answer.path.read_bytes() == b"zip" and "adapter.zip" in answer.headers["content-disposition"]
    with pytest.raises(HTTPException):
        fetch(other)
    downloads.remove("ada")
    with pytest.raises(HTTPException):
        fetch(file)
