"""Answer the rows of a data set, greedily and with prompts as in chat, for evaluation and samples during training."""

import threading
from collections.abc import Generator, Iterator, Sequence

from peft import PeftModel
from transformers import PreTrainedModel

from playground.chat.generate import Prompt, generate_answers
from playground.data.source import Row
from playground.data.template import Template, turns
from playground.eval.metrics import Answer
from playground.memory.meter import is_out_of_memory
from playground.memory.release import release_memory
from playground.model.adapt import ADAPTER_NAME
from playground.model.tokenizer import model_eos_ids
from playground.settings import Generation

MIN_TOKENS, MAX_TOKENS = 24, 64  # bounds of an answer's token limit


def answer_token_limit(rows: Sequence[Row], template: Template) -> int:
    """Return an answer's token limit: enough for the longest reference with its end, within bounds to stay quick."""
    questions = [row for row in rows if template.has_prompt(row)]
    return min(MAX_TOKENS, max([MIN_TOKENS, *(len(answer) for _, answer in template.tokens(questions))]))


def answerable_rows(
    rows: Sequence[Row], template: Template, max_seq_length: int, context_length: int | None
) -> list[Row]:
    """Return the rows that can be answered: not text alone, and not prompts too long to be trained on either.

    max_seq_length: tokens of a training row. context_length: the model's positions, which prompt and answer share where
    there is no encoder; None if unlimited.
    """
    room = max_seq_length
    if context_length and not template.encoder:
        room = min(room, context_length - answer_token_limit(rows, template) + 1)
    return [row for row in rows if template.has_prompt(row) and len(prompt_ids(row, template)) < room]


def prompt_ids(row: Row, template: Template) -> list[int]:
    """Return the tokens of a row's question in the template."""
    return template.ids(turns(row), row.systems)


def answer_rows(
    model: PreTrainedModel | PeftModel,
    template: Template,
    rows: Sequence[Row],
    sides: Sequence[str],
    max_new_tokens: int,
    stop: threading.Event,
) -> Generator[dict, None, dict[str, list[Answer]] | None]:
    """Answer every row on each side ("base", "tuned"); yield `progress` events, return the answers by side.

    Returns None if stopped before the end. Raises RuntimeError if there isn't enough memory for a single row.
    """
    prompts = [prompt_ids(row, template) for row in rows]
    end_ids = sorted({*template.end_ids(), *model_eos_ids(model)})
    answers = {}
    for number, side in enumerate(sides):
        # A side at a time: rows that all go with or without the adapter need no separation in every layer.
        side_prompts = [Prompt(ids, ADAPTER_NAME if side == "tuned" else None) for ids in prompts]
        complete: list[tuple[str, list[int]]] = []
        for complete, done in _answer_in_batches(model, template, side_prompts, end_ids, max_new_tokens, stop):  # noqa: B007
            rows_done = round(len(rows) * (number + done) / len(sides), 1)
            yield {"kind": "progress", "done": rows_done, "total": len(rows), "unit": "rows"}
        if stop.is_set():
            return None
        answers[side] = [
            Answer(
                template.answer(text),
                [token for token in ids if token not in end_ids],
                closed=bool(ids) and ids[-1] in end_ids,
            )
            for text, ids in complete
        ]
    return answers


def _answer_in_batches(
    model: PreTrainedModel | PeftModel,
    template: Template,
    prompts: Sequence[Prompt],
    end_ids: list[int],
    max_new_tokens: int,
    stop: threading.Event,
) -> Iterator[tuple[list[tuple[str, list[int]]], float]]:
    """Answer all prompts at once, halving the batch each time memory runs out.

    Yields the complete answers as (text, token ids), and the share of the work that is done, 0 to 1.
    """
    complete: list[tuple[str, list[int]]] = []
    batch_size = len(prompts)
    while len(complete) < len(prompts) and not stop.is_set():
        batch, event = prompts[len(complete) : len(complete) + batch_size], None
        try:
            for event in generate_answers(
                model, template.tokenizer, batch, end_ids, Generation(max_new_tokens=max_new_tokens), stop
            ):
                yield complete, (len(complete) + len(batch) * event["tokens"] / max_new_tokens) / len(prompts)
        except RuntimeError as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
            batch_size, event = -(-batch_size // 2), None
        if event is None:
            release_memory()  # now that the error and the tensors in its frames are gone
        else:
            complete = complete + list(zip(event["texts"], event["ids"]))
            yield complete, len(complete) / len(prompts)
