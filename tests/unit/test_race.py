"""The bit-width race: which runs are its lanes, the command, and jobs one after another."""

import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial

import pytest
from toys import PROJECT

from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError, problem
from playground.i18n import LANGUAGES, translate
from playground.job import Job
from playground.runs.race import Lane, lanes
from playground.ui.job_queue import JobQueue
from playground.ui.race_figure import race_figure
from playground.ui.race_view import at_width, race_table, widest_first


def _race(chosen, root, widths=(16, 4), **groups):
    workbench, settings = Workbench(root), chosen(**groups)
    for bits in widths:
        list(workbench.tune(at_width(settings, bits)))
    return settings


def test_lanes_are_the_newest_fine_tunes_that_differ_in_nothing_but_bits(chosen, tmp_path):
    settings = _race(chosen, tmp_path)
    _race(chosen, tmp_path, (16,), train={"seed": 7})
    found = lanes(tmp_path, settings, (32, 16, 8, 4))
    assert list(found) == [16, 4]
    for bits, lane in found.items():
        assert lane.bits == bits and lane.state == "done"
        assert lane.predicted > 2**27 < lane.measured and lane.seconds_per_step > 0
        assert lane.loss[1] < lane.loss[0] and [step for step, _ in lane.losses] == [1, 2, 3]
    before = found[16].run
    _race(chosen, tmp_path, (16,))
    assert lanes(tmp_path, settings, (16,))[16].run > before
    assert lanes(tmp_path, settings, (16,), "another machine") == {}
    assert lanes(tmp_path, replace(settings, lora=replace(settings.lora, r=9)), (16, 4)) == {}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_picture_has_a_named_line_for_each_width_and_names_do_not_overlap(lang):
    one = Lane("a", 16, "done", 1, 1, 1.0, 1.0, None, None, "", ("", ""), ((1, 3.0), (2, 2.0), (3, 1.0)))
    others = [replace(one, bits=8, losses=((1, 3.1), (2, 2.1), (3, 1.01))), replace(one, bits=4, losses=((1, 3.0),))]
    html = race_figure(partial(translate, lang), [one, *others])
    assert html.count("<polyline") == 2 and translate(lang, "race.steps", steps=3) in html
    heights = [float(y) for y in re.findall(r'<text class="look-\d" x="[\d.]+" y="([\d.]+)"', html)]
    assert len(heights) == 2 and abs(heights[0] - heights[1]) >= 17
    assert race_figure(partial(translate, lang), others[1:]) == ""


def test_a_lane_that_was_stopped_says_so(chosen, tmp_path):
    workbench, settings = Workbench(tmp_path), chosen()
    for event in workbench.tune(at_width(settings, 16)):
        if event["kind"] == "step":
            workbench.stop.set()
    lane = lanes(tmp_path, settings, (16,))[16]
    assert lane.state == "stopped"

    class Page:
        translate = partial(translate, "en")

    html = race_table(Page, settings, [lane])
    assert translate("en", "state.stopped") in html and "–" in html
    assert translate("en", "race.none") in race_table(Page, settings, [])


def test_widths_are_run_widest_first():
    assert widest_first([4, 32, 8]) == [32, 8, 4]


class _Engine:
    state = "ready"


def _job(result=None, error=None):
    job = Job("tune")
    job.add({"kind": "done", "result": result or {}})
    job.end(error)
    return job


def _run(queue, *jobs):
    started = []
    queue.start("race", [lambda job=job: started.append(job) or job for job in jobs])
    queue._thread.join(10)
    return started


def test_jobs_run_one_after_another_until_one_is_stopped_or_fails():
    queue = JobQueue(_Engine)
    jobs = [_job(), _job({"stopped": True}), _job()]
    assert _run(queue, *jobs) == jobs[:2] and queue.error is None and not queue.running
    failing = [_job(error=problem("error.busy")), _job()]
    assert _run(queue, *failing) == failing[:1] and queue.error.problems[0].key == "error.busy"


def test_a_queue_under_way_is_busy():
    queue, waiting = JobQueue(_Engine), threading.Event()
    queue.start("race", [lambda: waiting.wait(10) and _job()])
    with pytest.raises(PlaygroundError):
        queue.start("lab", [])
    assert queue.kind == "race"
    waiting.set()
    queue._thread.join(10)


@pytest.mark.slow
def test_the_command_ends_in_one_json_object(chosen, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(chosen().to_dict()), encoding="utf-8")
    command = [sys.executable, "-m", "playground", "race", "--settings", str(file), "--widths", "16", "4"]
    process = subprocess.run(
        [*command, "--runs", str(tmp_path / "runs")], capture_output=True, text=True, cwd=PROJECT, timeout=300
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert [lane["bits"] for lane in result["lanes"]] == [16, 4] and result["failed"] == {}
