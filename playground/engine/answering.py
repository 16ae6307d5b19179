"""Answer rows in the phase `chat`: check their prompts, stream their texts, predict and measure their memory."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from playground.chat.generate import Prompt, generate_answers
from playground.data.template import Template
from playground.engine import predictions
from playground.engine.job import JobContext
from playground.errors import problem
from playground.model.embedding import first_unknown_token
from playground.model.language_part import max_context_length
from playground.model.load import LoadedModel
from playground.model.tokenizer import model_eos_ids
from playground.settings import Generation, Settings

MIN_ANSWER_TOKENS = 16  # a conversation that leaves fewer to the answer is too long for the model


@dataclass(frozen=True)
class AnswerRow:
    """A prompt to answer, and the template that it was written with."""

    template: Template
    prompt: Prompt


def check_rows(loaded: LoadedModel, rows: Sequence[AnswerRow], generation: Generation) -> Generation:
    """The generation with its answers limited to the positions that the longest prompt leaves free.

    Raises PlaygroundError where a prompt has tokens that the model doesn't know, or is too long for it.
    """
    prompts = [row.prompt for row in rows]
    unknown = first_unknown_token(loaded, (token for prompt in prompts for token in prompt.ids))
    if unknown:
        raise problem("error.token_in_prompt", token=unknown.token, id=unknown.id, rows=unknown.rows)
    return _fit_context(loaded, longest_prompt(rows), generation)


def longest_prompt(rows: Sequence[AnswerRow]) -> int:
    """Tokens of the longest prompt."""
    return max(len(row.prompt.ids) for row in rows)


def stream_answers(
    context: JobContext,
    loaded: LoadedModel,
    rows: Sequence[AnswerRow],
    generation: Generation,
    named: Callable[[list[str]], dict],
) -> Generator[dict, None, list[dict]]:
    """Yield `answer` events {**named(each row's text so far), "tokens"}, and `progress` of beam search.

    Returns how each answer ended: {"finish" (generate_answers), "tokens", "tokens_per_s" (until its own end)}.
    """
    event: dict = {}
    ends = sorted({*model_eos_ids(loaded.model), *(id for row in rows for id in row.template.end_ids())})
    prompts = [row.prompt for row in rows]
    for event in generate_answers(loaded.model, loaded.tokenizer, prompts, ends, generation, context.stop):
        if "texts" in event:
            texts = [row.template.answer(text) for row, text in zip(rows, event["texts"])]
            yield {"kind": "answer", **named(texts), "tokens": event["tokens"]}
        else:
            total = generation.max_new_tokens
            yield {"kind": "progress", "done": event["tokens"], "total": total, "unit": "tokens"}
    return [
        {
            "finish": end["finish"],
            "tokens": end["tokens"],
            "tokens_per_s": round(end["tokens"] / max(end["seconds"], 1e-9), 1),
        }
        for end in event["ends"]
    ]


class ChatMemory:
    """The memory of the phase `chat`: measured from here on, and predicted at its end, so that no answer waits."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        context.peaks.start_phase()
        self._outside = predictions.memory_outside_tensors(context.bytes_by_part())

    def events(
        self, settings: Settings, loaded: LoadedModel, sequences: int, tokens: int, adapters: int = 0
    ) -> Iterator[dict]:
        """The events `memory_predicted` and `memory_measured`; arguments as of predictions.predict_chat_memory."""
        context = self._context
        measured = predictions.measured_memory_event("chat", context.peaks, context.bytes_by_part())
        if context.predicts_answers:
            yield from predictions.predict_chat_memory(settings, loaded, sequences, tokens, self._outside, adapters)
        yield measured


def _fit_context(loaded: LoadedModel, prompt_length: int, generation: Generation) -> Generation:
    """An encoder-decoder model has all positions for each of prompt and answer."""
    longest = max_context_length(loaded.model.config)
    if not longest:
        return generation
    separate = loaded.model.config.is_encoder_decoder
    room = longest if separate else longest - prompt_length
    least = min(MIN_ANSWER_TOKENS, generation.max_new_tokens)
    if room < least or prompt_length > longest:
        raise problem("error.context", used=prompt_length + least, longest=longest)
    return replace(generation, max_new_tokens=min(generation.max_new_tokens, room))
