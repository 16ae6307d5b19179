"""Sweeps: values and ranges of settings, everything wrong with one before it starts, results, and what is repeated."""

import json
from functools import partial
from types import SimpleNamespace

import pytest

from playground import __main__ as cli
from playground import runs
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES, translate
from playground.jobs import store
from playground.jobs.sweep import MOST_RUNS_PUBLIC, parse_sweep
from playground.jobs.sweep_jobs import Follower, best, put_sweep, rows
from playground.settings import Settings
from playground.ui.sweep_view import sweep_html

R48 = ["lr=1e-3,1e-2", "r=4,8"]


def _values(text):
    return parse_sweep([text], Settings()).axes[0].values


def _wrong(*texts, **options):
    with pytest.raises(PlaygroundError) as caught:
        parse_sweep(texts, Settings(), **options)
    assert all(caught.value.text(lang) for lang in LANGUAGES)
    return [problem.key.removeprefix("problem.") for problem in caught.value.problems]


@pytest.mark.parametrize(
    "text,values",
    [
        ("lora.r=8,16,32", (8, 16, 32)),
        ("r=1..5", (1, 2, 3, 4, 5)),
        ("r=5..3", (5, 4, 3)),
        ("lr=1e-4..1e-2 in 5 log steps", (0.0001, 0.0003162, 0.001, 0.003162, 0.01)),
        ("r=4..64 in 5 LOG steps", (4, 8, 16, 32, 64)),
        ("dropout=0..0.2 in 3 steps", (0.0, 0.1, 0.2)),
        ("--max-seq-length=64、128", (64, 128)),
        ("ｒ＝４，８", (4, 8)),
        ("train-seed=1,2", (1, 2)),
        ("lora_layers=2", (2,)),
        ("use-dora=on,off", (True, False)),
        ("target_modules=q_proj,v_proj; all-linear", ("q_proj,v_proj", "all-linear")),
        ("r=8,8,4", (8, 4)),
    ],
)
def test_values_and_ranges_of_any_setting(text, values):
    assert _values(text) == values


def test_everything_that_is_wrong_is_found_before_anything_starts():
    assert _wrong("rr=1", "seed=1", "lr") == ["sweep_setting", "sweep_ambiguous", "sweep_form", "sweep_settings"]
    assert _wrong("r=0,4,x", "r=2") == ["kind", "sweep_twice", "r"]
    assert _wrong("lr=2,3", "batch_size=0") == ["lr", "batch_size", "lr"]
    assert _wrong() == ["sweep_empty"]


@pytest.mark.parametrize(
    "text", ["lr=0.1..0.5", "lr=0..1 in 3 log steps", "r=1..4 in 1 steps", "lr=1e300..1e309", "r=3..3"]
)
def test_a_range_that_cannot_be_read_is_refused(text):
    assert _wrong(text) == ["sweep_range"]


def test_too_many_runs_are_refused_before_they_are_made():
    assert _wrong("r=1..1000000") == ["sweep_runs"]
    assert _wrong("r=1..3", "lr=1e-3,1e-2", most=MOST_RUNS_PUBLIC) == ["sweep_runs"]


def test_a_combination_that_only_together_is_wrong_is_refused():
    assert _wrong("method=full", "bits=4,16") == ["full_bits"]


def _finish(root, job, loss, state="done"):
    run = runs.create(root, "tune", Settings())
    peak = {"rss": 2**30}
    run.append("done", job="tune", result={"loss": {"before": 3.0, "after": loss}, "tokens_per_s": 9.0, "peak": peak})
    store.change(root, job.id, state=state, run=run.id)
    return run


def test_the_same_sweep_again_repeats_only_what_is_not_done(tmp_path):
    sweep = parse_sweep(R48, Settings())
    assert put_sweep(tmp_path, sweep, [Follower("compare", {"question": "?"})]) == 0
    jobs = [job for job in store.listing(tmp_path).jobs if job.kind == "tune"]
    assert len(jobs) == 4 and len(store.listing(tmp_path).jobs) == 8
    _finish(tmp_path, jobs[0], 1.5)
    stopped = _finish(tmp_path, jobs[1], 2.5, "stopped")
    (stopped.folder / "checkpoint.pt").touch()
    store.change(tmp_path, jobs[2].id, state="running")  # its program died
    deleted = _finish(tmp_path, jobs[3], 1.0)
    runs.delete(tmp_path, deleted.id)
    assert put_sweep(tmp_path, parse_sweep(R48, Settings())) == 1
    now = [store.read(tmp_path, job.id) for job in jobs]
    assert [job.state for job in now] == ["done", "waiting", "waiting", "waiting"]
    assert (now[1].resume, now[1].run, now[3].run) == (True, stopped.id, "")
    assert len(store.listing(tmp_path).jobs) == 8
    other = parse_sweep(["r=4,16"], Settings())
    assert put_sweep(tmp_path, other) == 0 and len(store.listing(tmp_path).group(other.group)) == 2


def test_the_same_sweep_again_adds_what_follows_and_repeats_what_failed(tmp_path):
    sweep, question = parse_sweep(["r=4,8"], Settings()), Follower("compare", {"question": "?"})
    put_sweep(tmp_path, sweep)
    for job in store.listing(tmp_path).jobs:
        _finish(tmp_path, job, 1.0)
    assert put_sweep(tmp_path, sweep, [question]) == 2
    answers = [job for job in store.listing(tmp_path).jobs if job.kind == "compare"]
    assert len({job.after for job in answers}) == len(answers) == 2 and answers[0].group == sweep.group
    store.change(tmp_path, answers[0].id, state="stopped")
    store.change(tmp_path, answers[1].id, state="done")
    assert put_sweep(tmp_path, sweep, [question, Follower("export", {"to": "gguf"})]) == 2
    now = [(job.kind, job.state) for job in store.listing(tmp_path).jobs if job.kind != "tune"]
    assert now == [("compare", "waiting"), ("compare", "done"), ("export", "waiting"), ("export", "waiting")]


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    "texts,shape", [(["lr=1e-3,1e-2,1e-1"], "<circle"), (R48, "<rect"), (["prompt_format=chat,alpaca"], "<circle")]
)
def test_results_are_drawn_as_they_come_with_the_best_marked(tmp_path, lang, texts, shape):
    sweep = parse_sweep(texts, Settings())
    put_sweep(tmp_path, sweep)
    jobs = store.listing(tmp_path).jobs
    page = SimpleNamespace(translate=partial(translate, lang), lang=lang, root=tmp_path)
    assert shape not in sweep_html(page, store.listing(tmp_path), sweep.group)
    for job, loss in zip(jobs[:2], (2.0, 1.25)):
        _finish(tmp_path, job, loss)
    queue = store.listing(tmp_path)
    html, found = sweep_html(page, queue, sweep.group), rows(tmp_path, queue, sweep.group)
    assert best(found).job == jobs[1].id and found[0].loss == (3.0, 2.0) and found[0].peak == 2**30
    drawn = len(jobs) if shape == "<rect" else 2
    assert html.count(shape) == drawn and html.count("3.000 → 1.250") == 1 and "1.00 GiB" in html
    assert html.count('<tr class="best">') == 1 and translate(lang, "sweep.progress", done=2, runs=len(jobs)) in html


def test_an_answer_of_before_the_runs_end_is_not_shown(tmp_path):
    sweep = parse_sweep(["r=4,8"], Settings())
    put_sweep(tmp_path, sweep, [Follower("compare", {"question": "?"})])
    tune, compare = store.listing(tmp_path).jobs[:2]
    run = _finish(tmp_path, tune, 2.0)
    ended = runs.summary(tmp_path, run.id).began + runs.summary(tmp_path, run.id).seconds
    for began, answer in ((ended - 60, ""), (ended, "Blue.")):  # the run was resumed outside of the queue, or not
        store.change(tmp_path, compare.id, state="done", result={"tuned": "Blue."}, began=began)
        assert rows(tmp_path, store.listing(tmp_path), sweep.group)[0].answer == answer


def test_what_people_wrote_is_escaped_in_the_picture(tmp_path):
    sweep = parse_sweep(["data.contains=<b>x</b>;y"], Settings())
    put_sweep(tmp_path, sweep)
    for job, loss in zip(store.listing(tmp_path).jobs, (2.0, 1.0)):
        _finish(tmp_path, job, loss)
    page = SimpleNamespace(translate=partial(translate, "en"), lang="en", root=tmp_path)
    html = sweep_html(page, store.listing(tmp_path), sweep.group)
    assert "<b>" not in html and "&lt;b&gt;" in html


@pytest.mark.slow
def test_the_command_trains_each_combination_and_the_same_command_none_again(chosen, tmp_path, capsys):
    (tmp_path / "s.json").write_text(json.dumps(chosen(train={"eval_rows": 4}).to_dict()), encoding="utf-8")
    command = ["sweep", "--settings", tmp_path / "s.json", "--runs", tmp_path / "runs", "--sweep", "lr=1e-3,1e-2"]

    def sweep(*more):
        assert cli.main([str(part) for part in [*command, *more]]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    first = sweep("--prompt", "What is the answer to question 3?")
    assert [row["state"] for row in first["rows"]] == ["done", "done"] and first["skipped"] == 0
    assert first["best"]["combination"] == {"train.lr": 0.01} and all(row["answer"] for row in first["rows"])
    trained = len(runs.history(tmp_path / "runs"))
    again = sweep()
    assert again["skipped"] == 2 and again["rows"] == first["rows"] and len(runs.history(tmp_path / "runs")) == trained
    assert cli.main(["queue", "stop", "--runs", str(tmp_path / "runs")]) == 1
    assert cli.main(["queue", "clear", "--runs", str(tmp_path / "runs")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["jobs"] == []
