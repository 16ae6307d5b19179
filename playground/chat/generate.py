"""Answers of the base and the tuned model from one batch, over one copy of the frozen weights.

Each row of the batch names its adapter (PEFT's mixed batches); a row named `__base__` skips the adapter. Where the
model can't treat rows separately, the base rows are answered first and the tuned ones after them, still over the one
copy of the weights.
"""

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from playground import compat
from playground.chat.generation_config import (
    depends_on_longest,
    generation_config,
    only_generation_config,
    with_own_settings,
)
from playground.model.adapt import ADAPTER_NAME
from playground.settings import Generation

UNFINISHED = "\ufffd"  # what a character decodes to of which tokens are missing
MAX_UNFINISHED = 3  # bytes of an unfinished character; a character has up to four in UTF-8


@dataclass(frozen=True)
class Prompt:
    """One row to answer: the tokens of its prompt, and whether the tuned model (with the adapter) answers it."""

    ids: list[int]
    tuned: bool


def generate_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    end_ids: Sequence[int],
    generation: Generation,
    stop: threading.Event,
) -> Iterator[dict]:
    """Answer all prompts, in one batch where `batches` allows it.

    Yields {"texts": [...], "tokens": n} as answers grow, the last event complete.

    end_ids: tokens that end an answer. The last event also has "ends": how each answer ended, as {"finish", "tokens",
    "seconds"}. finish: "end" (by an end token), "limit" (cut at max_new_tokens) or "stopped"; tokens: with the end
    token; seconds: from the start of its batch until its own last token; and "ids": each answer's tokens, including its
    end token if one was written. With beam search texts are only known at the end: until then events have just
    "tokens". Once `stop` is set, ends early with the answers so far.

    Errors of the generating thread are raised here. Closing the iterator early sets `stop` and waits for the thread.
    """
    generation = with_own_settings(model, generation)
    groups = batches(model, prompts, generation.max_new_tokens)
    if len(groups) > 1:
        yield from _generate_in_turn(model, tokenizer, prompts, groups, end_ids, generation, stop)
        return
    events: queue.Queue[dict | BaseException] = queue.Queue()
    # tokens in front of an answer: the decoder's start token, or the prompt
    start = 1 if model.config.is_encoder_decoder else max(len(prompt.ids) for prompt in prompts)
    streamer = _AnswerStreamer(tokenizer, start, generation, stop, events.put, end_ids)

    def run() -> None:
        try:
            with torch.no_grad():
                output = _generate_batch(model, tokenizer, prompts, end_ids, generation, streamer)
            events.put(streamer.last_event(output))
        except BaseException as error:  # raised again in the thread that reads the events
            events.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    finished = False
    try:
        while not finished:
            event = events.get()
            if isinstance(event, BaseException):
                finished = True
                raise event
            finished = event.pop("end", False)
            yield event
    finally:
        if not finished:  # the reader left early: don't keep generating
            stop.set()
        thread.join()


TOKENS_FIRST = ("fsmt", "led")  # families that compute on (tokens, rows, features)


def supports_mixed_batches(model: torch.nn.Module) -> bool:
    """Whether an adapter can be applied to some rows of a batch only.

    PEFT can't do that with DoRA, in experts, which get some tokens of any row, nor where tokens come before rows.
    """
    if getattr(getattr(model, "config", None), "model_type", None) in TOKENS_FIRST:
        return False
    if any(".modules_to_save." in name or name.endswith(".token_adapter") for name, _ in model.named_modules()):
        return False  # PEFT can, but for embeddings
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    return not any(layer.use_dora.get(ADAPTER_NAME) or "experts" in name.split(".") for name, layer in layers)


def batches(model: PreTrainedModel | PeftModel, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
    """The numbers of the prompts that are answered in one batch each, in the order in which the batches are answered.

    All in one, unless an adapter can't be applied to some rows of a batch only, or a longer row would change the
    answers to shorter ones.
    """
    longest = max(len(prompt.ids) for prompt in prompts)
    unequal = any(len(prompt.ids) != longest for prompt in prompts)
    if unequal and depends_on_longest(model.config, longest + max_new_tokens):
        return [[number] for number in range(len(prompts))]
    sides = [[n for n, prompt in enumerate(prompts) if prompt.tuned == tuned] for tuned in (False, True)]
    if all(sides) and not supports_mixed_batches(model):
        return sides
    return [list(range(len(prompts)))]


def _generate_in_turn(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    groups: list[list[int]],
    end_ids: Sequence[int],
    generation: Generation,
    stop: threading.Event,
) -> Iterator[dict]:
    """As `generate_answers`, but one batch after the other; "tokens" is the mean over all rows."""
    texts, finished_tokens = [""] * len(prompts), 0
    ends: list[dict] = [{}] * len(prompts)
    ids: list[list[int]] = [[]] * len(prompts)
    for rows in groups:
        event: dict[str, Any] = {"tokens": 0}
        for event in generate_answers(model, tokenizer, [prompts[n] for n in rows], end_ids, generation, stop):
            for name, values in (("texts", texts), ("ends", ends), ("ids", ids)):
                for n, value in zip(rows, event.get(name, ())):
                    values[n] = value
            known: dict[str, Any] = {"texts": list(texts)} if "texts" in event else {}
            if all(ends):
                known |= {"ends": ends, "ids": ids}
            yield {"tokens": (finished_tokens + event["tokens"] * len(rows)) // len(prompts), **known}
        finished_tokens += event["tokens"] * len(rows)


def _generate_batch(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    end_ids: Sequence[int],
    generation: Generation,
    streamer: "_AnswerStreamer",
) -> torch.Tensor:
    """Run `model.generate` on the padded prompts; return its token ids, (rows, prompt and answer)."""
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_ids[0]
    ids, mask = _pad(prompts, pad_id, left=not model.config.is_encoder_decoder)
    options: dict[str, Any] = {}
    config = generation_config(model, generation, end_ids, pad_id)
    torch.manual_seed(generation.seed)
    model.eval()
    sides = {prompt.tuned for prompt in prompts}
    adapter_context: AbstractContextManager = nullcontext()
    if sides == {True, False}:
        options["num_beams"] = generation.num_beams  # by which PEFT repeats the names
        options["adapter_names"] = [ADAPTER_NAME if prompt.tuned else compat.BASE_ROWS for prompt in prompts]
        adapter_context = _restore_rows(model, len(prompts) * generation.num_beams)
    elif isinstance(model, PeftModel) and sides == {False}:
        adapter_context = model.disable_adapter()
    ids, mask = ids.to(model.device), mask.to(model.device)
    with adapter_context, _contiguous_head_input(model), only_generation_config(model, config):
        generate: Any = model.generate  # nn.Module's hint takes it for a tensor
        return generate(input_ids=ids, attention_mask=mask, stopping_criteria=[streamer], **options)


def _pad(prompts: Sequence[Prompt], pad_id: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, (rows, longest prompt).

    left: a decoder continues where its prompt ends, so the padding goes in front; an encoder's goes behind.
    """
    width = max(len(prompt.ids) for prompt in prompts)

    def pad_row(row: list[int], value: int) -> list[int]:
        padding = [value] * (width - len(row))
        return padding + row if left else row + padding

    ids = torch.tensor([pad_row(prompt.ids, pad_id) for prompt in prompts])
    return ids, torch.tensor([pad_row([1] * len(prompt.ids), 0) for prompt in prompts])


@contextmanager
def _restore_rows(model: torch.nn.Module, rows: int) -> Iterator[None]:
    """Give adapted layers (rows, tokens, features) as input where a model flattens it to (rows * tokens, features).

    OPT does; PEFT picks the adapter by row.
    """

    def forward(original: Callable, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if x.dim() > 2 or len(x) == rows:
            return original(x, *args, **kwargs)
        return original(x.view(rows, -1, x.shape[-1]), *args, **kwargs).flatten(0, 1)

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.forward = functools.partial(forward, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


@contextmanager
def _contiguous_head_input(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Make the output head multiply all rows at once.

    A model gives its head the last token of each prompt as a strided view. For those torch computes one product a row,
    and on a CPU copies the head for each: 2.4 GiB and 13 s for 45 prompts of a 135 M model.
    """
    head = model.get_output_embeddings()
    hook = None
    if head is not None:
        hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


class _AnswerStreamer(StoppingCriteria):
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
