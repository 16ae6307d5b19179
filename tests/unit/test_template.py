"""Tokenize rows: which tokens are trained on, where answers end, what is truncated."""

import pytest
from toys import keys, make_tokenizer, make_unigram
from transformers import AddedToken

from playground.data.batch import encode
from playground.data.source import Row
from playground.data.template import Template, Turn
from playground.data.template_choice import choose_template
from playground.errors import PlaygroundError

PLAIN, CHATTY = make_tokenizer(False), make_tokenizer(True)
ROW = Row("What is the answer?", "It is blue.")
ROW_WITH_INPUT = Row("Translate.", "blue", input="青い")


def _templates() -> list[Template]:
    return [Template("alpaca", PLAIN), Template("talk", PLAIN), Template("chat", CHATTY)]


@pytest.mark.parametrize("template", _templates(), ids=lambda t: t.name)
@pytest.mark.parametrize("row", [ROW, ROW_WITH_INPUT], ids=["plain", "input"])
def test_only_the_answer_is_trained_on_and_ends_with_the_end_token(template, row):
    [example], truncated = encode([row], template, 512)
    assert truncated == 0
    decode = template.tokenizer.decode
    assert decode(example.ids[: example.trained_from]) == template.prompt([Turn(row.instruction, input=row.input)])
    end = "<|end|>" if template.name == "chat" else "</s>"
    assert decode(example.ids[example.trained_from :]) == row.output + end
    assert template.end_ids() == [template.tokenizer.convert_tokens_to_ids(end)] == example.ids[-1:]


def test_training_on_the_prompt_labels_everything():
    [example], _ = encode([ROW], Template("alpaca", PLAIN), 512, train_on_prompt=True)
    assert example.trained_from == 0


def test_the_alpaca_format_is_alpacas():
    template = Template("alpaca", PLAIN)
    with_input, without = (template.prompt([Turn(r.instruction, input=r.input)]) for r in (ROW_WITH_INPUT, ROW))
    assert "paired with an input" in with_input and with_input.endswith(
        "### Instruction:\nTranslate.\n\n### Input:\n青い\n\n### Response:\n"
    )
    assert "paired with an input" not in without and without.endswith(
        "### Instruction:\nWhat is the answer?\n\n### Response:\n"
    )


def test_the_talks_format_is_the_talks():
    template = Template("talk", PLAIN)
    assert template.prompt([Turn("訳して", input="blue")]) == "指示: 訳して 入力: blue\n回答: "
    assert template.prompt([Turn("訳して")]) == "指示: 訳して\n回答: "


@pytest.mark.parametrize("template", _templates(), ids=lambda t: t.name)
def test_a_conversation_has_every_turn_in_order_and_ends_where_the_answer_begins(template):
    text = template.prompt([Turn("one?", "ONE."), Turn("two?", "TWO."), Turn("three?")])
    places = [text.index(part) for part in ("one?", "ONE.", "two?", "TWO.", "three?")]
    assert places == sorted(places)
    single = template.prompt([Turn("three?")])
    assert text.endswith(single[-10:]) and text.count("three?") == 1


def test_braces_in_a_question_are_unchanged():
    for template in _templates():
        assert "{x} %s {{y}}" in template.prompt([Turn("{x} %s {{y}}")])


def test_long_answers_are_truncated_and_rows_with_too_long_prompts_dropped():
    template = Template("talk", PLAIN)
    prompt = len(template.ids([Turn(ROW.instruction)]))
    rows = [ROW, Row(ROW.instruction, "blue " * 200), Row("what " * 200, "blue")]
    examples, truncated = encode(rows, template, prompt + 12)
    assert (len(examples), truncated) == (2, 2)
    assert examples[0].ids[-1] == PLAIN.eos_token_id
    assert len(examples[1].ids) == prompt + 12 and examples[1].ids[-1] != PLAIN.eos_token_id
    assert all(e.trained_from < len(e.ids) for e in examples)


def test_a_row_that_just_fits_is_not_truncated():
    template = Template("talk", PLAIN)
    size = sum(map(len, next(template.tokens([ROW]))))
    assert encode([ROW], template, size)[1] == 0
    assert encode([ROW], template, size - 1)[1] == 1


def test_rows_that_are_all_too_long_are_reported():
    with pytest.raises(PlaygroundError) as caught:
        encode([ROW, ROW_WITH_INPUT], Template("alpaca", PLAIN), 8)
    assert keys(caught) == ["error.all_too_long"] and "2 rows" in str(caught.value)


def test_choosing_a_missing_chat_template_is_reported():
    with pytest.raises(PlaygroundError) as caught:
        choose_template("chat", PLAIN, [])
    assert keys(caught) == ["error.no_chat_template"]


@pytest.mark.parametrize(
    "tokenizer,texts,name",
    [
        (CHATTY, ["これは何？"], "chat"),
        (PLAIN, ["これは何？"], "talk"),
        (PLAIN, ["What is it?"], "alpaca"),
        (PLAIN, [], "alpaca"),
    ],
)
def test_auto_chooses_the_models_template_else_the_languages(tokenizer, texts, name):
    assert choose_template("auto", tokenizer, texts).name == name


def test_a_template_is_chosen_by_name():
    assert [choose_template(name, CHATTY, ["これ"]).name for name in ("chat", "alpaca", "talk")] == [
        "chat",
        "alpaca",
        "talk",
    ]


def test_a_chat_template_that_fails_is_reported():
    broken = make_tokenizer(True)
    broken.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(PlaygroundError) as caught:
        Template("chat", broken).prompt([Turn("?")])
    assert keys(caught) == ["error.chat_template"] and "no such role" in str(caught.value)


@pytest.mark.parametrize("question", ["what is the answer", "what is <|end|>"])
def test_a_prompt_that_ends_with_a_space_is_asked_as_it_is_trained(question):
    """Some tokenizers merge the space with the answer's first word, and put another before any text alone."""
    tokenizer = make_unigram()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}q: {{ m['content'] }}\na: "
        "{% else %}{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    )
    template = Template("chat", tokenizer)
    [(read, written)] = template.tokens([Row(question, "the answer")])
    assert read == template.ids([Turn(question)])
    whole = tokenizer(template.prompt([Turn(question)]) + "the answer", add_special_tokens=False)["input_ids"]
    assert whole[-2] == tokenizer.convert_tokens_to_ids("▁the")
    assert tokenizer.convert_ids_to_tokens(read)[-2:] == [":", "▁"]
    assert tokenizer.convert_ids_to_tokens(written) == ["t", "h", "e", "▁answer", "<|end|>"]


def test_a_token_that_takes_in_the_blanks_behind_it_stays_in_the_prompt():
    tokenizer = make_tokenizer(True)
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|a|>", rstrip=True, special=True)]})
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<|start|>{{ m['content'] }}<|a|>"
        "{% else %}{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    )
    template = Template("chat", tokenizer)
    for answer in ("Red.", "\n Red."):
        [(read, written)] = template.tokens([Row("What?", answer)])
        assert read == template.ids([Turn("What?")])
        assert tokenizer.decode(written) == "Red.<|end|>"


def test_a_tokenizer_without_an_end_token_is_reported():
    endless = make_tokenizer(False)
    endless.eos_token = None
    with pytest.raises(PlaygroundError) as caught:
        encode([ROW], Template("alpaca", endless), 512)
    assert keys(caught) == ["error.no_end"]


def test_special_tokens_typed_into_a_question_or_an_answer_do_not_end_it():
    """What people type is text: an end mark inside it must not become the model's own end."""
    [example], _ = encode([Row("Say <|end|> twice", "ok")], Template("chat", CHATTY), 512)
    assert example.ids[-1] == CHATTY.convert_tokens_to_ids("<|end|>")
    assert CHATTY.decode(example.ids[example.trained_from :]) == "ok<|end|>"
