"""Base and tuned answers from one batch over one copy of the frozen weights.

Each row of the batch names its adapter (PEFT's mixed batches); a row named `__base__` runs through the bare layers. Where
rows can't be told apart inside the model, base answers first and tuned after it, still over the one copy of the weights.
"""

import functools
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from playground.model.adapt import ADAPTER_NAME
from playground.settings import Generation

BASE = "__base__"  # PEFT's name for "no adapter"


@dataclass(frozen=True)
class Prompt:
    """One row to be answered: its prompt's tokens, and whether the adapter answers."""

    ids: list[int]
    tuned: bool


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Prompt],
    ends: Sequence[int],
    generation: Generation,
    stop: threading.Event,
) -> Iterator[dict]:
    """Answer all rows at once; yield {"texts": [...], "tokens": n} as they grow, the last one complete.

    Where all rows are of one side, the last one also has "ids": each answer's tokens, with the one that closes it if it was written.
    With beams no text is known before the end: until then only `tokens` grows. Ends early, with what there is, once
    `stop` is set. `ends`: the tokens that close an answer.
    """
    if len({a.tuned for a in asked}) == 2 and not _mixes(model):
        yield from _one_after_the_other(model, tokenizer, asked, ends, generation, stop)
        return
    events: queue.Queue = queue.Queue()
    begun = (
        1 if model.config.is_encoder_decoder else max(len(a.ids) for a in asked)
    )  # tokens before an answer: the decoder's start, or the prompt
    writer = _Writer(tokenizer, begun, generation, stop, events, ends)

    def run() -> None:
        try:
            with torch.no_grad():
                found = _generate(model, tokenizer, asked, ends, generation, writer)
            written = found[:, begun:].tolist()
            events.put(
                {
                    "texts": writer.texts(written),
                    "ids": [ids[: writer.end(ids) + 1] for ids in written],
                    "tokens": found.shape[1] - begun,
                    "end": True,
                }
            )
        except BaseException as error:  # handed over to the thread that reads the answers
            events.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ended = False
    try:
        while not ended:
            event = events.get()
            ended = isinstance(event, BaseException) or event.pop("end", False)
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        if not ended:  # nobody reads on: don't leave it writing
            stop.set()
        thread.join()


def _mixes(model: PeftModel) -> bool:
    """Whether the adapter can answer some rows of a batch alone: PEFT can't with DoRA, nor can experts that get some tokens of any row."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, LoraLayer)]
    return not any(m.use_dora.get(ADAPTER_NAME) or "experts" in name.split(".") for name, m in layers)


def _one_after_the_other(model, tokenizer, asked, ends, generation, stop) -> Iterator[dict]:
    """As `answers`, the rows without the adapter first; `tokens` is the mean over all rows."""
    texts, written = [""] * len(asked), 0
    for tuned in (False, True):
        rows, event = [n for n, a in enumerate(asked) if a.tuned == tuned], {"tokens": 0}
        for event in generate_answers(model, tokenizer, [asked[n] for n in rows], ends, generation, stop):
            for n, text in zip(rows, event.get("texts", ())):
                texts[n] = text
            known = {"texts": list(texts)} if "texts" in event else {}
            yield {"tokens": (written + event["tokens"] * len(rows)) // len(asked), **known}
        written += event["tokens"] * len(rows)


@contextmanager
def _row_by_row(model: PeftModel, rows: int) -> Iterator[None]:
    """Within it, adapted layers that get all rows' tokens in one line (OPT's) see them in rows, by which PEFT picks."""

    def seen(run, x, *args, **kwargs):
        if x.dim() > 2 or len(x) == rows:
            return run(x, *args, **kwargs)
        return run(x.view(rows, -1, x.shape[-1]), *args, **kwargs).flatten(0, 1)

    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    for layer in layers:
        layer.forward = functools.partial(seen, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


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
        "max_new_tokens": generation.max_new_tokens,
        "num_beams": generation.num_beams,
        "do_sample": generation.temperature > 0,
        "repetition_penalty": generation.repetition_penalty,
        "eos_token_id": sorted({*ends}),
        "pad_token_id": pad,
    }
    if generation.temperature > 0:
        wanted |= {"temperature": generation.temperature, "top_p": generation.top_p, "top_k": generation.top_k}
    torch.manual_seed(generation.seed)
    model.eval()
    sides, way = {a.tuned for a in asked}, nullcontext()
    if sides == {True, False}:
        wanted["adapter_names"] = [ADAPTER_NAME if a.tuned else BASE for a in asked]
        way = _row_by_row(model, len(asked) * generation.num_beams)
    elif isinstance(model, PeftModel) and sides == {False}:
        way = model.disable_adapter()
    with way, _head_in_one_product(model):
        return model.generate(input_ids=ids, attention_mask=mask, stopping_criteria=[writer], **wanted)


@contextmanager
def _head_in_one_product(model: PreTrainedModel) -> Iterator[None]:
    """Within it, the head multiplies all rows at once.

    A model hands it the last token of each prompt as a view with gaps. Of those, torch makes a product a row, and on a CPU
    a copy of the head for each: 2.4 GiB and 13 s for 45 prompts of a 135 M model.
    """
    head = model.get_output_embeddings()
    hook = (
        head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
        if head is not None
        else None
    )
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


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

    def end(self, ids: list[int]) -> int:
        """Where an answer is closed, or how long it is."""
        return next((at for at, token in enumerate(ids) if token in self.ends), len(ids))

    def _text(self, ids: list[int]) -> str:
        # A character of several tokens shows as U+FFFD until its last one is there.
        return self.tokenizer.decode(ids[: self.end(ids)], skip_special_tokens=True).rstrip("\ufffd").strip()
