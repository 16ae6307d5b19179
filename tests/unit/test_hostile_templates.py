"""Chat templates that don't end, fill the memory, or write what no tokenizer takes: each is a sentence, soon."""

import sys
import time

import pytest

from playground.errors import PlaygroundError


def _answer_of(template: str) -> str:
    """What a chat template makes of a question, or why it makes nothing."""
    from transformers import PreTrainedTokenizerFast

    from playground.data.chat_template import ChatTemplate

    texts = set()
    for _ in range(3):  # as a process does that reads the tokenizer again
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=__import__("tokenizers").Tokenizer(_words()))
        tokenizer.chat_template = template
        try:
            texts.add(ChatTemplate(tokenizer)._apply([{"role": "user", "content": "x"}], True, False))
        except PlaygroundError as error:
            texts.add(error.problems[0].key)
            assert not error.problems[0].values["detail"].startswith("[")
    [text] = texts
    return text


def test_an_endless_chat_template_is_a_sentence_and_is_waited_for_once(monkeypatch):
    from playground.data import chat_template

    monkeypatch.setattr(chat_template, "ENDLESS", {})
    monkeypatch.setattr("playground.data.chat_template.MAX_SECONDS", 2.0)
    begun = time.monotonic()
    loop = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
    assert _answer_of(loop) == "error.chat_template" and time.monotonic() - begun < 5.5
    monkeypatch.setattr("playground.data.chat_template.MAX_BYTES", 2**28)
    monkeypatch.setattr("playground.data.chat_template.MAX_SECONDS", 60.0)
    begun = time.monotonic()
    assert _answer_of(loop.replace("{% endfor %}", "x{% endfor %}")) == "error.chat_template"
    assert time.monotonic() - begun < 20 and len(chat_template.ENDLESS) >= 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere no process has such a limit")
@pytest.mark.parametrize(
    "growing", ['"x" * 10**10', '"x"|center(10**10)', "([1] * 10**9)|length", '"%9999999999d" % 3']
)
def test_a_chat_template_that_fills_the_memory_is_a_sentence(growing):
    import resource

    before, peak = resource.getrlimit(resource.RLIMIT_AS), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert _answer_of("{{ " + growing + " }}") == "error.chat_template"
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 1.5 * 2**20  # KiB


def test_a_chat_template_that_writes_halves_of_characters_writes_whole_ones():
    assert _answer_of('{{ "a\\ud83d" }}b') == "a\ufffdb"


def _words():
    from tokenizers.models import WordLevel

    return WordLevel({"x": 0, "?": 1}, unk_token="?")
