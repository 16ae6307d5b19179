"""Base and tuned answers from one batch over one copy of the frozen weights.

Each row of the batch names its adapter (PEFT's mixed batches); a row named `__base__` runs through the bare layers.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from playground.model.adapt import TUNED
from playground.settings import Generation

BASE = "__base__"  # PEFT's name for "no adapter"


@dataclass(frozen=True)
class Asked:
    """One row to be answered: its prompt's tokens, and whether the adapter answers."""

    ids: list[int]
    tuned: bool


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Asked], ends: Sequence[int],
    generation: Generation, stop: threading.Event,
) -> Iterator[dict]:  # fmt: skip
    """Answer all rows at once; yield {"texts": [...], "tokens": n} as they grow, the last one complete.

    With beams no text is known before the end: until then only `tokens` grows. Ends early, with what there is, once
    `stop` is set. `ends`: the tokens that close an answer.
    """
    events: queue.Queue = queue.Queue()
    begun = 1 if model.config.is_encoder_decoder else max(len(a.ids) for a in asked)  # tokens before an answer: the decoder's start, or the prompt
    writer = _Writer(tokenizer, begun, generation, stop, events, ends)

    def run() -> None:
        try:
            with torch.no_grad():
                found = _generate(model, tokenizer, asked, ends, generation, writer)
            events.put({"texts": writer.texts(found[:, begun:].tolist()), "tokens": found.shape[1] - begun, "end": True})
        except BaseException as error:  # handed over to the thread that reads the answers
            events.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ended = False
    try:
        while not ended:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            ended = event.pop("end", False)
            yield event
    finally:
        if not ended:  # nobody reads on: don't leave it writing
            stop.set()
        thread.join()


def _generate(model, tokenizer, asked, ends, generation, writer) -> torch.Tensor:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    width = max(len(a.ids) for a in asked)

    def padded(row: list[int], filler: int) -> list[int]:
        """On the side where nothing is written: an answer goes on where its prompt ends, but for an encoder's."""
        gap = [filler] * (width - len(row))
        return row + gap if model.config.is_encoder_decoder else gap + row

    ids = torch.tensor([padded(a.ids, pad) for a in asked], device=model.device)
    mask = torch.tensor([padded([1] * len(a.ids), 0) for a in asked], device=model.device)
    wanted = {
        "max_new_tokens": generation.max_new_tokens, "num_beams": generation.num_beams, "do_sample": generation.temperature > 0,
        "repetition_penalty": generation.repetition_penalty, "eos_token_id": sorted({*ends}), "pad_token_id": pad,
    }  # fmt: skip
    if generation.temperature > 0:
        wanted |= {"temperature": generation.temperature, "top_p": generation.top_p, "top_k": generation.top_k}
    torch.manual_seed(generation.seed)
    model.eval()
    sides = {a.tuned for a in asked}
    if sides == {True, False}:
        wanted["adapter_names"] = [TUNED if a.tuned else BASE for a in asked]
    bare = model.disable_adapter() if isinstance(model, PeftModel) and sides == {False} else nullcontext()
    with bare:
        return model.generate(input_ids=ids, attention_mask=mask, stopping_criteria=[writer], **wanted)


class _Writer(StoppingCriteria):
    """Called after every token: says what is written so far, and stops when asked to."""

    def __init__(self, tokenizer, begun, generation, stop, events, ends):
        self.tokenizer, self.begun, self.stop, self.events = tokenizer, begun, stop, events
        self.whole_only, self.ends = generation.num_beams > 1, set(ends)

    def __call__(self, input_ids, scores, **kwargs):
        event = {"tokens": input_ids.shape[1] - self.begun}
        if not self.whole_only:
            event["texts"] = self.texts(input_ids[:, self.begun :].tolist())
        self.events.put(event)
        return torch.full((input_ids.shape[0],), self.stop.is_set(), device=input_ids.device)

    def texts(self, rows: list[list[int]]) -> list[str]:
        return [self._text(ids) for ids in rows]

    def _text(self, ids: list[int]) -> str:
        end = next((at for at, token in enumerate(ids) if token in self.ends), len(ids))
        # A character of several tokens shows as U+FFFD until its last one is there.
        return self.tokenizer.decode(ids[:end], skip_special_tokens=True).rstrip("\ufffd").strip()
