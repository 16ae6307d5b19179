"""The job `chat`: answer the last turn of the base model's and the tuned model's conversation."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace

from peft import PeftModel

from playground import runs
from playground.chat.generate import Prompt, batches
from playground.chat.generation_config import own_settings
from playground.data.template import Template, Turn
from playground.data.template_choice import choose_template_for
from playground.engine.answering import AnswerRow, ChatMemory, check_rows, longest_prompt, stream_answers
from playground.engine.foreign_adapter import adapter_tokenizer, find_adapter
from playground.engine.job import JobContext, JobResult
from playground.engine.load import ensure_loaded
from playground.engine.model_slot import Adapter, ModelSlot, adapter_of
from playground.model.adapt import ADAPTER_NAME
from playground.model.adapter_check import base_name
from playground.model.load import LoadedModel
from playground.settings import Generation, Settings

Sides = dict[str, list[dict]]  # "base" and "tuned" → turns {"instruction", "answer"}


@dataclass
class ChatResult(JobResult):
    """adapter: id of the run that answered on the tuned side, or name of one from elsewhere. template: its name.

    sides: by side, how its answer ended: {"finish" (generate_answers), "tokens", "tokens_per_s" (until its own end)}.
    together: whether both sides were answered in one batch, so that the slower one held the other up.
    """

    adapter: str | None
    template: str
    sides: dict[str, dict] = field(default_factory=dict)
    together: bool = False


def chat(
    context: JobContext,
    slot: ModelSlot,
    settings: Settings,
    tuned: runs.Run | str | None,
    sides: Sides,
    generation: Generation,
) -> Generator[dict, None, ChatResult]:
    """Answer all sides.

    tuned: the run whose fine-tune answers on the tuned side, or an adapter from elsewhere; see Workbench.chat.
    """
    if isinstance(tuned, str):
        loaded = yield from _load_with_foreign_adapter(context, slot, settings, tuned)
    elif tuned and tuned.model.is_dir():
        return (yield from _chat_after_full_fine_tune(context, slot, settings, tuned, sides, generation))
    else:
        loaded = yield from ensure_loaded(context, slot, settings.load)
        yield from switch_adapter(slot, tuned)
    return (yield from _answer(context, slot, loaded, settings, sides, generation))


def _chat_after_full_fine_tune(
    context: JobContext, slot: ModelSlot, settings: Settings, run: runs.Run, sides: Sides, generation: Generation
) -> Generator[dict, None, ChatResult]:
    """A full fine-tune is a model of its own: the sides answer one after the other, since only one model fits."""
    adapter = adapter_of(run)
    data = replace(settings.data, prompt_format=adapter.template, custom_format=adapter.custom_format)
    answers: dict[str, str] = {}
    ends: dict[str, dict] = {}
    for side, model in (("base", settings.load.model), ("tuned", str(run.model))):
        if side not in sides:
            continue
        of_side = replace(settings, load=replace(settings.load, model=model), data=data)
        events = chat(context, slot, of_side, None, {"base": sides[side]}, generation)
        result = yield from _as_side(side, events, answers)
        ends[side] = result.sides["base"]
    return ChatResult(run.id, adapter.template, ends)


def _as_side(
    side: str, events: Generator[dict, None, ChatResult], answers: dict[str, str]
) -> Generator[dict, None, ChatResult]:
    """Pass on the events of a chat with one model, its answer as that of `side`, next to the `answers` before it."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value
        if event["kind"] == "answer":
            answers[side] = event.pop("base")
            event |= answers
        yield event


def _load_with_foreign_adapter(
    context: JobContext, slot: ModelSlot, settings: Settings, adapter: str
) -> Generator[dict, None, LoadedModel]:
    """Load the model of the settings with an adapter from elsewhere, once that was found to fit."""
    found = yield from find_adapter(context, slot, adapter, settings.load)
    loaded = yield from ensure_loaded(context, slot, settings.load)
    slot.unload_adapter()  # its files may have changed since the last question
    yield {"kind": "phase", "name": "prepare"}
    identity = Adapter(adapter, settings.data.prompt_format, settings.data.custom_format)
    slot.load_adapter(found.folder, identity, found.config)
    tokenizer = yield from adapter_tokenizer(found.folder, loaded)
    slot.adapter = replace(identity, tokenizer=tokenizer)
    return loaded


def switch_adapter(slot: ModelSlot, run: runs.Run | None) -> Generator[dict, None, None]:
    """Make the adapter of this run, or none, the one on the model."""
    if [adapter.id for adapter in slot.adapters] == ([run.id] if run else []):
        return
    slot.unload_adapter()
    if run:
        yield {"kind": "phase", "name": "prepare"}
        slot.load_adapter(run.adapter, adapter_of(run))
        yield from _loftq_note(slot, run)


def _loftq_note(slot: ModelSlot, run: runs.Run) -> Iterator[dict]:
    """That the adapter makes up for another quantization than the model's."""
    trained, loaded_as = run.settings(), slot.loaded_as
    if loaded_as and trained.lora.init == "loftq" and loaded_as.bits != trained.load.bits:
        values = {"bits": loaded_as.bits, "trained": trained.load.bits}
        yield {"kind": "note", "key": "note.loftq_other_bits", "values": values}


def _answer(
    context: JobContext,
    slot: ModelSlot,
    loaded: LoadedModel,
    settings: Settings,
    sides: Sides,
    generation: Generation,
) -> Generator[dict, None, ChatResult]:
    """Answer both sides in one batch, the adapter applied to the tuned one only."""
    prompt_format, custom_format = settings.data.prompt_format, settings.data.custom_format
    if slot.adapter:
        prompt_format, custom_format = slot.adapter.template, slot.adapter.custom_format
        loaded = replace(loaded, tokenizer=slot.adapter.tokenizer or loaded.tokenizer)
    questions = [turn["instruction"] for turns in sides.values() for turn in turns]
    template, notes = choose_template_for(loaded, prompt_format, questions, custom_format)
    yield from notes
    yield from own_settings_note(loaded, generation)
    has_adapter = isinstance(loaded.model, PeftModel)
    names = [side for side in ("base", "tuned") if side in sides and (side == "base" or has_adapter)]
    rows = [AnswerRow(template, _prompt(template, sides[side], side == "tuned")) for side in names]
    generation = check_rows(loaded, rows, generation)
    yield {"kind": "phase", "name": "chat"}
    memory = ChatMemory(context)
    events = stream_answers(context, loaded, rows, generation, lambda texts: dict(zip(names, texts)))
    ends = dict(zip(names, (yield from events)))
    tokens = longest_prompt(rows) + max(end["tokens"] for end in ends.values())
    yield from memory.events(settings, loaded, len(rows) * generation.num_beams, tokens)
    prompts = [row.prompt for row in rows]
    together = len(prompts) > 1 and len(batches(loaded.model, prompts, generation.max_new_tokens)) == 1
    return ChatResult(display_name(slot.adapter), template.name, ends, together)


def display_name(adapter: Adapter | None) -> str | None:
    """The id of a run, a hub id, or of a path the last part: what a run's events say of an adapter."""
    return base_name(adapter.id) if adapter else None


def own_settings_note(loaded: LoadedModel, generation: Generation) -> Iterator[dict]:
    """The settings of the model's own generation config that are used, or aren't."""
    found = [f"{name} {value}" for name, value in own_settings(loaded.model).items()]
    if found:
        key = "note.own_settings_used" if generation.model_defaults else "note.own_settings_unused"
        yield {"kind": "note", "key": key, "values": {"settings": found}}


def _prompt(template: Template, turns: list[dict], tuned: bool) -> Prompt:
    ids = template.ids([Turn(turn["instruction"], turn.get("answer")) for turn in turns])
    return Prompt(ids, ADAPTER_NAME if tuned else None)
