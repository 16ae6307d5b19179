"""A row as the model will see it: exactly the tokens of `encode`, what each is, and HTML that no row can break."""

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
from playground.data.template import Template, choose_template
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
    "custom": choose_template("custom", PLAIN, [], own="[{system}]\nQ: {instruction}\n{input}\nA: {answer} ###"),
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


def seen(row: Row, template: Template, length: int = 4096, **values) -> dict:
    return xray(row, template, length, **values)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("prompts", [False, True])
@pytest.mark.parametrize("length", [4096, 72, 20])
def test_its_tokens_are_those_that_are_trained_on(row, template, prompts, length):
    if template.encoder and (prompts or not row.instruction):
        pytest.skip("refused: see test_forms and test_seq2seq")
    found = seen(row, template, length, train_on_prompt=prompts)
    try:
        [example] = encode([row], template, length, prompts)[0]
    except PlaygroundError:
        assert found["left_out"] and found["kept"] == 0
        return
    kept = [token for token in found["tokens"] if token["state"] != "truncated"]
    assert (
        [token["id"] for token in kept] == example.ids
        and found["kept"] == len(example.ids)
        and found["trained_from"] == example.trained_from
    )
    assert [token["state"] for token in kept] == ["masked"] * (len(example.ids) - example.labelled) + [
        "trained"
    ] * example.labelled
    assert found["states"]["trained"] == example.labelled and found["total"] == len(found["tokens"]) == sum(
        found["states"].values()
    ) == sum(found["kinds"].values())
    whole = encode([row], template, 4096)[0][0].ids
    assert [token["id"] for token in found["tokens"]] == whole
    assert found["end"] == ("there" if len(whole) <= length else "cut")


def texts(found: dict, *kinds: str) -> str:
    return "".join(token["text"] for token in found["tokens"] if token["kind"] in kinds and token["part"] == 1)


def test_the_template_s_own_text_is_told_from_what_the_row_asks():
    found = seen(ROWS["whole"], TEMPLATES["custom"])
    assert (
        texts(found, "content") == "Be brief.One?1userassistantWhich one?the sky" and texts(found, "answer") == "Blue."
    )
    assert (
        texts(found, "template") == "[]\nQ: \nA:  ###\nQ: \nA:  ###\nQ: \n\nA: " and texts(found, "end") == " ###</s>"
    )
    found = seen(ROWS["whole"], TEMPLATES["chat"])  # where "user" is also a role and "assistant" an answer
    assert texts(found, "content") == "Be brief.One?1userassistantWhich one?\n\nthe sky"
    assert texts(found, "template").split() == ["system", "user", "assistant", "user", "assistant", "user", "assistant"]
    assert found["kinds"]["special"] == 13 and texts(found, "end") == "<|end|>"


def test_a_chat_template_that_alters_what_is_said_is_not_guessed_at():
    tokenizer = make_tokenizer(True)
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", "m['content'] | upper")
    found = seen(Row("what?", "Blue."), Template("chat", tokenizer))
    assert not found["kinds"]["template"] and "WHAT?" in texts(found, "content")


def test_the_bytes_of_a_character_stand_together():
    found = seen(Row("?", "東a"), TEMPLATES["talk"])
    *pieces, letter, end = [token for token in found["tokens"] if token["kind"] in ("answer", "end")]
    assert [(token["text"], token["part"], token["parts"]) for token in pieces] == [("東", n, 3) for n in (1, 2, 3)]
    assert (letter["text"], letter["parts"], end["text"]) == ("a", 1, "</s>")
    drawn = drawing.draw(ENGLISH, found)
    assert drawn.count("東") == 1 and "東<sub>3</sub>" in drawn
    cut = drawing.draw(ENGLISH, seen(Row("?", "東a"), TEMPLATES["talk"], found["total"] - 3))
    assert "東<sub>2/3</sub>" in cut and "東<sub>1/3</sub>" in cut


@pytest.mark.parametrize(
    "template", [TEMPLATES["unigram"], TEMPLATES["encoder"]], ids=["bytes where unknown", "no offsets"]
)
def test_other_tokenizers_lose_no_character(template):
    found = seen(Row("東京 is", "青い sky 👩‍👧."), template)
    assert texts(found, "content").strip() == "東京 is" and texts(found, "answer") == "青い sky 👩‍👧."
    assert any(token["parts"] >= 3 for token in found["tokens"])


def test_what_the_tokenizer_changes_is_shown_as_the_model_sees_it():
    found = seen(Row("ＡＢ？", "ok"), TEMPLATES["unigram"])
    changed = [token for token in found["tokens"] if token["was"]]
    assert changed and "AB" in texts(found, "content") and "ＡＢ" in changed[0]["was"]
    assert "written as “ＡＢ" in drawing.draw(ENGLISH, found)


def test_characters_a_token_tell_japanese_on_an_english_tokenizer():
    english, japanese = (seen(ROWS[name], TEMPLATES["talk"])["rates"] for name in ("plain", "japanese"))
    assert english["answer"] > 1 and 0.2 < japanese["answer"] < 0.5
    found = seen(ROWS["text"], TEMPLATES["text"])
    assert found["rates"] == {"answer": found["rates"]["answer"], "all": found["rates"]["answer"]}
    assert found["rates"]["answer"] == round(len(ROWS["text"].output) / found["kinds"]["answer"], 3)


def test_a_long_row_is_told_as_far_as_anybody_reads():
    found = seen(Row("?", "blue " * SHOWN), TEMPLATES["talk"], 100)
    assert (
        len(found["tokens"]) == SHOWN
        and found["more"] == found["total"] - SHOWN > 0
        and found["states"]["truncated"] == found["total"] - 100
    )
    assert f"{found['more']:,} more" in drawing.draw(ENGLISH, found)


def test_a_prompt_cannot_be_trained_on_where_an_encoder_reads_it():
    with pytest.raises(PlaygroundError) as caught:
        seen(ROWS["plain"], TEMPLATES["encoder"], train_on_prompt=True)
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
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
}
ATTRIBUTES = {"class", "title", "role", "aria-label", "dir", "scope"}


class Page(HTMLParser):
    """What a browser would find in it: nothing but tags and attributes of ours, well nested, and its text."""

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
    found = seen(row, template, 300)
    page = drawing.draw(ENGLISH, found)
    read = Page(page)
    plain = "".join(read.texts) + "".join(re.findall(r'title="([^"]*)"', page))
    assert not [
        char
        for char in plain
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") and char != "\n"
    ]
    assert len(read.tokens) >= sum(token["part"] == 1 for token in found["tokens"])
    assert [token for token in found["tokens"] if f">{drawing.visible(token['text'])}<" not in page] == []


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
@pytest.mark.parametrize(
    "template",
    [TEMPLATES[name] for name in ("chat", "custom", "unigram", "text", "encoder")],
    ids=lambda t: f"{t.name}-{t.encoder}",
)
def test_no_row_breaks_out_of_its_page(text, template):
    check(Row(f"a{text}b", text, input=text, before=((text, text),), system=text), template)


@settings(max_examples=60, deadline=None)
@given(
    text=strategies.text(strategies.characters(codec="utf-8"), min_size=1, max_size=40),
    name=strategies.sampled_from(["chat", "custom", "unigram", "text", "encoder"]),
)
def test_nor_does_any_other_text(text, name):
    check(Row(text, text, input=text), TEMPLATES[name])


def test_every_character_of_a_token_is_there_and_hidden_ones_by_name():
    assert (
        drawing.visible("a<b\u200bc\u202e d\n\u0301")
        == 'a&lt;b<i class="m u">U+200B</i>c<i class="m u">U+202E</i><i class="m">·</i><wbr>d<i class="m">↵</i>\n\u0301'
    )
    assert drawing.visible("\u0301e\u0301") == "◌\u0301e\u0301"


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("length,told", [(4096, "there"), (60, "cut"), (10, "left_out")])
def test_it_says_what_becomes_of_the_row_in_words_not_only_in_colour(lang, length, told):
    words = functools.partial(translate, lang)
    found = seen(
        Row("What is it?", "blue " * 40), TEMPLATES["alpaca"] if told == "left_out" else TEMPLATES["talk"], length
    )
    page = drawing.draw(words, found)
    assert html.escape(words(f"xray.end.{told}")) in page
    for state, count in found["states"].items():
        assert f"{words(f'xray.state.{state}')} <b>{count:,}</b>" in page and (
            not count or f'class="run {state}"' in page
        )
        assert (f'<span class="said">{words(f"xray.state.{state}")}: </span>' in page) is bool(count)
