"""Texts of answers while transformers generates them: sent after every token, complete characters only."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from playground.settings import Generation

UNFINISHED = "\ufffd"  # what a character decodes to of which tokens are missing
MAX_UNFINISHED = 3  # bytes of an unfinished character; a character has up to four in UTF-8


class AnswerStreamer(StoppingCriteria):
    """Called by transformers after every token: sends what is written so far, and stops when `stop` is set."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        start: int,
        generation: Generation,
        stop: threading.Event,
        send: Callable[[dict], None],
        end_ids: Sequence[int],
    ) -> None:
        self.tokenizer, self.start, self.stop, self.send = tokenizer, start, stop, send
        self.streams_text, self.end_ids = generation.num_beams == 1, set(end_ids)
        self.began = time.monotonic()
        self.ended_after: dict[int, float] = {}  # seconds, of the rows that have written their end token

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        event: dict[str, Any] = {"tokens": input_ids.shape[1] - self.start}
        if self.streams_text:
            rows = input_ids[:, self.start :].tolist()
            event["texts"] = self._texts(rows)
            for n, row in enumerate(rows):
                if n not in self.ended_after and row[-1] in self.end_ids:
                    self.ended_after[n] = time.monotonic() - self.began
        self.send(event)
        return torch.full((input_ids.shape[0],), self.stop.is_set(), device=input_ids.device)

    def last_event(self, output: torch.Tensor) -> dict:
        """The complete answers, with "ids" up to and including each end token, and how each ended."""
        rows = output[:, self.start :].tolist()
        ids = [row[: self._answer_length(row) + 1] for row in rows]
        ends = [self._end(n, row) for n, row in enumerate(ids)]
        tokens = output.shape[1] - self.start
        return {"texts": self._texts(rows), "ids": ids, "ends": ends, "tokens": tokens, "end": True}

    def _end(self, n: int, ids: list[int]) -> dict:
        """How the answer of row `n` ended; see `generate_answers`."""
        seconds = self.ended_after.get(n, time.monotonic() - self.began)
        unfinished = "stopped" if self.stop.is_set() else "limit"
        return {
            "finish": "end" if ids and ids[-1] in self.end_ids else unfinished,
            "tokens": len(ids),
            "seconds": seconds,
        }

    def _texts(self, rows: list[list[int]]) -> list[str]:
        return [self._text(ids) for ids in rows]

    def _text(self, ids: list[int]) -> str:
        """The text of an answer without a character at its end of which tokens are missing.

        Such a character decodes to U+FFFD, and where tokens are bytes all complete characters before it do so too: the
        longest text is the one without its bytes.
        """
        ids = ids[: self._answer_length(ids)]
        text = ""
        for unfinished in range(min(MAX_UNFINISHED, len(ids)) + 1):
            decoded = str(self.tokenizer.decode(ids[: len(ids) - unfinished], skip_special_tokens=True))
            shown = decoded.rstrip(UNFINISHED)
            text = max(text, shown, key=_readable_length)
            if shown == decoded:
                break
        return text.strip()

    def _answer_length(self, ids: list[int]) -> int:
        """Tokens before the first end token, or all."""
        return next((at for at, token in enumerate(ids) if token in self.end_ids), len(ids))


def _readable_length(text: str) -> int:
    """Characters that aren't U+FFFD."""
    return len(text) - text.count(UNFINISHED)
