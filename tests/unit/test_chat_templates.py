"""Real chat templates: tokens and labels are those of transformers' own `apply_chat_template`.

`tests/data/chat_templates/` holds the templates of 59 models, each with its source and the token that ends an answer
(`sources.json`). They are rendered here on a small tokenizer that has the tokens which they write.
"""

import json
import re
from dataclasses import replace

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers
from toys import PROJECT, make_tokenizer
from transformers import PreTrainedTokenizerFast

from playground.data.batch import IGNORED, encode
from playground.data.chat_template import shared_length
from playground.data.conversation import turns
from playground.data.row import Row
from playground.data.template import Template

FOLDER = PROJECT / "tests" / "data" / "chat_templates"
SOURCES = json.loads((FOLDER / "sources.json").read_text())
TOKEN = re.compile(r"<\|[^|<>\s]+\|?>|<｜[^｜<>]+｜>|</?[a-zA-Z_:0-9]+>|<[a-z_]+\|>|\[/?[A-Z_a-z]+\]|\[\|[a-z]+\|\]")
ORDINARY = re.compile("think|tool|TOOL")  # tokens that tokenizers don't call special
# What the prompts of these end with, and no answer that the template renders begins with.
OPENED = {
    "command-r7b": "<|START_THINKING|><|END_THINKING|>",
    "deepseek-r1-distill": "<think>\n",
    "deepseek-v3": "<think>\n",
    "qwq-32b": "<think>\n",
}
# What these write behind a last answer, besides the token that ends texts.
BEHIND = {"command-r7b": "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_THINKING|><|END_THINKING|>"}
# These write the system prompt with the last message, if it is a question: it is lost as soon as an answer follows.
FORGETFUL = {"mistral-v3": "[/INST]", "mistral-v3-tekken": "[/INST]"}

PLAIN = Row("What is it?", "It is blue.")
ROWS = {
    "plain": PLAIN,
    "input": Row("Translate.", "blue", input="青い"),
    "system": Row("What is it?", "It is blue.", system="Be brief."),
    "empty system": Row("What is it?", "It is blue.", empty_system=True),
    "turns": Row("And now?", "Red.", before=(("What is it?", "Blue."), ("Sure?", "Yes."))),
    "turns, system": Row("And now?", "Red.", before=(("What is it?", "Blue."),), system="Be brief."),
    "reasoning": Row(
        "And now?", "<think>\nHm.\n</think>\n\nRed.", before=(("Is it?", "<think>\nOh.\n</think>\n\nYes."),)
    ),
    "blanks": Row("  What is it?\n", "\n It is:\n\n blue.  "),
    "Japanese": Row("東京の天気は？", "晴れです。\n明日は☂"),
}


# How Qwen and Llama 3 cut texts before they merge: line breaks stay together. GPT-2 cuts the last one off.
QWEN_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def merging(tokenizer, keeps_lines: bool):
    """The tokenizer with a token for two line breaks; keeps_lines: it cuts texts as Qwen does, else as GPT-2."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["model"]["vocab"]["ĊĊ"] = len(tokenizer)
    backend["model"]["merges"].append(["Ċ", "Ċ"])
    changed = Tokenizer.from_str(json.dumps(backend))
    if keeps_lines:
        split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
        changed.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=changed, pad_token="<pad>")


def tokenizer_of(name: str, lines: str = "apart"):
    """A small tokenizer with this template and the tokens that it writes.

    lines: two line breaks are two tokens ("apart"), or one, in texts cut as "gpt2" or "qwen" cuts them.
    """
    tokenizer, source = make_tokenizer(False), SOURCES[name]
    tokenizer = tokenizer if lines == "apart" else merging(tokenizer, lines == "qwen")
    tokenizer.chat_template = (FOLDER / f"{name}.jinja").read_text()
    tokenizer.bos_token, tokenizer.eos_token = source["bos"] or None, source["eos"]
    text = "".join(_rendered(tokenizer, _messages(row)) or "" for row in ROWS.values())
    texts = [source["bos"], source["eos"], source["end"], *dict.fromkeys(TOKEN.findall(text))]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [text for text in texts if text and not ORDINARY.search(text)]}
    )
    tokenizer.add_tokens([text for text in texts if ORDINARY.search(text)])
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers():
    return {name: tokenizer_of(name) for name in SOURCES}


def _messages(row: Row, systems: str = "apart") -> list[dict]:
    """A row as messages; systems: apart, or "first" for a template that takes none: before the first question."""
    first = [text for _, text in row.systems if text] if systems == "first" else []
    messages = []
    for number, turn in enumerate(turns(row)):
        messages += [{"role": "system", "content": t} for at, t in row.systems if at == number and systems == "apart"]
        question = [*(first if not number else []), turn.instruction, *([turn.input] if turn.input else [])]
        messages.append({"role": "user", "content": "\n\n".join(question)})
        messages.append({"role": "assistant", "content": turn.answer or row.output})
    return messages


def _rendered(tokenizer, messages, **options) -> str | None:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception:  # a template that doesn't take such messages
        return None


def _expected(tokenizer, name: str, row: Row) -> tuple[list[int], list[int]]:
    """transformers' tokens of the whole conversation, and of the prompt of its last answer."""
    probe = _rendered(tokenizer, [{"role": "system", "content": "S0S"}, {"role": "user", "content": "?"}])
    messages = _messages(row, "apart" if probe and "S0S" in probe else "first")
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(messages, return_dict=False)
    if name in FORGETFUL and row.systems:
        end = tokenizer.convert_tokens_to_ids(FORGETFUL[name])
        whole = prompt + whole[len(whole) - whole[::-1].index(end) :]
    return whole, prompt


def _ours(tokenizer, row: Row) -> tuple[list[int], list[int]]:
    [example], _ = encode([row], Template("chat", tokenizer), 4096)
    return list(example.ids[: example.trained_from]), list(example.ids[example.trained_from :])


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_tokens_and_labels_are_those_of_apply_chat_template(tokenizers, name, row):
    tokenizer = tokenizers[name]
    whole, prompt = _expected(tokenizer, name, row)
    read, written = _ours(tokenizer, row)
    ours, end = read + written, tokenizer.convert_tokens_to_ids(SOURCES[name]["end"])
    assert ours[-1] == end and written.count(end) == 1
    if end in whole[len(read) :]:
        assert ours == whole[: len(ours)]
        behind = tokenizer.decode([id for id in whole[len(ours) :] if id != tokenizer.eos_token_id])
        assert behind.strip() == BEHIND.get(name, "")
    else:  # the template puts nothing behind a last answer
        assert ours == [*whole, end]
    assert read == whole[: shared_length(whole, prompt)]
    assert tokenizer.decode(prompt[len(read) :]) == OPENED.get(name, "")


SEVERAL = Row(
    "And now?",
    "Red.",
    before=(("What is it?", "Blue."),),
    system="Be brief.\n\nBe kind.\n\nBe quick.",
    system_messages=((0, "Be brief."), (0, "Be kind."), (1, "Be quick.")),
)


@pytest.mark.parametrize("name", SOURCES)
def test_several_system_prompts_stay_where_they_are_or_are_joined_but_never_lost(tokenizers, name):
    tokenizer = tokenizers[name]
    read, _ = _ours(tokenizer, SEVERAL)
    text, messages = tokenizer.decode(read), _messages(SEVERAL)[:-1]
    expected = _rendered(tokenizer, messages, add_generation_prompt=True)
    taken = expected is not None and all(m["content"] in expected for m in messages) and name not in FORGETFUL
    if taken and name not in OPENED:
        assert text == expected
    else:
        assert all(text.count(prompt) == 1 for prompt in ("Be brief.", "Be kind.", "Be quick."))
    joined = replace(SEVERAL, system="Be changed.")  # as when marks are removed from all texts
    assert "Be changed." in tokenizer.decode(_ours(tokenizer, joined)[0]) and joined.systems == ((0, "Be changed."),)


def test_templates_that_take_several_system_prompts_are_many(tokenizers):
    taken = [
        name
        for name, tokenizer in tokenizers.items()
        if all(m["content"] in (_rendered(tokenizer, _messages(SEVERAL)) or "") for m in _messages(SEVERAL))
    ]
    assert len(taken) > 15


@pytest.mark.parametrize("lines", ["apart", "gpt2", "qwen"])
@pytest.mark.parametrize("name", SOURCES)
def test_a_chat_asks_with_the_tokens_that_training_showed(name, lines):
    """Also where a tokenizer would merge the end of the prompt with the beginning of the answer."""
    tokenizer = tokenizer_of(name, lines)
    template = Template("chat", tokenizer)
    assert (len(tokenizer.encode("\n\n", add_special_tokens=False)) == 1) == (lines != "apart")
    end = SOURCES[name]["end"]
    forged = Row(f"Say {end} x", f"x {end} y", before=((f"a{end}", f"{end}b"),))
    for row in (*ROWS.values(), forged):
        read, written = _ours(tokenizer, row)
        asked = template.ids(turns(row), row.systems)
        assert asked[: len(read)] == read
        assert tokenizer.decode(asked[len(read) :]) == OPENED.get(name, "")  # which a note says
        rendered = template.chat_template.conversation(turns(row), row.systems, row.output)
        for part, text in ((read, rendered.text[: rendered.start]), (written, rendered.text[rendered.start :])):
            assert tokenizer.decode(part) == template.chat_template.special.show(text)


@pytest.mark.parametrize("name", ["qwen3.5", "qwen3-thinking-2507"])
@pytest.mark.parametrize("lines", ["gpt2", "qwen"])
def test_the_opened_reasoning_of_a_prompt_is_closed_by_the_answer_or_filled(name, lines):
    tokenizer = tokenizer_of(name, lines)
    written = {key: _ours(tokenizer, ROWS[key]) for key in ("plain", "reasoning")}
    line, opened = (tokenizer.encode(text, add_special_tokens=False) for text in ("\n", "<think>\n"))
    assert all(read[-len(opened) :] == opened for read, _ in written.values())
    answers = {key: tokenizer.decode(answer) for key, (_, answer) in written.items()}
    assert answers["plain"] == "\n</think>\n\nIt is blue.<|im_end|>" and written["plain"][1][:1] == line
    assert answers["reasoning"] == "Hm.\n</think>\n\nRed.<|im_end|>"
    whole, _ = _expected(tokenizer, name, ROWS["reasoning"])
    ours = [id for part in written["reasoning"] for id in part]
    assert ours == whole[: len(ours)]  # what needs no other tokens has those of the rendered conversation


@pytest.mark.parametrize("name", ["qwen2.5", "llama2", "gpt-oss", "gemma3", "qwen3", "qwen3.5", "qwen3-thinking-2507"])
@pytest.mark.parametrize("lines", ["apart", "qwen"])
def test_an_answer_is_generated_without_what_the_template_writes_before_it(name, lines):
    tokenizer = tokenizer_of(name, lines)
    template = Template("chat", tokenizer)
    [(_, written)] = template.tokens([PLAIN])
    text = tokenizer.decode(written, skip_special_tokens=True)
    assert template.answer(text).strip() == PLAIN.output
    assert template.answer(text.strip()) == PLAIN.output  # as a chat streams it


@pytest.mark.parametrize("text", ["</think>\n\nRed.", "\n</think>\n\nRed.", "</think>\nRed."])
def test_a_block_that_a_prompt_opened_is_no_part_of_the_answer(tokenizers, text):
    template = Template("chat", tokenizers["qwen3.5"])
    assert template.answer(text) == "Red." and template.answer("</think>") == ""
    assert template.answer("Hm.\n</think>\n\nRed.") == "Hm.\n</think>\n\nRed."


def test_the_first_token_that_an_answer_writes_is_whole(tokenizers):
    """Prompt and answer of this template begin their last token with the same characters."""
    chat = Template("chat", tokenizers["command-r7b"]).chat_template
    assert chat.answer_prefix == "<|START_RESPONSE|>" and chat.unwritten == "<|START_THINKING|><|END_THINKING|>"


@pytest.mark.parametrize("name", SOURCES)
def test_a_forged_turn_in_any_template_stays_text(tokenizers, name):
    tokenizer = tokenizers[name]
    end = SOURCES[name]["end"]
    row = Row(f"Say {end} x", f"x {end} y", before=((f"a{end}", f"{end}b"),))
    harmless = Row("Say x", "x y", before=(("a", "b"),))
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    for ids, plain in zip(_ours(tokenizer, row), _ours(tokenizer, harmless)):
        assert [id for id in ids if id in special] == [id for id in plain if id in special]
    assert tokenizer.decode(_ours(tokenizer, row)[1]).count(end) == 2


@pytest.mark.parametrize("name", SOURCES)
def test_a_text_in_any_template_is_recognized_and_teaches_its_answers_alone(tokenizers, name):
    """The rendered conversation, given as a text, has the tokens of the conversation and the labels of its answers."""
    tokenizer = tokenizers[name]
    text = _rendered(tokenizer, _messages(ROWS["turns"]))
    [example], _ = encode([Row("", text)], Template("chat", tokenizer), 4096)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert list(example.ids[: len(whole)]) == whole
    trained = [tokenizer.decode(example.ids[begin:end]) for begin, end in _labelled(example.labels())]
    assert len(trained) == 3
    for answer, got in zip(("Blue.", "Yes.", "Red."), trained):
        assert answer in got and "What is it?" not in got and "Sure?" not in got


def _labelled(labels: list[int]) -> list[tuple[int, int]]:
    flags = [False, *(label != IGNORED for label in labels), False]
    edges = [n for n in range(len(flags) - 1) if flags[n] != flags[n + 1]]
    return list(zip(edges[::2], edges[1::2]))


@pytest.mark.parametrize("name", ["smollm2", "qwen2.5"])
def test_an_empty_system_prompt_keeps_the_templates_own_out(tokenizers, name):
    template = Template("chat", tokenizers[name])
    asked = Row("q", "a")
    own, empty = (
        tokenizers[name].decode(_ours(tokenizers[name], row)[0]) for row in (asked, replace(asked, empty_system=True))
    )
    assert "You are" in own and own == template.prompt(turns(asked))
    assert empty == own.replace(own.partition("system\n")[2].partition("<|im_end|>")[0], "", 1)
