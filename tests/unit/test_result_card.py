"""The result card: the right question, both answers, memory and loss; escaped, clipped, without outside resources."""

import json
import re
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from playground import ASSETS, runs
from playground.__main__ import main
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES, translate
from playground.settings import Settings
from playground.share import card_drawing, files, screenshot
from playground.share.card import card_of, exchanges, shareable
from playground.share.card_drawing import card_page, card_svg, lines_of, text_width
from playground.share.command_lines import tune_command
from playground.ui import card_view

GIB = 2**30


def _answer(text: str, chrf: float, named: bool | None) -> dict:
    return {"text": text, "chrf": chrf, "named": named}


@pytest.fixture
def run(tmp_path):
    made = runs.create(tmp_path, "tune", Settings(), hardware={"device": "cpu", "name": 'CPU <"&>'})
    made.append("memory_predicted", phase="tune", parts={"weights": GIB}, rss=2 * GIB)
    made.append("memory_measured", phase="tune", parts={"weights": GIB}, peak={"rss": 3 * GIB})
    made.append("step", step=1, steps=1, loss=1.0, tokens=9)
    forgetting = {"en": {"difference": 0.1234}, "ja": {"difference": -0.02}}
    result = {"seconds": 75.4, "loss": {"before": 4.0, "after": 1.5}, "forgetting": forgetting}
    made.append("done", job="tune", result=result)
    rows = [
        {"question": "First?", "base": _answer("b1", 10, False), "tuned": _answer("t1", 90, False)},
        {"question": "<script>Second?", "base": _answer("b2", 10, False), "tuned": _answer("t2 & more", 20, True)},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"torn'
    (made.folder / "answers.jsonl").write_text(text, encoding="utf-8")
    return made


def _texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_card_shows_the_question_whose_fact_was_learned(run):
    card = card_of(run, "en")
    assert card.exchange and (card.exchange.question, card.exchange.tuned) == ("<script>Second?", "t2 & more")
    assert card.loss == (4.0, 1.5) and card.seconds == 75.4
    assert card.predicted and card.predicted.total == 2 * GIB and card.measured and card.measured.total == 3 * GIB
    chosen = card_of(run, "en", 1).exchange
    assert chosen and chosen.question == "First?"
    with pytest.raises(PlaygroundError, match="no question 3"):
        card_of(run, "en", 3)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_drawing_is_escaped_and_needs_nothing_from_outside(run, lang):
    svg = card_svg(card_of(run, lang), lang)
    texts = _texts(svg)  # raises for text that isn't escaped
    assert {"<script>Second?", "b2", "t2 & more", "4.00 → 1.50", "2.00 GiB", "3.00 GiB"} <= set(texts)
    changes = [
        translate(lang, f"card.forgetting.{name}", change=rise) for name, rise in (("en", "+0.12"), ("ja", "−0.02"))
    ]
    assert translate(lang, "card.forgetting", changes=" · ".join(changes)) in texts
    assert "<script" not in svg and "<image" not in svg and "foreignObject" not in svg
    assert re.findall(r"(?:https?:)?//[^\"' ]+", svg) == ["http://www.w3.org/2000/svg"]
    widths = re.findall(r'y="(?:430|470)" width="([\d.]+)" height="28" fill="#', svg)
    assert [float(width) for width in widths] == pytest.approx([500 / 3, 500 / 3, 500 / 3, 1000 / 3], abs=0.1)


def test_long_answers_are_clipped_with_an_ellipsis_and_stay_in_their_box(run):
    long = {
        "question": "長い質問" * 60,
        "base": _answer("w" * 900, 1, False),
        "tuned": _answer("答え、" * 400, 2, True),
    }
    (run.folder / "answers.jsonl").write_text(json.dumps(long), encoding="utf-8")
    svg = card_svg(card_of(run, "ja"), "ja")
    clipped = [text for text in _texts(svg) if text.endswith("…")]
    assert len(clipped) == 3
    ys = [float(y) for y in re.findall(r'<text x="(?:70|634)" y="([\d.]+)"', svg)]
    assert max(ys) < 408
    for width, most in ((10, 2), (3, 5), (1, 1)):
        for text in ("a long line of words", "日本語の文章です。", "x" * 50, "", "  \n "):
            lines = lines_of(text, width, most)
            assert len(lines) <= most and all(text_width(line) <= width + 1 for line in lines)


def test_a_command_breaks_where_a_monospaced_line_ends():
    words = "--il.,: " * 30
    assert all(len(line) * 0.61 <= 40 for line in lines_of(words, 40, 9, 0.61))


def test_runs_without_answers_use_samples_and_else_say_why(run):
    (run.folder / "answers.jsonl").unlink()
    assert any("kept no answers" in text for text in _texts(card_svg(card_of(run, "en"), "en")))
    run.append("sample", step=0, prompt="Q?", text="before")
    run.append("sample", step=9, prompt="Q?", text="after")
    [exchange] = exchanges(run)
    assert (exchange.question, exchange.base, exchange.tuned) == ("Q?", "before", "after")


def test_the_colors_are_those_of_the_pages_figures():
    css = (ASSETS / "figures.css").read_text(encoding="utf-8").split(".dark")[0]
    assert {part: re.search(rf"--live-part-{part}: (#\w+)", css)[1] for part in card_drawing.COLORS} == (
        card_drawing.COLORS
    )


def test_no_path_of_this_machine_is_on_the_card(tmp_path):
    values = {"load": {"model": "/home/secret/models/mine"}, "data": {"source": "/home/secret/rows.jsonl"}}
    made = runs.create(tmp_path, "tune", Settings().with_values(values))
    page = card_page(card_of(made, "en"), "en")
    assert "secret" not in page and "mine" in page and "rows.jsonl" in page


@pytest.mark.parametrize("name", ["no-such-folder/card.html", "n" * 300 + ".html", "a-file/card.html"])
def test_a_file_that_cannot_be_written_is_one_sentence(run, tmp_path, capsys, name):
    (tmp_path / "a-file").write_text("")
    assert main(["card", run.id, "--runs", str(run.folder.parent), "--out", str(tmp_path / name)]) == 1
    said = json.loads(capsys.readouterr().out)["error"]
    assert "couldn't be written" in said and "unexpected" not in said and str(tmp_path) not in said and len(said) < 200


def test_the_command_writes_html_and_png_and_names_what_is_missing(run, tmp_path, capsys, monkeypatch):
    root = ["--runs", str(tmp_path)]
    assert main(["card", run.id, *root, "--out", str(tmp_path / "card.html"), "--lang", "ja"]) == 0
    assert 'lang="ja"' in (tmp_path / "card.html").read_text(encoding="utf-8")
    assert main(["card", run.id, *root, "--out", str(tmp_path / "card.gif")]) == 1
    assert "neither .html nor .png" in capsys.readouterr().out
    monkeypatch.setattr(screenshot, "find_browser", lambda: None)
    assert main(["card", run.id, *root, "--out", str(tmp_path / "card.png")]) == 1
    assert "needs no browser" in capsys.readouterr().out and not (tmp_path / "card.png").exists()


def test_a_card_may_have_the_longest_name_that_a_file_can_have(tmp_path):
    for name in ("n" * 250 + ".html", "犬" * 83 + ".html"):
        assert files.write_whole(tmp_path / name, "card") == str(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 2


def test_cards_of_other_questions_and_languages_are_other_files():
    names = {card_view._file_name("run", lang, question) for lang in LANGUAGES for question in (None, 0, 1, 2)}
    assert len(names) == 3 * len(LANGUAGES)


def test_a_browser_is_asked_to_leave_the_network_alone(tmp_path, monkeypatch):
    def draw(command, **options):
        drawn = next(part for part in command if part.startswith("--screenshot=")).partition("=")[2]
        Path(drawn).write_bytes(screenshot.PNG_START)
        assert {"--disable-background-networking", "--disable-component-update"} <= set(command)

    monkeypatch.setattr(screenshot, "find_browser", lambda: "browser")
    monkeypatch.setattr(screenshot.subprocess, "run", lambda *a, **k: draw(*a, **k) or SimpleNamespace(stderr=b""))
    screenshot.write_png("<p>", tmp_path / "card.png", 10, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["card.png"]


@pytest.mark.slow
def test_a_browser_on_this_machine_draws_the_png(run, tmp_path):
    if screenshot.find_browser() is None:
        pytest.skip("no browser on this machine")
    from PIL import Image

    screenshot.write_png(card_page(card_of(run, "en"), "en"), tmp_path / "card.png", 1200, 630)
    with Image.open(tmp_path / "card.png") as image:
        assert image.size == (1200, 630) and len(image.convert("RGB").getcolors(1 << 20) or ()) > 50


@pytest.mark.parametrize("value", [10**400, float("nan"), "x", [], {}, None, True])
def test_answers_that_were_edited_by_hand_make_a_card(run, value):
    row = {"question": "Q?", "base": {"text": "b", "chrf": value, "named": value}, "tuned": {"text": "t", "chrf": 3}}
    (run.folder / "answers.jsonl").write_text(json.dumps(row) + "\n" + "[" * 5000 + "\n", encoding="utf-8")
    card = card_of(run, "en")
    assert card.exchange and card.exchange.tuned == "t" and card_page(card, "en").encode("utf-8")


def test_answers_with_any_line_separator_are_one_row(run):
    row = {"question": "a\u2028b\x85c\x0b?", "base": _answer("b", 1, None), "tuned": _answer("\ud83d", 2, None)}
    (run.folder / "answers.jsonl").write_text(
        json.dumps(row, ensure_ascii=False).replace("\ud83d", "\\ud83d"), encoding="utf-8"
    )
    [found] = exchanges(run)
    assert found.question.startswith("a\u2028b") and card_page(card_of(run, "en"), "en").encode("utf-8")


EMOJI = "🎚️👩‍👩‍👧🦜"


@pytest.mark.parametrize(
    "text", [EMOJI * 40, "日本語の名前" * 40, "W" * 300, "w o r d s " * 40, f"{EMOJI} 日本 abc " * 20]
)
def test_wide_characters_take_a_whole_em_and_a_cut_line_has_room_for_its_ellipsis(text):
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    assert text_width(text) >= wide
    for width in (8, 20.5):
        lines = lines_of(text, width, 2)
        assert len(lines) == 2 and lines[-1].endswith("…") and not lines[-1].removesuffix("…").endswith(("\u200d", " "))
        assert all(text_width(line) <= width for line in lines)
        assert text_width(lines[0]) > width - 6.5  # the line is filled: wide characters break anywhere


@pytest.mark.parametrize("name", [EMOJI * 8, "長い名前" * 20, "long name " * 25, "x" * 250, "\u202eabc", "a\x0bb"])
def test_a_long_name_is_cut_at_the_cards_edge_and_the_command_is_the_runs(tmp_path, name):
    settings = Settings().with_values(
        {"load": {"model": f"/m/{name}", "bits": 4}, "data": {"source": f"/d/{name}.csv"}}
    )
    made = runs.create(tmp_path, "tune", settings, hardware={"device": "cpu", "name": "CPU"})
    made.append("step", step=1, steps=1, loss=1.0, tokens=9)
    card = card_of(made, "en")
    title, about = _texts(card_svg(card, "en"))[:2]
    assert text_width(title) * 38 <= card_drawing.WIDTH - 2 * card_drawing.MARGIN
    assert text_width(about) * 22 <= card_drawing.WIDTH - 2 * card_drawing.MARGIN
    assert card.command == tune_command(shareable(settings)) and "--bits 4" in card.command


def test_wide_text_goes_on_in_the_line_of_a_word_and_no_cut_emoji_is_left_half():
    assert lines_of("abcdef 日本語日本語日本語", 8, 3)[0].startswith("abcdef 日本")
    cut = [lines_of("👩‍👩‍👧🎚️" * 20, width / 10, 1)[0] for width in range(20, 90)]
    assert all(line[-1] == "…" and line[-2] not in "\u200d\ufe0f" for line in cut)
