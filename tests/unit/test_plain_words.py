"""The words tables use the field's terms, one word for one thing, and tabs by their names."""

import re
from dataclasses import fields

import pytest

from playground import settings
from playground.i18n import LANGUAGES, table, translate

PLACEHOLDER = re.compile(r"\{[^{}]*\}")
# What not to write, and the field's word for it.
FORBIDDEN = {
    "en": {
        r"\b(teach\w*|taught)\b": "train",
        r"\buntouched\b|(?<!-)\b[Tt]uned\b": "base model, fine-tuned model",
        r"\b[Cc]ards?\b": "GPU",
        r"\ba (weight|token|row|character)\b(?= (must|at most)|$)": "per weight, per token, per row",
        r"\bat once\b": "per micro-batch",
        r"\b[Cc]ounting\b": "predicting, processing",
        r"\b[Cc]ut(off|ting)\b|\bcut off\b|\bleft out\b": "maximum length, truncated, excluded",
        r"\bdata sets?\b": "dataset",
        r"\bhubs?\b": "the Hub",
        r"\b[Ff]etch\w*": "download",
        r"\bmain memory\b": "RAM",
        r"\b[Ll]icence": "license",
        r"\b(regardless|asked for|can be had|by hand|told|parted)\b": "plain English",
        r" …$": "an ellipsis without a space before it",
    },
    "ja": {
        r"教え": "学習",
        r"読込": "読み込み",
        r"(?<!グ)カード": "GPU",
        r"測定用": "検証データ",
        r"ハブ": "Hub",
        r"答え(?=[をがのは、。）]|$)": "回答",
        r"途中保存": "チェックポイント",
        r"(アダプタ|フォルダ|エンコーダ|デコーダ|パラメータ)(?!ー)": "ー",
        r"(オプティマイザ|トークナイザ|アロケータ|ポインタ|カテゴリ)(?!ー)": "ー",
        r"[０-９Ａ-Ｚａ-ｚ]": "half-width digits and letters",
    },
}
ENGLISH_TABS = re.compile(r"((?:[A-Z][\w-]*(?:, | and | or )?)+) tabs?\b")
JAPANESE_TABS = re.compile(r"((?:「[^」]+」[と、・]?)+)タブ")
NUMBERED_TAB = re.compile(r"\btabs? \d|タブ ?\d|\d ?つ?番?目?のタブ|\d · ")


def _names(lang: str) -> dict[str, str]:
    """Key by name of every tab."""
    return {text: key for key, text in table(lang).items() if key.startswith("tab.")}


def _tabs_named(lang: str, text: str) -> list[str]:
    """The names that a text gives as those of tabs."""
    if lang == "ja":
        return [name for group in JAPANESE_TABS.findall(text) for name in re.findall(r"「([^」]+)」", group)]
    return [name for group in ENGLISH_TABS.findall(text) for name in re.split(r", | and | or ", group)]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_text_uses_a_word_that_the_field_does_not(lang):
    """One word for one thing, as transformers, PEFT and PyTorch name it: a beginner finds it again in their documents.

    In Japanese, the long vowel of アダプター and its kin is always written, and training is always 学習.
    """
    found = [
        f"{key}: {match.group()!r} in {text!r}; write {better}"
        for key, text in table(lang).items()
        for pattern, better in FORBIDDEN[lang].items()
        if (match := re.search(pattern, PLACEHOLDER.sub("", text)))
    ]
    assert found == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_text_names_a_tab_by_its_number(lang):
    """A number goes wrong without notice as soon as a tab is added; a name is checked below."""
    assert [text for text in table(lang).values() if NUMBERED_TAB.search(PLACEHOLDER.sub("", text))] == []


def test_texts_name_tabs_that_exist_and_the_same_in_both_languages():
    """A tab is "the Load tab" in English and 「読み込み」タブ in Japanese, so that this test sees every reference."""
    references = 0
    for key in table("en"):
        tabs = {
            lang: [_names(lang).get(name, name) for name in _tabs_named(lang, table(lang)[key])] for lang in LANGUAGES
        }
        assert all(name.startswith("tab.") for name in tabs["en"] + tabs["ja"]), (key, tabs)
        assert sorted(tabs["en"]) == sorted(tabs["ja"]), (key, tabs)
        references += len(tabs["en"])
    assert references >= 8


def test_japanese_sentences_end_politely():
    """Sentences end in です or ます (or a request), labels in a noun; never in the plain form だ or である."""
    plain = re.compile(r"(だ|である|だった|しない|できない)。")
    assert [text for text in table("ja").values() if plain.search(text)] == []


def test_every_label_of_a_choice_belongs_to_a_setting_and_begins_with_its_value():
    """Values stay recognizable, as help texts, command line and run files name them."""
    groups = {"load": settings.Load, "data": settings.Data, "lora": settings.Lora, "train": settings.Train}
    spelled = {"choice.load.bits.0": "auto", "choice.load.device.cpu": "CPU", "choice.load.device.cuda": "GPU"}
    for key in (key for key in table("en") if key.startswith("choice.")):
        _, group, name, value = key.split(".", 3)
        assert name in {field.name for field in fields(groups[group])}, key
        assert all(table(lang)[key].startswith(spelled.get(key, value)) for lang in LANGUAGES), key


@pytest.mark.parametrize("count,text", [(1, "1 row"), ("1", "1 row"), (0, "0 rows"), ("1,000", "1,000 rows")])
def test_counts_agree_in_number(count, text):
    assert translate("en", "strip.rows", rows=count) == text


@pytest.mark.parametrize("lang", LANGUAGES)
def test_lists_are_joined_as_the_language_does(lang):
    joined = {"en": "auto, off", "ja": "auto、off"}[lang]
    assert joined in translate(lang, "problem.choice", field="train.compile", value="x", choices=["auto", "off"])
