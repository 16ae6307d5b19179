"""The bit-width lab's figure and table: every point is drawn, labels keep apart, and texts are escaped."""

import math
import re
from functools import partial
from types import SimpleNamespace

import pytest

from playground import runs
from playground.i18n import LANGUAGES, translate
from playground.lab.question import LabQuestion
from playground.runs.lab_points import all_points, find_points
from playground.settings import Settings
from playground.ui import lab_figure, lab_tab
from playground.ui.lab_recorded import bundled_points

WORD = partial(translate, "en")


def _point(size, loss, **values):
    return {"bytes": size, "loss": loss, "kernel": False, "answer": "Because.", "finish": "end", **values}


def _points(count, model="toy"):
    return {(model, f"int{n}"): _point((100 + 9 * n) * 2**20, 3 + 0.5 / n) for n in range(2, 2 + count)}


def _boxes(svg):
    """Each label's box by its text."""
    found = re.findall(r'<text class="name[^"]*" x="([\d.]+)" y="([\d.]+)">([^<]+)<', svg)
    return {
        text: (float(x), float(y) - 13, lab_figure.LABEL_WIDTH * len(text), lab_figure.LABEL_HEIGHT)
        for x, y, text in found
    }


def _drawing(shape, points):
    """One of the figure's two drawings."""
    return re.search(rf'<svg class="{shape}".*?</svg>', lab_figure.figure(WORD, points))[0]


@pytest.mark.parametrize("shape", lab_figure.SHAPES)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_point_is_drawn_within_the_figure(count, shape):
    svg, (width, height) = _drawing(shape, _points(count)), lab_figure.SHAPES[shape]
    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert len(places) == count
    assert all(0 < x < width and 0 < y < height for x, y in places)


@pytest.mark.parametrize(("shape", "fewest"), [("broad", 7), ("narrow", 4)])
def test_labels_do_not_overlap(shape, fewest):
    boxes = list(_boxes(_drawing(shape, {**_points(7), **_points(7, "other")})).values())
    assert len(boxes) >= fewest
    for number, one in enumerate(boxes):
        assert not any(lab_figure._overlap(one, other) for other in boxes[number + 1 :])


def test_a_broken_format_is_drawn_at_the_edge_with_its_number():
    points = {**_points(3), ("toy", "int2"): _point(90 * 2**20, 15.35), ("toy", "int1"): _point(2**20 * 80, None)}
    svg = _drawing("broad", points)
    assert "int2 ↑ 15.3" in svg or "int2 ↑ 15.4" in svg
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]
    assert len(heights) == 3 and min(heights) == pytest.approx(lab_figure.TOP)
    table = lab_figure.answers_table(WORD, points)
    assert "∞" in table and table.count("perplexity") == 3
    assert f"perplexity {math.exp(15.35):,.0f}<" in table and "perplexity 24<" in table


def test_speed_has_a_column_only_where_one_was_measured():
    points = _points(2)
    assert WORD("lab.head.speed") not in lab_figure.answers_table(WORD, points)
    points["toy", "int2"] = _point(90 * 2**20, 3.0, tokens_per_s=20.0, kernel=True)
    assert WORD("lab.head.speed") in lab_figure.answers_table(WORD, points)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_texts_of_models_and_formats_are_escaped(lang):
    bad = "<img src=x onerror=alert(1)>"
    points = {(bad, bad): _point(2**28, 3.0, answer=bad)}
    word = partial(translate, lang)
    assert "<img" not in lab_figure.figure(word, points) + lab_figure.answers_table(word, points)
    assert word("lab.none") in lab_figure.figure(word, {})


def test_points_of_a_torn_or_edited_run_are_passed_over(tmp_path):
    good = {"format": "nf4", "loss": 2.0, "bytes": 100, "kernel": False, "more_loss": None, "tokens_per_s": None}
    changes = [
        *({"loss": loss} for loss in (-1.0, 1e12, "low")),
        *({"bytes": size} for size in (0, -5, None, "many")),
        *({"more_loss": 0.1, "more_loss_interval": interval} for interval in (None, "wide")),
        *({"kernel": None}, {"format": 4}),
    ]
    run = runs.create(tmp_path, "lab", Settings())
    run.append("lab_started", subject="s", dtype="float32")
    for number, change in enumerate(changes):
        run.append("lab_point", **{**good, "format": f"int{number}", **change})
    for missing in ("loss", "bytes", "kernel", "format"):
        run.append("lab_point", **{name: value for name, value in good.items() if name != missing})
    run.append("lab_point", **good)
    run.append("lab_point", **{**good, "format": "int2", "loss": None})
    found = all_points(tmp_path, "s")
    assert [format for _, format in found] == ["nf4", "int2"]
    assert "nf4" in lab_figure.figure(WORD, found) and "∞" in lab_figure.answers_table(WORD, found)


def test_a_type_that_other_rows_got_instead_is_named():
    points = {("toy", "gguf-q4_k"): _point(2**27, 3.1, stored_as={"q5_0": 0.6}), ("toy", "nf4"): _point(2**28, 3.0)}
    html = lab_figure.figure(WORD, points)
    assert ">gguf-q4_k*<" in html and ">nf4<" in html and "gguf-q4_k: q5_0 60%" in html
    assert "as q5_0 60%" in lab_figure.answers_table(WORD, points)
    assert "*" not in lab_figure.figure(WORD, {("toy", "gguf-q4_k"): _point(2**27, 3.1, stored_as={"x": "y"})})


def test_what_was_measured_on_the_other_languages_text_stays_in_view_and_says_so(tmp_path):
    page = SimpleNamespace(root=tmp_path, lang="ja", translate=partial(translate, "ja"))
    model = Settings().load.model
    run = runs.create(tmp_path, "lab", Settings(), hardware={"device": "cpu"})
    run.append("lab_started", subject=LabQuestion(language="en").subject(), dtype="float32")
    run.append("lab_point", format="int3", loss=2.0, bytes=100, kernel=False)
    assert bundled_points(tmp_path, "ja", ["another"]) == ({}, "")
    figure, table = lab_tab._drawn(page, {}, [model], [], LabQuestion(language="ja").full_prompt(), "")
    assert ">int3<" in figure and "int3" in table and translate("ja", "lab.measured_on.en") in figure
    for prompt, text in (("おはよう", ""), ("", "文章")):  # nothing was measured with them
        assert translate("ja", "lab.measured_on.en") not in lab_tab._drawn(page, {}, [model], [], prompt, text)[0]
    run = runs.create(tmp_path, "lab", Settings(), hardware={"device": "cpu"})
    run.append("lab_started", subject=LabQuestion(language="ja").subject(), dtype="float32")
    run.append("lab_point", format="int4", loss=2.0, bytes=100, kernel=False)
    points, language = bundled_points(tmp_path, "ja", [model])
    assert language == "ja" and [format for _, format in points] == ["int4"]


def test_points_of_one_device_and_type_alone_are_compared(tmp_path):
    for device, dtype, formats in (("cuda", "float16", "ab"), ("cpu", "float32", "bc")):
        run = runs.create(tmp_path, "lab", Settings(), hardware={"device": device})
        run.append("lab_started", subject="s", dtype=dtype)
        for format in formats:
            run.append("lab_point", format=format, loss=2.0, bytes=100, kernel=False)
    model = Settings().load.model
    assert {key: point["device"] for key, point in all_points(tmp_path, "s").items()} == {
        (model, "b"): "cpu",
        (model, "c"): "cpu",
    }
    assert set(find_points(tmp_path, model, "s", "cuda", "float16")) == {"a", "b"}
