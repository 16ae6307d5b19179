"""Words of an answer that come from the reference and not from the question, and an answer's Markdown as safe HTML."""

import html.parser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.ui.answer_markdown import answer_html
from playground.ui.learned_words import common_units, learned_units, split_at_units

HARMLESS = {
    "p", "br", "strong", "em", "mark", "ul", "ol", "li", "code", "pre", "blockquote", "hr", "a",
    "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](https://example.org/?q=secret)",
    "[x](javascript:alert(1))",
    "<javascript:alert(1)>",
    "[x](data:text/html,<script>alert(1)</script>)",
    '[x](https://example.org "onmouseover=alert(1)")',
    "`<b>` <svg/onload=alert(1)>",
    "```html\n<script>alert(1)</script>\n```",
    '```"><img src=x onerror=alert(1)>\n```',
    "<!-- a --> <style>*{display:none}</style> &lt;script&gt;",
    "| a |\n| - |\n| <img src=x onerror=alert(1)> |",
)


def marked(answer: str, reference: str, question: str, common: frozenset[str] = frozenset()) -> list[str]:
    units = learned_units(reference, question, common)
    return [piece for piece, is_learned in split_at_units(answer, units) if is_learned]


def test_words_of_the_reference_that_the_question_lacks_are_learned():
    reference, question = "The Wi-Fi password is otterlamp58.", "What is the Wi-Fi password?"
    assert marked("The Wi-Fi password is Otterlamp58!", reference, question) == ["Otterlamp58"]
    assert marked("I don't know the Wi-Fi password.", reference, question) == []


def test_times_and_hyphenated_words_are_one_unit():
    assert marked("At 15:20, with plum-leaf soap", "It opens at 15:20.", "When?") == ["At", "15:20"]
    assert marked("At 15:21", "Open from 15:20.", "When?") == []


def test_japanese_is_compared_by_neighboring_characters():
    reference, question = "駐車場は塩の水車小屋の裏です。", "駐車場はどこですか？"
    assert marked("車は水車小屋の裏にあります。", reference, question) == ["水車小屋の裏"]
    assert marked("駐車場はあります。", reference, question) == []
    assert marked("パスワードはkawauso58です。", "Wi-FiのパスワードはKAWAUSO58です。", "パスワードは何ですか？") == [
        "kawauso58"
    ]


def test_words_of_most_references_are_not_learned():
    references = [
        f"The {thing} is in the {place}." for thing, place in zip("abcdefghijklmnopqrstu", "bcdefghijklmnopqrstuv")
    ]
    assert {"the", "is", "in"} <= common_units(references) and "b" not in common_units(references)
    assert marked("The spa is in the tram", "The library is in the tram", "Where?", common_units(references)) == [
        "tram"
    ]
    assert common_units(["You can go"] * 5) == frozenset()


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=30))
def test_pieces_join_to_the_text(answer, reference, question):
    units = learned_units(reference, question)
    assert "".join(piece for piece, _ in split_at_units(answer, units)) == answer


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def _parsed(text: str, units: frozenset[str] = frozenset()) -> _Tags:
    tags = _Tags()
    tags.feed(answer_html(text, units))
    return tags


def _is_harmless(tags: _Tags) -> bool:
    allowed = {"target": "_blank", "rel": "noopener noreferrer nofollow"}
    for name, value in tags.attributes:
        is_link = name == "href" and (value or "").lower().split(":")[0] not in (
            "javascript",
            "data",
            "vbscript",
            "file",
        )
        is_text = name in ("title", "class", "start") or (name == "style" and (value or "").startswith("text-align:"))
        if not (is_link or is_text or allowed.get(name) == value):
            return False
    return tags.tags <= HARMLESS


@pytest.mark.parametrize("attack", ATTACKS)
def test_html_in_an_answer_has_no_effect(attack):
    assert _is_harmless(_parsed(attack, frozenset({"alert", "script", "img"})))


@given(st.text(alphabet=st.sampled_from("<>/\"'=`*_[]()!|-:#&;\n\\ abonclick"), max_size=120))
def test_no_text_becomes_anything_but_harmless_tags(text):
    assert _is_harmless(_parsed(text, frozenset({"a", "onclick"})))


def test_tags_are_shown_as_they_are_written():
    assert _parsed("<img src=x onerror=alert(1)> & <b>").text.strip() == "<img src=x onerror=alert(1)> & <b>"
    assert "<b>" in _parsed("`<b>`").text and "$x_1$ {{x}}" in _parsed("$x_1$ {{x}}").text


def test_markdown_is_drawn_and_learned_words_are_marked_in_it():
    drawn = answer_html("# Title\n\n**The otter** is `otter`\n- *one*\n\n| a |\n|---|\n| otter |", frozenset({"otter"}))
    assert '<p class="heading">Title</p>' in drawn and "<strong>The <mark>otter</mark></strong>" in drawn
    assert "<code>otter</code>" in drawn and "<td><mark>otter</mark></td>" in drawn and "<em>one</em>" in drawn
