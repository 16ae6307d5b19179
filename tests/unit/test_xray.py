"""X-ray of a row: exactly the tokens of `encode`, their kinds and states, and HTML that no row can break."""

import functools
import html
import re
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings, strategies
from toys import keys, make_tokenizer, make_unigram
from transformers import ByT5Tokenizer

from playground.data.batch import encode
from playground.data.source import Row
from playground.data.template import Template
from playground.data.template_choice import choose_template
from playground.data.xray import SHOWN, xray
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES, translate
from playground.ui import xray_view as drawing

PLAIN, CHATTY, UNIGRAM, BYTES = make_tokenizer(False), make_tokenizer(True), make_unigram(), ByT5Tokenizer()
ENGLISH = functools.partial(translate, "en")
ROWS = {
    "plain": Row("What is the answer?", "It is blue."),
    "whole": Row(
        "Which one?", "Blue.", input="the sky", before=(("One?", "1"), ("user", "assistant")), system="Be brief."
    ),
    "japanese": Row("東京の天気は？", "晴れです。\n明日は☂"),
    "text": Row("", "It was a dark night. 夜。"),
}
TEMPLATES = {
    "alpaca": Template("alpaca", PLAIN),
    "talk": Template("talk", PLAIN),
    "chat": Template("chat", CHATTY),
    "text": Template("text", PLAIN),
    "custom": choose_template(
        "custom", PLAIN, [], custom_format="[{system}]\nQ: {instruction}\n{input}\nA: {answer} ###"
    ),
    "unigram": Template("talk", UNIGRAM),
    "plain end": Template("chat", CHATTY, plain_end=True),
    "encoder": Template("talk", BYTES, encoder=True),
}
NASTY = [
    "<script>alert(1)</script>",
    "</bdi></section><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "'><svg/onload=alert(1)>",
    "&lt;b&gt; &amp; &#x202e;",
    "\u202eevil\u202c",
    "\u2066\u2067\u2068x\u2069",
    "\u200b\u200c\u200d\ufeff\u2060",
    "שלום عالم",
    "👩‍👩‍👧‍👦🏳️‍🌈🇯🇵",
    "\u0301\u0327",
    "e" + "\u0301" * 40,
    "\x00\x07\x1b[31m",
    "\u2028\u2029\x85",
    "a\r\n\tb\u00a0\u3000c",
    "\U000e0041\ufe0f",
    "${x} {{y}} `z`",
    "]]>-->",
    "<|end|></s><s><pad>",
    "ＡＢＣ①㌔",
    "\ue000" + "0\ue001",
    " ",
    "\n",
]


def xray_of(row: Row, template: Template, length: int = 4096, **values) -> dict:
    return xray(row, template, length, **values)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("prompts", [False, True])
@pytest.mark.parametrize("length", [4096, 72, 20])
def test_tokens_and_states_are_those_of_encode(row, template, prompts, length):
    if template.encoder and (prompts or not row.instruction):
        pytest.skip("rejected: see the tests of prompt formats and test_seq2seq")
    result = xray_of(row, template, length, train_on_prompt=prompts)
    try:
        [example] = encode([row], template, length, prompts)[0]
    except PlaygroundError:
        assert result["left_out"] and result["kept"] == 0
        return
    kept = [token for token in result["tokens"] if token["state"] != "truncated"]
    assert (
        [token["id"] for token in kept] == example.ids
        and result["kept"] == len(example.ids)
        and result["trained_from"] == example.trained_from
    )
    assert [token["state"] for token in kept] == ["masked"] * (len(example.ids) - example.labelled) + [
        "trained"
    ] * example.labelled
    assert result["states"]["trained"] == example.labelled and result["total"] == len(result["tokens"]) == sum(
        result["states"].values()
    ) == sum(result["kinds"].values())
    whole = encode([row], template, 4096)[0][0].ids
    assert [token["id"] for token in result["tokens"]] == whole
    assert result["end"] == ("there" if len(whole) <= length else "cut")


def texts(result: dict, *kinds: str) -> str:
    return "".join(token["text"] for token in result["tokens"] if token["kind"] in kinds and token["part"] == 1)


def test_template_text_and_row_content_are_distinguished():
    result = xray_of(ROWS["whole"], TEMPLATES["custom"])
    assert (
        texts(result, "content") == "Be brief.One?1userassistantWhich one?the sky"
        and texts(result, "answer") == "Blue."
    )
    assert (
        texts(result, "template") == "[]\nQ: \nA:  ###\nQ: \nA:  ###\nQ: \n\nA: " and texts(result, "end") == " ###</s>"
    )
    result = xray_of(ROWS["whole"], TEMPLATES["chat"])  # where "user" is also a role and "assistant" an answer
    assert texts(result, "content") == "Be brief.One?1userassistantWhich one?\n\nthe sky"
    assert texts(result, "template").split() == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert result["kinds"]["special"] == 13 and texts(result, "end") == "<|end|>"


def test_the_content_is_not_split_where_a_chat_template_alters_it():
    tokenizer = make_tokenizer(True)
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", "m['content'] | upper")
    result = xray_of(Row("what?", "Blue."), Template("chat", tokenizer))
    assert not result["kinds"]["template"] and "WHAT?" in texts(result, "content")


def test_the_bytes_of_a_character_are_grouped():
    result = xray_of(Row("?", "東a"), TEMPLATES["talk"])
    *pieces, letter, end = [token for token in result["tokens"] if token["kind"] in ("answer", "end")]
    assert [(token["text"], token["part"], token["parts"]) for token in pieces] == [("東", n, 3) for n in (1, 2, 3)]
    assert (letter["text"], letter["parts"], end["text"]) == ("a", 1, "</s>")
    drawn = drawing.draw(ENGLISH, result)
    assert drawn.count("東") == 1 and "東<sub>3</sub>" in drawn
    cut = drawing.draw(ENGLISH, xray_of(Row("?", "東a"), TEMPLATES["talk"], result["total"] - 3))
    assert "東<sub>2/3</sub>" in cut and "東<sub>1/3</sub>" in cut


@pytest.mark.parametrize(
    "template", [TEMPLATES["unigram"], TEMPLATES["encoder"]], ids=["bytes where unknown", "no offsets"]
)
def test_other_tokenizers_lose_no_character(template):
    result = xray_of(Row("東京 is", "青い sky 👩‍👧."), template)
    assert texts(result, "content").strip() == "東京 is" and texts(result, "answer") == "青い sky 👩‍👧."
    assert any(token["parts"] >= 3 for token in result["tokens"])


def test_text_that_the_tokenizer_changes_is_shown_as_the_model_sees_it():
    result = xray_of(Row("ＡＢ？", "ok"), TEMPLATES["unigram"])
    changed = [token for token in result["tokens"] if token["was"]]
    assert changed and "AB" in texts(result, "content") and "ＡＢ" in changed[0]["was"]
    assert "originally “ＡＢ" in drawing.draw(ENGLISH, result)


def test_characters_per_token_show_japanese_on_an_english_tokenizer():
    english, japanese = (xray_of(ROWS[name], TEMPLATES["talk"])["rates"] for name in ("plain", "japanese"))
    assert english["answer"] > 1 and 0.2 < japanese["answer"] < 0.5
    result = xray_of(ROWS["text"], TEMPLATES["text"])
    assert list(result["rates"]) == ["answer"]
    assert result["rates"]["answer"] == round(len(ROWS["text"].output) / result["kinds"]["answer"], 3)


def test_the_token_list_of_a_long_row_is_limited():
    result = xray_of(Row("?", "blue " * SHOWN), TEMPLATES["talk"], 100)
    assert (
        len(result["tokens"]) == SHOWN
        and result["more"] == result["total"] - SHOWN > 0
        and result["states"]["truncated"] == result["total"] - 100
    )
    assert f"{result['more']:,} more" in drawing.draw(ENGLISH, result)


def test_a_prompt_that_an_encoder_reads_cannot_be_trained_on():
    with pytest.raises(PlaygroundError) as caught:
        xray_of(ROWS["plain"], TEMPLATES["encoder"], train_on_prompt=True)
    assert keys(caught) == ["error.prompt_is_read"]


# --- as HTML ---

ALLOWED = {
    "section",
    "p",
    "b",
    "ul",
    "li",
    "span",
    "div",
    "bdi",
    "i",
    "sub",
    "wbr",
    "small",
}
ATTRIBUTES = {"class", "title", "role", "aria-label", "aria-hidden", "dir", "tabindex", "data-mark"}


class Page(HTMLParser):
    """Parse HTML as a browser does, and check that it has only allowed tags and attributes, well nested."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.open, self.tokens, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert tag in ALLOWED and {name for name, _ in attributes} <= ATTRIBUTES, (tag, attributes)
        if tag != "wbr":
            self.open.append(tag)
        if tag == "bdi":
            self.tokens.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "bdi" in self.open and "sub" not in self.open:
            self.tokens[-1] += data

    def handle_decl(self, decl):
        raise AssertionError(decl)

    handle_comment = handle_pi = unknown_decl = handle_decl


def check(row: Row, template: Template) -> None:
    result = xray_of(row, template, 300)
    page = drawing.draw(ENGLISH, result)
    read = Page(page)
    plain = "".join(read.texts) + "".join(re.findall(r'title="([^"]*)"', page))
    assert not [
        char
        for char in plain
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") and char not in "\n\t"
    ]
    assert len(read.tokens) >= sum(token["part"] == 1 for token in result["tokens"])
    assert [token for token in result["tokens"] if f">{drawing.visible(token['text'])}<" not in page] == []


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
@pytest.mark.parametrize(
    "template",
    [TEMPLATES[name] for name in ("chat", "custom", "unigram", "text", "encoder")],
    ids=lambda t: f"{t.name}-{t.encoder}",
)
def test_no_hostile_row_breaks_out_of_the_page(text, template):
    check(Row(f"a{text}b", text, input=text, before=((text, text),), system=text), template)


@settings(max_examples=60, deadline=None)
@given(
    text=strategies.text(strategies.characters(codec="utf-8"), min_size=1, max_size=40),
    name=strategies.sampled_from(["chat", "custom", "unigram", "text", "encoder"]),
)
def test_no_random_text_breaks_out_of_the_page(text, name):
    check(Row(text, text, input=text), TEMPLATES[name])


def test_every_character_is_shown_and_hidden_ones_by_name():
    assert (
        drawing.visible("a<b\u200bc\u202e d\n\u0301")
        == 'a&lt;b<i class="m u">U+200B</i>c<i class="m u">U+202E</i><i class="m" data-mark="·"> </i><wbr>d'
        '<i class="m" data-mark="↵">\n</i>\u0301'
    )
    assert drawing.visible("\u0301e\u0301") == "◌\u0301e\u0301"


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("length,outcome", [(4096, "there"), (60, "cut"), (10, "left_out")])
def test_states_are_shown_in_words_not_only_in_colour(lang, length, outcome):
    words = functools.partial(translate, lang)
    result = xray_of(
        Row("What is it?", "blue " * 40), TEMPLATES["alpaca"] if outcome == "left_out" else TEMPLATES["talk"], length
    )
    page = drawing.draw(words, result)
    assert html.escape(words(f"xray.end.{outcome}")) in page
    for state, count in result["states"].items():
        assert f"{words(f'xray.state.{state}')} <b>{count:,}</b>" in page and (
            not count or f'class="run {state}"' in page
        )
        assert (f'<span class="screen-reader">{words(f"xray.state.{state}")}: </span>' in page) is bool(count)


def _figures(text: str) -> list[int]:
    return [int(figure.replace(",", "")) for figure in re.findall(r"[0-9][0-9,]*", text)]


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("name", ["chat", "custom", "text", "encoder"])
@pytest.mark.parametrize("length", [4096, 12, 2])
def test_summary_and_both_legends_count_the_same_tokens(name, lang, length):
    result = xray_of(ROWS["whole"] if name != "text" else ROWS["text"], TEMPLATES[name], length)
    page = drawing.draw(functools.partial(translate, lang), result)
    states, parts = re.findall(r'<ul class="legend[^"]*">(.*?)</ul>', page)
    for legend in (states, parts):
        assert sum(int(count.replace(",", "")) for count in re.findall(r"<b>([0-9,]+)</b>", legend)) == result["total"]
    summary = re.search("<p>(.*?) <b", page).group(1)
    cut = result["states"]["truncated"]
    expected = {result["total"], result["length"]} | ({result["kept"], cut} if cut else set())
    assert set(_figures(summary)) == expected and result["kept"] + cut == result["total"]


def test_a_screen_reader_and_a_copy_get_the_row_as_text():
    row = Row("What is\tit?", "It  is\nblue.")
    read = Page(drawing.draw(ENGLISH, xray_of(row, TEMPLATES["talk"])))
    text = "".join(read.tokens)
    assert row.instruction in text and row.output in text
