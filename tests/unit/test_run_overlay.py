"""Two to four runs laid over each other: what differs, what can't be compared, and the picture."""

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from toys import keys

from playground import runs
from playground.cli import list_runs
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES, translate
from playground.runs import query
from playground.runs.overlay import check_count, ledger, overlay
from playground.runs.series import RunSeries
from playground.settings import Settings
from playground.share.line_chart import BADGE_HEIGHT, BADGE_WIDTH, CLOCK, WHOLE, Line, apart, axis, line_chart
from playground.share.overlay_figures import incomparable, overlay_figures, overlay_page

GIB = 2**30


def a_run(root, job="tune", rows=10, device="cpu", ending="done", **groups):
    settings = Settings().with_values(groups)
    run = runs.create(root, job, settings, hardware={"device": device, "name": device.upper()}, versions={"torch": "2"})
    total = "rss" if device == "cpu" else "device_used"
    run.append("memory_predicted", phase=job, parts={"weights": GIB, "activations": GIB}, **{total: 3 * GIB})
    run.append("memory", **{total: 2 * GIB})
    if job == "tune":
        for step in range(1, 4):
            run.append("step", step=step, loss=3.0 - step / 2, tokens_per_s=400.0)
    if ending == "done":
        run.append("memory_measured", phase=job, parts={"weights": GIB}, peak={total: int(2.5 * GIB)})
        run.append("done", job=job, result={"loss": {"before": 3.0, "after": 1.5}, "rows": rows})
    elif ending == "error":
        problems = [{"key": "error.busy", "values": {}}]
        run.append("error", job=job, problems=problems, peak={total: 4 * GIB}, parts={"weights": GIB, "working": GIB})
    return run


def laid_over(root, *made):
    return overlay(root, [run.id for run in made])


def test_one_run_or_five_are_refused_with_the_number():
    for count in (0, 1, 5):
        with pytest.raises(PlaygroundError) as caught:
            check_count(["a"] * count)
        assert keys(caught) == ["error.overlay_count"] and f": {count}." in str(caught.value)
    for count in (2, 3, 4):
        check_count(["a"] * count)


def test_only_settings_that_differ_and_are_used_are_listed(tmp_path):
    one, other = a_run(tmp_path, lora={"r": 4}), a_run(tmp_path, load={"bits": 4})
    assert laid_over(tmp_path, one, other).differing == {"load.bits": [0, 4], "lora.r": [4, 8]}
    loads = [a_run(tmp_path, "load", load={"bits": bits}, lora={"r": bits}) for bits in (4, 8)]
    assert laid_over(tmp_path, *loads).differing == {"load.bits": [4, 8]}


def test_a_setting_that_an_earlier_version_lacked_was_at_its_default(tmp_path):
    one, other = (runs.summary(tmp_path, a_run(tmp_path).id) for _ in "12")
    del other.settings["lora"]["start_from"], other.settings["train"]["patience"]
    assert query.values_that_differ([one, other]) == {}
    one.settings["train"]["patience"] = 3
    assert query.values_that_differ([one, other]) == {"train.patience": [3, 0]}


def test_losses_of_other_models_or_rows_are_called_incomparable(tmp_path):
    base = a_run(tmp_path)

    def reasons(**groups):
        return incomparable(laid_over(tmp_path, base, a_run(tmp_path, **groups)), "en")

    assert reasons(lora={"r": 4}, load={"bits": 4}, train={"lr": 0.5}) == []
    assert reasons(load={"model": "gemma-3-270m"}) == [translate("en", "overlay.other_models")]
    [rows] = reasons(data={"prompt_format": "alpaca"}, train={"max_seq_length": 64})
    assert translate("en", "data.prompt_format") in rows and translate("en", "train.max_seq_length") in rows
    [held_out] = reasons(train={"eval_rows": 5})
    assert "training losses can" in held_out
    [changed] = reasons(rows=11)
    assert translate("en", "overlay.rows") in changed
    assert reasons(job="load", data={"source": "helpdesk.ja"}) == []  # it has no losses


def test_parts_add_up_to_the_peak_as_predicted_and_as_measured(tmp_path):
    for device, rest in (("cpu", "rest_cpu"), ("cuda", "rest_cuda")):
        found = laid_over(tmp_path, a_run(tmp_path, device=device), a_run(tmp_path, device=device, ending="error"))
        done, failed = (ledger(run, series) for run, series in zip(found.runs, found.series))
        assert done.measured == {"weights": GIB, rest: int(1.5 * GIB)} and sum(done.predicted.values()) == 3 * GIB
        assert failed.measured == {"weights": GIB, "working": GIB, rest: 2 * GIB}
    odd = replace(
        found.runs[0], memory={"tune": {"predicted": None, "measured": {"peak": {"rss": 9}, "parts": {"x": 4}}}}
    )
    assert ledger(odd, RunSeries()).measured == {"rest_cpu": 9} and ledger(odd, RunSeries()).predicted == {}
    assert ledger(replace(odd, memory={}), RunSeries()).measured == {}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_picture_names_every_size_predicted_or_measured(tmp_path, lang):
    made = [a_run(tmp_path), a_run(tmp_path, ending="error"), a_run(tmp_path, "load"), a_run(tmp_path, ending="")]
    html = overlay_figures(laid_over(tmp_path, *made), ["<b>1</b>", "2", "3", "4"], lang)
    assert "&lt;b&gt;1&lt;/b&gt;" in html and "<b>1</b>" not in html
    words = (translate(lang, "race.measured"), translate(lang, "race.predicted"))
    for text in re.findall(r'<div class="ledger .*?</div><span>(.*?)</span>', html):
        assert (any(word in text for word in words) and words[0] not in text) or words[1] not in text
    assert html.count('class="ledger measured"') == html.count('class="ledger predicted"') == 4
    assert html.count('class="level look-') + html.count('class="end hollow look-') >= 4
    assert translate(lang, "overlay.no_steps", letters=["C"]) in html
    assert translate(lang, "overlay.so_far", highest_bytes=2 * GIB).strip() in html


def test_folders_of_this_machine_stay_out_of_the_picture(tmp_path):
    one = a_run(tmp_path, load={"model": "/home/someone/models/own"}, data={"source": "/tmp/gradio/0a1b/rows.csv"})
    other = a_run(tmp_path, lora={"start_from": "/home/someone/adapters/mine"})
    html = overlay_page(laid_over(tmp_path, one, other), ["1", "2"], "en")
    assert "someone" not in html and "/tmp" not in html
    assert "own" in html and "rows.csv" in html and "mine" in html


def test_a_run_without_any_events_is_drawn_beside_others(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "events.jsonl").write_text("")
    html = overlay_figures(overlay(tmp_path, [a_run(tmp_path).id, "empty"]), ["1", "2"], "en")
    assert (
        translate("en", "overlay.not_measured") in html and translate("en", "overlay.no_steps", letters=["B"]) in html
    )
    (tmp_path / "also").mkdir()
    (tmp_path / "also" / "events.jsonl").write_text("")
    nothing = overlay_figures(overlay(tmp_path, ["also", "empty"]), ["1", "2"], "en")
    assert translate("en", "overlay.no_memory") in nothing and translate("en", "overlay.no_parts") in nothing


@pytest.mark.parametrize("values", [(0.0, 0.0), (3.0, 3.0), (1.2, 4.8), (-2.0, 7e6), (0.0131, 0.0132)])
def test_an_axis_holds_its_values_and_has_a_few_round_ticks(values):
    for steps in ((), WHOLE, CLOCK):
        found = axis(*values, steps)
        assert all(-1e-6 <= found.place(value) <= 100 + 1e-6 for value in (*values, *found.ticks))
        assert len(found.ticks) <= 8 and (steps or len(found.ticks) >= 2)


def test_a_spike_of_any_size_and_a_single_point_are_drawn_within_the_plot():
    lines = [Line("A", 0, [(1, 2.0), (2, 3e38), (3, 1.0)]), Line("B", 1, [(2, 2.0)], marks=[(0, 4.0)])]
    html = line_chart(lines, "label", "step", WHOLE, (str, str))
    places = [float(share) for share in re.findall(r"(?:left|top):(-?[\d.]+)%", html)]
    assert places and all(0 <= share <= 100 for share in places) and html.count('<i class="dot look-1"') == 1
    assert line_chart([Line("A", 0)], "label", "step", WHOLE, (str, str)) == ""


def test_letters_at_the_same_place_are_moved_apart():
    for places in ([(50.0, 50.0)] * 8, [(99.0, 100.0)] * 4, [(10.0, 0.0), (12.0, 3.0), (80.0, 1.0)]):
        moved = apart(places)
        assert [left for left, _ in moved] == [left for left, _ in places]
        assert all(0 <= top <= 100 for _, top in moved)
        pairs = [(a, b) for i, a in enumerate(moved) for b in moved[i + 1 :]]
        assert all(abs(a[0] - b[0]) >= BADGE_WIDTH or abs(a[1] - b[1]) >= BADGE_HEIGHT - 1e-6 for a, b in pairs)


def test_the_command_has_the_curves_and_writes_the_picture(tmp_path):
    made = [a_run(tmp_path), a_run(tmp_path, lora={"r": 4})]
    given = {"runs": tmp_path, "run_ids": [run.id for run in made], "lang": "en", "out": tmp_path / "c.html"}
    result = list_runs.runs(argparse.Namespace(**given))
    curves = json.loads(json.dumps(result))["curves"][made[1].id]
    assert curves["loss"] == [[1, 2.5], [2, 2.0], [3, 1.5]] and [size for _, size in curves["memory_measured"]] == [
        2 * GIB
    ]
    assert curves["peak_predicted"]["bytes"] == 3 * GIB and result["differing"] == {"lora.r": [8, 4]}
    page = Path(result["file"]).read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and made[0].id in page and "http" not in page
    for changed, key in (({"out": tmp_path / "c.svg"}, "overlay_file"), ({"run_ids": [made[0].id]}, "overlay_count")):
        with pytest.raises(PlaygroundError) as caught:
            list_runs.runs(argparse.Namespace(**given | changed))
        assert keys(caught) == [f"error.{key}"]
