"""The bit-width race: which runs are its lanes, the command, and jobs one after another."""

import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
from toys import PROJECT

from playground import __main__ as main_module
from playground import runs
from playground.cli import commands
from playground.ending import ENDING
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError, problem
from playground.i18n import LANGUAGES, translate
from playground.job import Job
from playground.runs.race import PLAIN, TYPED, Lane, lanes, of_kind, widest_first, without_kind
from playground.settings import Lora
from playground.ui.job_queue import JobQueue
from playground.ui.race_figure import race_figure
from playground.ui.race_view import failures, race_table


class Page:
    lang, translate = "en", partial(translate, "en")


def _race(chosen, root, kinds=("16", "4-nf4"), **groups):
    workbench, settings = Workbench(root), chosen(**groups)
    for kind in kinds:
        list(workbench.tune(of_kind(settings, kind), exact=True))
    return settings


def test_lanes_are_the_newest_fine_tunes_that_differ_in_nothing_but_the_kind_of_weights(chosen, tmp_path):
    settings = _race(chosen, tmp_path, ("16", "4-nf4", "4-fp4"))
    _race(chosen, tmp_path, ("16",), train={"seed": 7})
    found = lanes(tmp_path, settings, TYPED)
    assert list(found) == ["16", "4-nf4", "4-fp4"]
    for kind, lane in found.items():
        assert lane.kind == kind and lane.state == "done"
        assert lane.predicted > 2**27 < lane.measured and lane.seconds_per_step > 0
        assert lane.loss[1] < lane.loss[0] and [step for step, _ in lane.losses] == [1, 2, 3]
    plain = lanes(tmp_path, settings, PLAIN)
    assert list(plain) == ["16", "4"] and plain["4"] == found["4-nf4"]  # the settings' own type
    before = found["16"].run
    _race(chosen, tmp_path, ("16",))
    assert lanes(tmp_path, settings, ("16",))["16"].run > before
    assert lanes(tmp_path, settings, ("16",), "another machine") == {}
    assert lanes(tmp_path, replace(settings, lora=replace(settings.lora, r=9)), PLAIN) == {}


def test_a_kind_that_the_machine_cannot_run_says_so_in_its_row_and_the_others_go_on(chosen, tmp_path):
    settings, workbench, queue = chosen(), Workbench(tmp_path), JobQueue(_Engine)

    def tune(kind):
        job = Job("tune")
        for event in workbench.tune(of_kind(settings, kind), exact=True):
            job.add(event)
        job.end(None)
        return job

    kinds = ["16", "8-int8", "8-fp8", "4-fp4"]
    queue.start("race", {kind: partial(tune, kind) for kind in kinds}, about=without_kind(settings), keep_going=True)
    queue._thread.join(60)
    page = SimpleNamespace(queue=queue, lang="en", translate=Page.translate)
    failed = failures(page, settings, kinds)
    assert list(failed) == ["8-fp8"] and failures(page, replace(settings, lora=Lora(r=9)), kinds) == {}
    html = race_table(page, lanes(tmp_path, settings, kinds), failed)
    heads = re.findall(r"<th scope=row>(\d+)(?:<small>(\w+)</small>)?</th>", html)
    assert heads == [("16", ""), ("8", "int8"), ("8", "fp8"), ("4", "fp4")]
    assert html.count("colspan") == 1 and "multiply 8-bit floats" in html
    plain = of_kind(of_kind(settings, "8-fp8"), "8")  # takes the type that the hardware has
    assert list(workbench.tune(plain))[-1]["kind"] == "done"
    assert lanes(tmp_path, settings, ("8",))["8"].kind == "8-int8"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_picture_has_a_named_line_for_each_width_and_names_do_not_overlap(lang):
    losses = ((1, 3.0), (2, 2.0), (3, 1.0))
    one = Lane("a", 16, "done", 1, 1, 1.0, 1.0, None, None, "", ("", ""), losses, "16")
    others = [
        replace(one, bits=8, kind="8-fp8", losses=((1, 3.1), (2, 2.1), (3, 1.01))),
        replace(one, bits=4, losses=((1, 3.0),)),
    ]
    html = race_figure(partial(translate, lang), [one, *others])
    assert html.count("<polyline") == 2 and " fp8</text>" in html and translate(lang, "race.steps", steps=3) in html
    heights = [float(y) for y in re.findall(r'<text class="look-\d" x="[\d.]+" y="([\d.]+)"', html)]
    assert len(heights) == 2 and abs(heights[0] - heights[1]) >= 17
    assert race_figure(partial(translate, lang), others[1:]) == ""


def test_a_lane_that_was_stopped_says_so(chosen, tmp_path):
    workbench, settings = Workbench(tmp_path), chosen()
    for event in workbench.tune(of_kind(settings, "16")):
        if event["kind"] == "step":
            workbench.stop.set()
    found = lanes(tmp_path, settings, ("16",))
    assert found["16"].state == "stopped"
    html = race_table(Page, found)
    assert translate("en", "state.stopped") in html and "–" in html
    assert "no memory" in race_table(Page, found, {"16": "no memory"})
    assert translate("en", "race.none") in race_table(Page, {})


def test_kinds_are_run_widest_first_and_once():
    assert widest_first(["4", "32", "8-fp8", "8-int8", "32"]) == ["32", "8-int8", "8-fp8", "4"]


class _Engine:
    state = "ready"


def _job(result=None, error=None):
    job = Job("tune")
    job.add({"kind": "done", "result": result or {}})
    job.end(error)
    return job


def _run(queue, *jobs, **options):
    started = []
    queue.start("race", {str(n): lambda job=job: started.append(job) or job for n, job in enumerate(jobs)}, **options)
    queue._thread.join(10)
    return started


def test_jobs_run_one_after_another_until_one_is_stopped_or_fails():
    queue = JobQueue(_Engine)
    jobs = [_job(), _job({"stopped": True}), _job()]
    assert _run(queue, *jobs) == jobs[:2] and queue.errors == {} and not queue.running
    failing = [_job(error=problem("error.busy")), _job()]
    assert _run(queue, *failing) == failing[:1] and queue.errors["0"].problems[0].key == "error.busy"
    assert _run(queue, *failing, keep_going=True) == failing and list(queue.errors) == ["0"]


def test_a_job_that_is_stopped_before_its_turn_or_fails_as_it_stops_ends_the_queue():
    queue, crashed = JobQueue(_Engine), _job(error=problem("error.engine_closed"))
    crashed.stopping = True
    for job, errors in ((_job(error=problem("shared.left_line")), []), (crashed, ["0"])):
        assert _run(queue, job, _job(), keep_going=True) == [job] and list(queue.errors) == errors


def test_a_queue_under_way_is_busy():
    queue, waiting = JobQueue(_Engine), threading.Event()
    queue.start("race", {"16": lambda: waiting.wait(10) and _job()})
    with pytest.raises(PlaygroundError):
        queue.start("lab", {})
    assert queue.kind == "race"
    waiting.set()
    queue._thread.join(10)


@pytest.mark.slow
def test_the_command_ends_in_one_json_object(chosen, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(chosen().to_dict()), encoding="utf-8")
    command = [sys.executable, "-m", "playground", "race", "--settings", str(file), "--widths", "16", "8-fp8", "4-fp4"]
    process = subprocess.run(
        [*command, "--runs", str(tmp_path / "runs")], capture_output=True, text=True, cwd=PROJECT, timeout=300
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert [lane["kind"] for lane in result["lanes"]] == ["16", "4-fp4"] and list(result["failed"]) == ["8-fp8"]


class _Bench:
    """A workbench whose fine-tunes end at once; one of 8 bits fails."""

    def __init__(self, root):
        self.root = root

    def tune(self, settings, exact):
        if settings.load.bits == 8:
            raise problem("error.busy")
        run = runs.create(self.root, "tune", settings, hardware={"device": "cpu", "name": "a processor"})
        yield run.append("done", job="tune", result={"run": run.id, "stopped": bool(ENDING.cause)})


def test_the_command_lists_its_own_fine_tunes_and_fails_where_every_one_does(chosen, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("playground.engine.workbench.Workbench", _Bench)
    settings = chosen()
    monkeypatch.setattr(commands, "settings_of", lambda options: settings)
    for kind in ("16", "4"):
        list(_Bench(tmp_path).tune(of_kind(settings, kind), False))
    monkeypatch.setattr(commands.ENDING, "cause", "SIGINT")  # after the first kind that is tried
    options = SimpleNamespace(runs=tmp_path, widths=["16", "4"], lang="en")
    result = commands.race(options)
    assert [lane["bits"] for lane in result["lanes"]] == [16] and "error" not in result
    assert result["lanes"][0]["run"] == runs.history(tmp_path)[0].id
    options.widths = ["8"]
    result = commands.race(options)
    assert result["lanes"] == [] and list(result["failed"]) == ["8"] and result["error"]
    monkeypatch.setattr(main_module, "parse_arguments", lambda arguments: SimpleNamespace(run_command=lambda _: result))
    monkeypatch.setattr(commands.ENDING, "cause", None)
    assert main_module.main([]) == 1


def test_the_names_of_lines_that_end_together_stay_in_the_picture_and_apart():
    lane = partial(Lane, "r", 4, "done", None, None, 0.5, None, None, None, "", ("", ""))
    found = [replace(lane(), losses=((1, 5.0), (9, 0.0)), kind=f"4-{number}") for number in range(8)]
    html = race_figure(Page.translate, found)
    heights = sorted(float(at) for at in re.findall(r'<text class="look-\d" x="[\d.]+" y="([\d.]+)"', html))
    assert len(heights) == 8 and heights[-1] < 240 and min(b - a for a, b in pairwise(heights)) >= 17


def test_the_speed_is_said_in_the_pages_language():
    lane = Lane("r", 16, "done", None, None, 0.5, 1234.0, None, None, "", ("", ""))
    page = SimpleNamespace(lang="ja", translate=partial(translate, "ja"))
    html = race_table(page, {"16": lane}, {})
    assert translate("ja", "race.speed", speed=1234.0) in html and "tokens" not in html
