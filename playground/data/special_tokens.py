"""Special tokens of a tokenizer: find their texts in rows, and encode such a text without making it a token."""

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "\ue002", "\ue003"  # private-use characters around the number of a hidden text
HIDDEN = re.compile(f"{OPEN}([0-9]+){CLOSE}")
MAX_ENDING = 80  # characters at the end of a prompt that are searched for its last special token
REASONING = re.compile("think|reason", re.IGNORECASE)  # `<think>` in an answer is the model's own token, and meant


class SpecialTokens:
    """The tokens of a tokenizer that begin, end or separate texts and turns.

    others: more texts that count as special if the tokenizer has a token for them: many tokenizers don't call the
    tokens special that their chat templates write.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, others: Iterable[str] = ()):
        self.tokenizer = tokenizer
        added = {str(token): id for id, token in tokenizer.added_tokens_decoder.items()}
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        names = (special | set(tokenizer.all_special_tokens) | set(others)) & set(added)
        names = {name for name in names if name.strip() and not REASONING.search(name)}
        self.texts = sorted(names, key=lambda name: (-len(name), name))
        self.ids = {name: added[name] for name in self.texts}
        self._pattern = re.compile("|".join(map(re.escape, self.texts)) or "(?!)")
        self._run = re.compile(f"(?:{self._pattern.pattern})+")

    def find(self, text: str) -> list[str]:
        """The special tokens' texts in a text, in order."""
        return self._pattern.findall(text)

    def run(self, text: str) -> str:
        """The text up to and with its first special tokens that follow each other; "" if it has none.

        They end at the end-of-text token, if that is one of them.
        """
        match = self._run.search(text)
        if not match:
            return ""
        eos = str(self.tokenizer.eos_token or "")
        before, end, _ = match[0].partition(eos) if eos else (match[0], "", "")
        return text[: match.start()] + before + end

    def hide(self, text: str) -> str:
        """The text with every special token's text replaced by a mark, which no template and no tokenizer knows."""
        return self._pattern.sub(lambda match: f"{OPEN}{self.texts.index(match[0])}{CLOSE}", text)

    def show(self, text: str) -> str:
        """Undo `hide`."""
        return HIDDEN.sub(lambda match: self.texts[int(match[1])], text)

    @staticmethod
    def is_hidden(text: str) -> bool:
        """Whether `hide` has changed this text."""
        return OPEN in text

    def encode(self, text: str) -> list[int]:
        """Encode a text with marks: what was hidden stays text, all other special tokens are tokens."""
        if OPEN not in text:
            return self._encode(text)
        ids: list[int] = []
        readable = ""  # what precedes the next stretch with a mark
        position = 0
        for match in [*self._pattern.finditer(text), None]:
            stretch = text[position : match.start() if match else len(text)]
            if OPEN in stretch:
                ids += self._encode(readable) if readable else []
                ids += self._encode_as_text(self._stripped(stretch, text, position, match), is_first=not position)
                readable = ""
            else:
                readable += stretch
            if match:
                readable += match[0]
                position = match.end()
        return ids + (self._encode(readable) if readable else [])

    def encode_next(self, text: str) -> list[int]:
        """Encode a text that continues another one, so without the space that some tokenizers put before texts."""
        return _behind_line(text, self.encode)

    def ending(self, text: str) -> str | None:
        """The last special token near a text's end and what follows it, or None without one.

        A tokenizer encodes it apart from what precedes it: special tokens are found first.
        """
        matches = [*self._pattern.finditer(text, max(0, len(text) - MAX_ENDING))]
        return text[matches[-1].start() :] if matches else None

    def _stripped(self, stretch: str, text: str, position: int, following: re.Match[str] | None) -> str:
        """A stretch of text without the spaces that the tokens around it take in."""
        tokens = self.tokenizer.added_tokens_decoder
        preceding = next((name for name in self.texts if text.endswith(name, 0, position)), None) if position else None
        if preceding in self.ids and getattr(tokens.get(self.ids[preceding]), "rstrip", False):
            stretch = stretch.lstrip()
        if following and getattr(tokens.get(self.ids[following[0]]), "lstrip", False):
            stretch = stretch.rstrip()
        return self.show(stretch)

    def _encode_as_text(self, text: str, is_first: bool) -> list[int]:
        """Encode a text without any special token in it; is_first: whether it begins the whole text."""
        return _behind_line(text, self._plain) if not is_first and self._puts_space_first else self._plain(text)

    def _plain(self, text: str) -> list[int]:
        ids = self._encode(text, split_special_tokens=True)
        if not set(ids) & set(self.ids.values()):
            return ids
        # Added tokens that aren't called special are found even so: cut them behind their first character.
        cuts = [0, *(match.start() + 1 for match in self._pattern.finditer(text)), len(text)]
        pieces = [text[start:end] for start, end in pairwise(cuts)]
        return [id for piece in pieces for id in self._encode(piece, split_special_tokens=True)]

    @cached_property
    def _puts_space_first(self) -> bool:
        """Whether the tokenizer puts a space before the first text only, and not behind special tokens."""
        return bool(self.texts) and self._encode(self.texts[0] + "a")[1:] != self._encode("a")

    def _encode(self, text: str, **options: bool) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False, **options)["input_ids"]


def _behind_line(text: str, encode: Callable[[str], list[int]]) -> list[int]:
    """Encode a text as if a line break preceded it, which isn't in the result; alone if it merges with line breaks."""
    line, both = encode("\n"), encode("\n" + text)
    return both[len(line) :] if both[: len(line)] == line else encode(text)
