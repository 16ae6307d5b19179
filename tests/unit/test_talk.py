"""The talk's steps: the bundled ones are whole, a speaker's own file is checked by step and line, texts are escaped."""

import json
import re
from functools import partial
from html import unescape

import pytest
from toys import keys

from playground import catalog, runs
from playground.errors import PlaygroundError, problem
from playground.i18n import LANGUAGES, translate
from playground.job import Job
from playground.runs.recordings import read_recording
from playground.settings import Settings
from playground.talk.steps import KINDS, STEPS, Step, read_steps
from playground.ui import talk_figures, talk_recordings
from playground.ui.live_answers import LiveAnswers
from playground.ui.page import Page
from playground.ui.talk_answers import recorded_answers
from playground.ui.talk_figures import check_figures, questions, redrawn, step_figure
from playground.ui.talk_models import is_asked, lora_shape
from playground.ui.workspaces import Workspace


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "steps.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def _step(**values):
    return {"kind": "text", "title": {"en": "A", "ja": "B"}, **values}


def _lora_with(r):
    return json.dumps([_step(kind="lora", r=0)]).replace('"r": 0', f'"r": {r}')


def test_the_bundled_talk_has_each_kind_of_step_in_both_languages():
    steps = read_steps(STEPS)
    assert 10 <= len(steps) <= 14 and {step.kind for step in steps} == set(KINDS)
    for step in steps:
        assert set(step.title) == set(step.text) == set(LANGUAGES)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_figure_is_drawn_and_says_where_its_numbers_are_from(lang):
    for step in read_steps():
        html = step_figure(step, lang)
        assert (html == "") == ('class="source"' not in html) == (step.kind == "text"), step.kind


def test_figures_are_computed_from_what_a_step_names():
    step = Step("bytes", {}, {}, options={"model": "cyberagent/open-calm-7b"})
    html = step_figure(step, "en")
    assert "6,871,982,080 × 4 B = 27.5 GB" in html and "3.4 GB" in html
    assert "64,000" in step_figure(Step("lora", {}, {}, options={"rows": 4000, "columns": 4000, "r": 8}), "en")


def test_measured_bars_carry_the_fine_tunes_prediction_and_what_ran_out_is_marked():
    names = ["calm-7b-lora-32", "calm-7b-full-16-on-24-gib"]
    html = step_figure(Step("measured", {}, {}, options={"recordings": names, "card": 24}), "en")
    peaks = {event["phase"]: event for event in read_recording(names[0]) if event["kind"] == "memory_predicted"}
    measured = read_recording(names[0])[-1]["result"]["peak"]["device_used"]
    assert f"left:{100 * peaks['tune']['device_used'] / measured:.2f}%" in html
    assert html.count('class="failed"') == 1 and translate("en", "talk.ran_out") in html and "27.28 GiB" in html


def test_figures_of_several_recordings_name_each_of_their_sources_and_jobs():
    options = {"recordings": ["calm-7b-load-4", "demo-en", "demo-ja"]}
    html = step_figure(Step("measured", {}, {}, options=options), "en")
    sources = re.findall(r'class="source"><em>([^<]*)<', html)
    assert len(sources) > 1 and "H100" in sources[0]
    assert all("AMD EPYC" in source and "cores" in source for source in sources[1:])
    html = step_figure(Step("cost", {}, {}, options=options), "en")
    jobs = [translate("en", f"chart.job.{job}") for job in ("load", "tune", "tune")]
    assert [name.startswith(job) for name, job in zip(re.findall(r'scope="row">([^<]*)<', html), jobs)] == [True] * 3


def test_a_minute_less_than_half_a_second_is_a_minute(monkeypatch):
    events = [dict(event) for event in read_recording("demo-en")]
    events[-1] |= {"t": 119.7, "result": events[-1]["result"] | {"seconds": 59.6}}
    monkeypatch.setattr(talk_recordings, "read_recording", lambda name: events)
    monkeypatch.setattr(talk_figures, "read_recording", lambda name: events)
    assert "<td>2:00</td>" in step_figure(Step("cost", {}, {}, options={"recordings": ["demo-en"]}), "en")
    assert "<dd>1:00</dd>" in step_figure(Step("run", {}, {}), "en")


def test_a_step_asks_the_questions_whose_recorded_answers_it_shows():
    own = Step("prompts", {}, {}, options={"recordings": ["demo-en"]})
    asked = [answered.question for answered in recorded_answers(read_recording("demo-en"))]
    assert questions(own, "en") == asked != questions(Step("prompts", {}, {}), "en")
    assert questions(Step("prompts", {}, {}), "ja") == catalog.prompts()["talk"]["prompts"]["ja"]


def test_costs_are_those_of_the_recordings_also_of_one_that_failed():
    names = ["demo-en", "calm-7b-lora-4", "calm-7b-full-16-on-24-gib"]
    html = step_figure(Step("cost", {}, {}, options={"recordings": names}), "en")
    assert "5.33 GiB" in html and "0:32" in html and html.count(translate("en", "talk.ran_out")) == 1


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("[{]", "error.talk_json"),
        ("{}", "error.talk_list"),
        ("[]", "error.talk_list"),
        ([3], "error.talk_step"),
        ([_step(kind="film")], "error.talk_kind"),
        ([_step(titel={})], "error.talk_key"),
        ([{"kind": "text", "title": {"en": "A"}}], "error.talk_title"),
        ([{"kind": "text", "title": {"en": "A", "fr": "B"}}], "error.talk_title"),
        ([_step(kind="guess")], "error.talk_title"),
        ([_step(kind="guess", question={"en": "Will it fit?"})], "error.talk_title"),
        ([_step(title="A")], "error.talk_value"),
        ([_step(kind=["text"])], "error.talk_kind"),
        ([_step(kind={})], "error.talk_kind"),
        ([_step(kind="bytes", model=["a"])], "error.talk_value"),
        ([_step(tab=["plan"])], "error.talk_value"),
        ([_step(kind="measured", recordings=[["demo-en"]])], "error.talk_value"),
        ("- kind: text\n  title: {en: A, ja: B}\n", "error.talk_json"),  # YAML
        (json.dumps([_step(), _step()])[:-20], "error.talk_json"),
        ("", "error.talk_json"),
        ({"steps": [_step()]}, "error.talk_list"),
        *((_lora_with(r), "error.talk_value") for r in ("NaN", "1e999", "-3", "1" * 21, '"<script>"')),
        ("[" * 100_000, "error.talk_file"),
        ("[" + "1" * 5000 + "]", "error.talk_file"),
        ([_step(text={"en": "x" * 601})], "error.talk_long"),
        ([_step(tab="nowhere")], "error.talk_value"),
        ([_step(kind="bytes", model="nobody/nothing")], "error.talk_value"),
        ([_step(kind="lora", r=0)], "error.talk_value"),
        ([_step(kind="lora", r=True)], "error.talk_value"),
        ([_step(kind="measured", recordings=["nothing"])], "error.talk_value"),
        ([_step(kind="measured", recordings=[])], "error.talk_value"),
        ([_step(kind="cost")], "error.talk_value"),
        ([_step(kind="cost", recordings="demo-en")], "error.talk_value"),
        ([_step(kind="measured", recordings=["demo-en"], card=0)], "error.talk_value"),
        ([_step(kind="text", r=8)], "error.talk_key"),
        ([_step(kind="text", recordings=["demo-en"])], "error.talk_key"),
        ([_step(kind="prompts", recordings=[])], "error.talk_value"),
        ([_step(kind="prompts", recordings=["calm-7b-lora-4"])], "error.talk_no_answers"),
        ([_step(kind="run", recordings=["talk-en"])], "error.talk_no_answers"),  # it measured no facts
        ([_step(kind="cost", recordings=["none.jsonl"])], "error.recording_file"),
        ([_step(kind="cost", recordings=["steps.json"])], "error.talk_value"),
        ([_step(kind="weight", model="nobody/nothing")], "error.talk_value"),
        ([_step(kind="lora", model={})], "error.talk_value"),
        ([_step(kind="peft", models=["nobody/nothing"])], "error.talk_value"),
        ([_step(kind="peft", models=[["a"]])], "error.talk_value"),
        ([_step(kind="peft", models=[])], "error.talk_models"),
        ([_step(kind="formats", models="gemma-3-270m")], "error.talk_models"),
        ([_step(kind="formats", models=["gemma-3-270m"] * 5)], "error.talk_models"),
        ([_step(kind="formats", model="gemma-3-270m")], "error.talk_key"),
        ([_step(kind="run", model="cyberagent/open-calm-7b")], "error.talk_no_recording"),
        ([_step(kind="measured", model="facebook/opt-66b")], "error.talk_no_recording"),
        ([_step(kind="cost", model="gemma-3-270m", recordings=["demo-en"])], "error.talk_both"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(file, content, key):
    with pytest.raises(PlaygroundError) as caught:
        read_steps(file(content))
    assert keys(caught) == [key]


OWN = "Qwen/Qwen3-0.6B"  # no stored answer and no recording has it


class _Planner:
    """Answers with sizes that depend on the model, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, do, **arguments):
        self.asked.append((do, arguments.get("model") or arguments["settings"]["load"]["model"]))
        if do == "weight_picture":
            raise problem("error.lab_not_here", model=arguments["model"])
        needs = {"step": "float32_full", "need": 7 * 2**30}
        return [needs] if do == "waterfall" else needs


def test_steps_of_a_speakers_own_model_are_asked_for_as_they_are_shown(file, tmp_path):
    steps = [
        _step(kind="guess", model=OWN, question={"en": "How much?", "ja": "?"}),
        _step(kind="savings", model=OWN),
        _step(kind="peft", models=["bigscience/T0_3B", OWN]),
        _step(kind="weight", model=OWN),
        _step(kind="formats", models=["smollm2-135m-instruct", OWN]),
    ]
    guess, savings, peft, weight, formats = read_steps(file(steps))
    planner, word = _Planner(), partial(translate, "en")
    assert all(is_asked(step) for step in (guess, savings, peft, weight, formats))
    check_figures([guess, savings, peft, weight, formats])
    for step in (guess, savings, peft, weight, formats):
        assert word("talk.predicting") in step_figure(step, "en")
    assert "How much?" in step_figure(guess, "en") and "7.00 GiB" in step_figure(guess, "en", planner)
    assert "7.00 GiB" in step_figure(savings, "en", planner)
    table = unescape(step_figure(peft, "en", planner))
    assert "47.0 GB" in table and "7.5 GB" in table and table.count(word("talk.peft.not_measured")) == 2
    assert word("error.lab_not_here", model=OWN) in unescape(redrawn(weight, "en", 4, planner))
    assert {model for _, model in planner.asked} == {OWN} and {do for do, _ in planner.asked} == {
        "waterfall",
        "predict_full_rows",
        "weight_picture",
    }
    html = step_figure(formats, "en", planner, tmp_path)
    assert "SmolLM2 135M" in html and "Qwen3 0.6B" in html and "Gemma" not in html


def test_steps_of_known_models_are_drawn_at_once(file):
    bundled = {step.kind: step for step in read_steps()}
    assert not any(is_asked(step) for step in bundled.values())
    [lora, run, prompts, cost, formats] = read_steps(
        file(
            [
                _step(kind="lora", model="openai-community/gpt2"),
                _step(kind="run", model="gemma-3-270m"),
                _step(kind="prompts", model="smollm2-135m-instruct"),
                _step(kind="cost", model="cyberagent/open-calm-7b"),
                _step(kind="formats", models=["gemma-3-270m"]),
            ]
        )
    )
    assert "768 × 768" in step_figure(lora, "en") and "GPT-2" in step_figure(lora, "en")
    assert step_figure(run, "en") != step_figure(bundled["run"], "en") and run.options["recordings"] == ["demo-ja"]
    assert prompts.options["recordings"] == ["demo-en", "talk-en"] and "SmolLM2" in step_figure(prompts, "ja")
    assert len(cost.options["recordings"]) == 10 and "demo-en" not in cost.options["recordings"]
    assert "SmolLM2" not in step_figure(formats, "en")


@pytest.mark.parametrize("model", sorted({**catalog.models(), **catalog.shapes()}))
def test_every_model_has_a_query_projection(model):
    rows, columns = lora_shape(model)
    assert 256 <= rows <= 20_000 and 256 <= columns <= 20_000


def test_a_speakers_own_recording_lies_beside_the_steps(file, tmp_path):
    lines = [json.dumps(event) for event in read_recording("demo-en")]
    own = tmp_path / "own.jsonl"
    own.write_text("\n".join(lines) + "\n", encoding="utf-8")
    steps = [_step(kind=kind, recordings=["own.jsonl"]) for kind in ("run", "prompts", "cost", "measured")]
    read = read_steps(file(steps))
    check_figures(read)
    shipped = {kind: Step(kind, {}, {}, options={"recordings": ["demo-en"]}) for kind in ("run", "prompts", "cost")}
    assert [step_figure(step, "en") for step in read[:3]] == [step_figure(step, "en") for step in shipped.values()]
    own.write_text("\n".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(PlaygroundError) as caught:
        read_steps(file(steps[:1]))
    assert keys(caught) == ["error.recording_short"]
    last = json.loads(lines[-1])
    del last["result"]["peak"]
    own.write_text("\n".join([*lines[:-1], json.dumps(last)]), encoding="utf-8")
    with pytest.raises(PlaygroundError) as caught:
        check_figures(read_steps(file([_step(), *steps])))
    assert [(found.key, found.values["step"]) for found in caught.value.problems] == [
        ("error.talk_damaged", number) for number in (2, 4, 5)
    ]


SCRIPT = "<script>alert(1)</script>"


def _changed(value, change, key=""):
    """A recording's value with all that isn't needed to read it changed."""
    if isinstance(value, dict):
        return {name: _changed(item, change, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_changed(item, change, key) for item in value]
    return value if key in ("t", "kind", "job", "schema", "recorded", "when", "side") else change(value)


@pytest.mark.parametrize("name", ["demo-en", "calm-7b-full-16-on-24-gib"])
@pytest.mark.parametrize("put", [SCRIPT, "", float("nan"), 1e300, -5, 10**400, None])
def test_a_recording_edited_by_hand_is_drawn_without_its_script_or_refused_in_a_sentence(file, tmp_path, name, put):
    def change(value):
        return put if put is None or isinstance(value, str) == isinstance(put, str) else value

    lines = [json.dumps(_changed(event, change)) for event in read_recording(name)]
    (tmp_path / "own.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for kind in ("run", "prompts", "cost", "measured"):
        try:
            steps = read_steps(file([_step(kind=kind, recordings=["own.jsonl"])]))
            check_figures(steps)
            html = step_figure(steps[0], "en")
        except PlaygroundError as error:
            assert all(found.key.startswith(("error.talk_", "error.recording_")) for found in error.problems)
        else:
            assert "<script" not in html and "nan" not in html


def test_all_problems_of_a_file_are_named_at_once(file, tmp_path):
    with pytest.raises(PlaygroundError) as caught:
        read_steps(file([_step(), _step(kind="film"), _step(tab="x", model="y")]))
    assert [problem.values["step"] for problem in caught.value.problems] == [2, 3, 3]
    with pytest.raises(PlaygroundError) as caught:
        read_steps(tmp_path / "none.json")
    assert keys(caught) == ["error.talk_file"]
    with pytest.raises(PlaygroundError) as caught:
        read_steps(file('[\n {"kind": "text",\n  "title" 3}]'))
    assert caught.value.problems[0].values["line"] == 3
    with pytest.raises(PlaygroundError) as caught:
        read_steps(file('[\n {"kind": "text", "title": {"en": "[,", "ja": "}"}},\n\n {"kind":\n  "film"}, 3\n, 4]'))
    assert [problem.values["line"] for problem in caught.value.problems] == [4, 5, 6]


def test_a_file_may_begin_with_the_mark_of_utf_8(tmp_path):
    path = tmp_path / "steps.json"
    path.write_text(json.dumps([_step()]), encoding="utf-8-sig")
    assert [step.kind for step in read_steps(path)] == ["text"]


def test_a_speakers_own_text_is_shown_as_text(file):
    [step] = read_steps(file([_step(kind="guess", question={"en": "<script>1</script>", "ja": "x"})]))
    assert "<script>" not in step_figure(step, "en")


def test_a_wrong_file_ends_the_program_in_a_sentence_before_it_starts(file, monkeypatch, capsys):
    import app

    monkeypatch.setattr(app, "build_app", None)
    monkeypatch.setattr("sys.argv", ["app.py", "--talk", str(file([_step(), 3])), "--lang", "en"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 2 and "Step 2 (line 1) is no object" in capsys.readouterr().err


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_talks_prompts_have_recorded_answers_of_both_models_with_hardware_and_date(lang):
    events = read_recording(f"talk-{lang}")
    samples = [event for event in events if event["kind"] == "sample"]
    prompts = catalog.prompts()["talk"]["prompts"][lang]
    assert [event["prompt"] for event in samples[:3]] == prompts and "shape" not in events[0]
    html = step_figure(Step("prompts", {}, {}), lang)
    first, last = ({e["prompt"]: e["text"] for e in part} for part in (samples[:3], samples[-3:]))
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", html.partition("<tbody>")[2], re.DOTALL)
    for number, prompt in enumerate(prompts):
        question, base, tuned = map(unescape, cells[3 * number : 3 * number + 3])
        assert question == prompt and base.startswith(first[prompt]) and tuned.startswith(last[prompt])
        assert first[prompt] != last[prompt] != ""
    assert events[0]["recorded"] in html and events[0]["hardware"]["name"] in html
    assert "AMD EPYC" in step_figure(Step("prompts", {}, {}, options={"recordings": [f"demo-{lang}"]}), lang)


class _Engine:
    """Answers every question at once, or fails."""

    state, loaded, error, result = "ready", None, None, {}

    def chat(self, settings, adapter, sides, generation):
        job, question = Job("chat"), sides["tuned"][0]["instruction"]
        job.add({"kind": "answer", "base": "<b>", "tuned": f"{adapter}: {question}"})
        job.add({"kind": "done", "result": self.result})
        job.end(self.error)
        return job


def _tuned(root, model="smollm2-135m-instruct", adapter=True):
    run = runs.create(root, "tune", Settings().with_values({"load": {"model": model, "bits": 16}}))
    if adapter:
        run.adapter.mkdir()
        (run.adapter / "adapter_model.safetensors").write_bytes(b"")
    return run.id


def _start(live, *questions):
    live.start(questions, lambda settings: None)
    live._thread.join(10)
    return live.figure("en")


def test_questions_are_asked_now_with_the_newest_fine_tune(tmp_path):
    run, engine = _tuned(tmp_path), _Engine()
    live = LiveAnswers(tmp_path, engine)
    assert live.figure("en") == ""
    html = _start(live, "one", "<two>")
    assert f"{run}: one" in html and f"{run}: &lt;two&gt;" in html and "&lt;b&gt;" in html and not live.failed
    assert "answered now, on this machine: SmolLM2" in html
    engine.result = {"stopped": True}
    html = _start(live, "one", "two")
    assert f"{run}: one" in html and f"{run}: two" not in html
    engine.error = problem("shared.left_line")  # stopped before its turn
    _start(live, "one", "two")
    assert not live.failed
    engine.error = problem("error.engine_closed")
    assert translate("en", "error.engine_closed") in _start(live, "one") and live.failed
    engine.state = "busy"
    with pytest.raises(PlaygroundError) as caught:
        _start(live, "one")
    assert keys(caught) == ["error.busy"]


def test_each_visitor_asks_with_their_own_fine_tune_and_sees_their_own_answers(tmp_path):
    visitor = ["a"]
    workspaces = {name: Workspace(name, tmp_path / name, _Engine(), None) for name in "ab"}
    page = Page("en", lambda: workspaces[visitor[0]], Settings(), private=False)
    run = _tuned(tmp_path / "a")
    assert f"{run}: one" in _start(page.talk, "one")
    visitor[0] = "b"
    assert page.talk.figure("en") == ""
    with pytest.raises(PlaygroundError) as caught:
        _start(page.talk, "one")
    assert keys(caught) == ["error.talk_nothing_tuned"]


def test_the_queue_doesnt_take_the_engine_between_a_talks_questions(tmp_path, monkeypatch):
    workspace = Workspace("", tmp_path, _Engine(), None)
    assert not workspace.jobs._is_blocked()
    for name in ("story", "queue", "talk"):
        with monkeypatch.context() as patch:
            patch.setattr(type(getattr(workspace, name)), "running", True)
            assert workspace.jobs._is_blocked(), name


@pytest.mark.parametrize(("model", "adapter"), [("smollm2-135m-instruct", False), ("cyberagent/open-calm-7b", True)])
def test_nothing_is_asked_without_a_fine_tune_that_answers_within_seconds(tmp_path, model, adapter):
    _tuned(tmp_path, model, adapter)
    live = LiveAnswers(tmp_path, _Engine())
    with pytest.raises(PlaygroundError) as caught:
        _start(live, "one")
    assert keys(caught) == ["error.talk_nothing_tuned"]
    if adapter:
        live._engine.loaded = {"model": model, "bits": 16}
        _start(live, "one")
