"""Custom prompt formats, plain texts, system prompts and earlier turns: how rows are written, and what is refused."""

import pytest
from toys import keys, make_tokenizer, make_unigram

from playground.data.batch import encode
from playground.data.source import Row
from playground.data.template import Template, Turn, turns
from playground.data.template_choice import choose_template
from playground.errors import PlaygroundError
from playground.settings import Settings, problems

PLAIN, CHATTY = make_tokenizer(False), make_tokenizer(True)
FORM = "System: {system}\nQ: {instruction}\nGiven: {input}\nA: {answer} ###"
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATTY.chat_template
)
SYSTEM_IGNORED = CHATTY.chat_template.replace("in messages", "in messages if m['role'] != 'system'")


def custom(form: str = FORM, tokenizer=PLAIN) -> Template:
    return choose_template("custom", tokenizer, ["?"], custom_format=form)


def written(row: Row, template: Template) -> tuple[str, str]:
    """The prompt that the model reads, and the answer that it is trained to write."""
    [example], _ = encode([row], template, 512)
    decode = template.tokenizer.decode
    return decode(example.ids[: example.trained_from]), decode(example.ids[example.trained_from :])


def test_a_custom_format_is_filled_in_and_the_text_after_the_answer_closes_it():
    assert written(Row("What?", "Blue.", input="the sky", system="Be brief."), custom()) == (
        "System: Be brief.\nQ: What?\nGiven: the sky\nA: ",
        "Blue. ###</s>",
    )


def test_a_line_for_an_absent_value_is_left_out():
    assert written(Row("What?", "Blue."), custom()) == ("Q: What?\nA: ", "Blue. ###</s>")
    assert written(Row("What?", "Blue."), custom("{instruction} ({input}): {answer}")) == ("What? (): ", "Blue.</s>")


def test_values_without_a_place_are_put_with_the_question():
    assert (
        written(Row("What?", "Blue.", input="the sky", system="Be brief."), custom("<{instruction}>{answer}"))[0]
        == "<Be brief.\n\nWhat?\n\nthe sky>"
    )


def test_earlier_turns_are_written_alike_and_the_end_token_comes_once():
    row = Row("Two?", "2", before=(("One?", "1"), ("And?", "{answer}")), system="S.")
    prompt, answered = written(row, custom())
    assert prompt == "System: S.\nQ: One?\nA: 1 ###\nQ: And?\nA: {answer} ###\nQ: Two?\nA: " and answered == "2 ###</s>"
    for name, expected in (
        ("alpaca", ["One?", "1", "And?", "{answer}", "Two?"]),
        ("talk", ["S.", "One?", "1", "And?", "{answer}", "Two?"]),
        ("chat", ["system\nS.", "user\nOne?", "assistant\n1", "user\nAnd?", "assistant\n{answer}", "user\nTwo?"]),
    ):
        text, answered = written(row, Template(name, CHATTY))
        places = [text.index(part) for part in expected]
        assert places == sorted(places) and text.count("S.") == 1
        assert answered == ("2<|end|>" if name == "chat" else "2</s>")


def test_braces_in_a_row_and_doubled_braces_in_a_format_are_kept():
    assert written(Row("{x} {answer} %s", "{{y}}"), custom("{{{instruction}}}: {answer}")) == (
        "{{x} {answer} %s}: ",
        "{{y}}</s>",
    )


@pytest.mark.parametrize(
    "form,key,seen",
    [
        ("", "custom_format_empty", "empty"),
        ("Q: {instruction}", "custom_format_no_answer", "{answer}"),
        ("{answer}", "custom_format_no_instruction", "{instruction}"),
        ("{instruction} {{answer}}", "custom_format_no_answer", "{answer}"),
        ("{instruction}{answer}{answer}", "custom_format_answers", "2 times"),
        ("{answer} {instruction}", "custom_format_late", "{instruction}"),
        ("{instruction} {question} {} {answer}", "custom_format_names", "{question}, {}"),
        ("{instruction!r}{instruction}{answer}", "custom_format_names", "{instruction!r}"),
        ("{instruction.__class__} {instruction}{answer}", "custom_format_names", "__class__"),
        ("a } {instruction}{answer}", "custom_format_braces", "twice"),
        ("{instruction} {answer", "custom_format_braces", "twice"),
    ],
)
def test_an_unusable_format_is_refused_with_a_sentence(form, key, seen):
    [problem] = problems(Settings().with_values({"data": {"prompt_format": "custom", "custom_format": form}}))
    assert problem.key == f"problem.{key}" and seen in problem.text("en") and problem.text("ja")
    with pytest.raises(PlaygroundError) as caught:
        choose_template("custom", PLAIN, [], custom_format=form)
    assert keys(caught) == [problem.key]


def test_a_custom_format_is_checked_only_where_it_is_used():
    assert problems(Settings().with_values({"data": {"prompt_format": "talk", "custom_format": "{"}})) == []
    assert [p.key for p in problems(Settings().with_values({"data": {"prompt_format": "mine"}}))] == ["problem.choice"]


def test_a_plain_text_is_all_answer_in_every_template():
    row = Row("", "It is blue.")
    assert choose_template("auto", CHATTY, ["", " "]).name == "text"
    for template in (Template("text", PLAIN), Template("chat", CHATTY), custom()):
        prompt, answered = written(row, template)
        assert prompt == "" and answered.startswith("It is blue.")
    [example], _ = encode([row], Template("text", make_unigram()), 64)
    assert (
        example.trained_from == 1 and example.ids[0] == 1 and example.ids[-1] == 2
    )  # where texts begin with a token of their own
    assert written(Row("Asked?", "Blue."), Template("text", PLAIN)) == ("", "Blue.</s>")
    assert Template("text", PLAIN).prompt([Turn("Once upon", " a time."), Turn("Then")]) == "Once upon a time.\nThen"


def test_plain_text_is_refused_for_a_model_with_an_encoder():
    for encode_text in (
        lambda: choose_template("auto", PLAIN, [""], encoder=True),
        lambda: encode([Row("", "x"), Row("Q", "A")], Template("talk", PLAIN, encoder=True), 64),
    ):
        with pytest.raises(PlaygroundError) as caught:
            encode_text()
        assert keys(caught) == ["error.text_encoder"] and caught.value.text("ja")


@pytest.mark.parametrize("chat_template", [NO_SYSTEM, SYSTEM_IGNORED], ids=["raises", "drops it"])
def test_a_system_prompt_without_a_place_comes_before_the_first_question(chat_template):
    tokenizer = make_tokenizer(True)
    tokenizer.chat_template = chat_template
    row = Row("Two?", "2", before=(("One?", "1"),), system="Be brief.")
    text = Template("chat", tokenizer).prompt(turns(row), row.system)
    assert "user\nBe brief.\n\nOne?<|end|>" in text and text.count("Be brief.") == 1 and "user\nTwo?" in text


def test_the_closing_text_is_not_part_of_the_answer():
    assert (
        custom().answer("Blue. ###") == "Blue. "
        and custom().answer("Blue. ##") == "Blue. ##"
        and Template("talk", PLAIN).answer("x ###") == "x ###"
    )


def test_rows_encoded_together_equal_rows_encoded_one_by_one():
    rows = [
        Row(f"What {n}?", "blue " * (n % 7), input="sky" * (n % 3), before=(("a", "b"),) * (n % 2)) for n in range(600)
    ]
    for template in (custom(), Template("chat", CHATTY), Template("alpaca", make_unigram())):
        together, _ = encode(rows, template, 1024)
        assert together[::97] == [encode([row], template, 1024)[0][0] for row in rows[::97]]
        for row, example in list(zip(rows, together))[::97]:
            assert example.ids[: example.trained_from] == template.ids(turns(row), row.system)
