"""The job `chat` with the adapters of several runs: the same question to each of them, over one copy of the weights."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from playground import runs
from playground.chat.generate import Prompt, batches
from playground.data.template import Template, Turn
from playground.data.template_choice import choose_template_for
from playground.engine.answering import AnswerRow, ChatMemory, check_rows, longest_prompt, stream_answers
from playground.engine.chat import own_settings_note, switch_adapter
from playground.engine.job import JobContext, JobResult
from playground.engine.load import ensure_loaded
from playground.engine.model_slot import ADAPTER_NAMES, ModelSlot, adapter_of
from playground.errors import Problem, problem
from playground.json_values import read_small_json
from playground.model.adapter_check import is_same_base
from playground.model.adapter_file import CHANGES_BASE, tensor_shapes
from playground.model.adapter_folder import CONFIG
from playground.model.load import LoadedModel
from playground.settings import Generation, Load, Settings, raise_all, stored_quant_type

LEAST, MOST = 2, len(ADAPTER_NAMES)  # adapters that are compared
WAITING: dict = {"finish": "stopped", "tokens": 0, "tokens_per_s": 0.0}  # of an answer that was stopped before it began


@dataclass
class AdaptersChatResult(JobResult):
    """sides: how each answer ended, as of ChatResult's sides: {"base": end, "adapters": {run id: end}}.

    template: by which the base was asked. together: whether all were answered in one batch.
    """

    sides: dict
    template: str
    together: bool


def comparable_runs(root: Path, run_ids: Sequence[str]) -> list[runs.Run]:
    """The runs whose adapters are compared. Raises PlaygroundError with everything that speaks against it:

    fewer than two or more than four runs, the same twice, one without an adapter, or bases that differ.
    """
    if not LEAST <= len(run_ids) <= MOST:
        raise problem("adapters.error.count", count=len(run_ids), least=LEAST, most=MOST)
    twice = next((run_id for run_id in run_ids if list(run_ids).count(run_id) > 1), None)
    if twice is not None:
        raise problem("adapters.error.twice", run=twice)
    chosen = [runs.find(root, run_id) for run_id in run_ids]
    lacking = [run for run in chosen if not (run.adapter / CONFIG).is_file()]
    raise_all([_lacking_problem(run) for run in lacking])
    raise_all(_base_problems(chosen))
    return chosen


def _lacking_problem(run: runs.Run) -> Problem:
    if run.model.is_dir():
        return Problem("adapters.error.full", {"run": run.id})
    return Problem("error.no_adapter", {"run": run.id})


def _base_problems(chosen: Sequence[runs.Run]) -> list[Problem]:
    """A problem for each setting by which bases differ, with the first run whose base was loaded otherwise."""
    first, *others = chosen
    load = first.settings().load
    found: dict[str, Problem] = {}
    for run in others:
        for name, here, there in _differences(load, run.settings().load):
            found.setdefault(
                name,
                Problem(
                    "adapters.error.base",
                    {"field": name, "run": first.id, "value": here, "other": run.id, "given": there},
                ),
            )
    return list(found.values())


def _differences(one: Load, other: Load) -> list[tuple[str, Any, Any]]:
    """(setting, its values) of those that decide what a base model's weights are and what they are computed in."""
    if not (one.model == other.model or is_same_base(one.model, other.model) or is_same_base(other.model, one.model)):
        return [("load.model", one.model, other.model)]
    names = ["bits"]
    if one.bits == other.bits:
        names += ["dtype"] if one.bits != 32 else []
        names += {8: ["quant_type_8bit"], 4: ["double_quant"]}.get(one.bits, [])
    pairs = [(f"load.{name}", getattr(one, name), getattr(other, name)) for name in names]
    if one.bits == other.bits == 4:
        pairs.append(("load.quant_type", stored_quant_type(one), stored_quant_type(other)))
    return [(name, here, there) for name, here, there in pairs if here != there]


def chat_with_adapters(
    context: JobContext,
    slot: ModelSlot,
    chosen: Sequence[runs.Run],
    settings: Settings,
    question: str,
    generation: Generation,
) -> Generator[dict, None, AdaptersChatResult]:
    """Answer a question with the base model and each run's adapter, in one batch where that is possible.

    chosen: of comparable_runs. Yields `answer` events {"base": text, "adapters": {run id: text}, "tokens"}.
    """
    loaded = yield from ensure_loaded(context, slot, settings.load)
    yield from own_settings_note(loaded, generation)
    templates = yield from _templates(loaded, chosen, question)
    asked = _Question(context, slot, chosen, settings, loaded, generation, question, templates)
    reason = _reason_apart(chosen) or _formats_apart(templates)
    if reason:
        yield {"kind": "note", "key": reason, "values": {}}
        return (yield from _answer_in_turn(asked))
    return (yield from _answer_at_once(asked))


@dataclass(frozen=True)
class _Question:
    """A question to several adapters; templates: of each run, with which its adapter was trained."""

    context: JobContext
    slot: ModelSlot
    chosen: Sequence[runs.Run]
    settings: Settings
    loaded: LoadedModel
    generation: Generation
    text: str
    templates: Sequence[Template]

    def rows(self) -> list[AnswerRow]:
        """The base's row, in the first adapter's format, and that of each adapter in its own."""
        names = [None, *ADAPTER_NAMES[: len(self.chosen)]]
        templates = [self.templates[0], *self.templates]
        return [AnswerRow(t, Prompt(t.ids([Turn(self.text, None)]), name)) for t, name in zip(templates, names)]

    def named(self, values: Sequence) -> dict:
        """What belongs to each row, as {"base": value, "adapters": {run id: value}}."""
        return {"base": values[0], "adapters": {run.id: value for run, value in zip(self.chosen, values[1:])}}

    def result(self, ends: Sequence[dict], together: bool) -> AdaptersChatResult:
        """The job's result, from how each row's answer ended."""
        return AdaptersChatResult(self.named(ends), self.templates[0].name, together)


def _templates(loaded: LoadedModel, chosen: Sequence[runs.Run], question: str) -> Generator[dict, None, list[Template]]:
    """The template of each run, with notes about it, each note once."""
    templates, seen = [], []
    for adapter in map(adapter_of, chosen):
        template, notes = choose_template_for(loaded, adapter.template, [question], adapter.custom_format)
        templates.append(template)
        yield from (note for note in notes if note not in seen)
        seen += notes
    return templates


def _reason_apart(chosen: Sequence[runs.Run]) -> str | None:
    """The note's key where adapters of these kinds can't be on the model together, each for its own rows only."""
    configs = [_config(run) for run in chosen]
    if any(config.get("peft_type") != "LORA" or _changes_base(config) for config in configs):
        return "note.adapters_kinds"
    if any(config.get("use_dora") for config in configs):
        return "note.adapters_dora"
    names = [name for run in chosen for name in tensor_shapes(run.adapter)]
    if any(".lora_" not in name for name in names) or any(config.get("target_parameters") for config in configs):
        return "note.adapters_modules"
    return None


def _changes_base(config: dict) -> bool:
    return str(config.get("init_lora_weights")).lower().startswith(CHANGES_BASE)


def _config(run: runs.Run) -> dict:
    """A run's adapter_config.json. Raises PlaygroundError where it can't be read."""
    try:
        config = read_small_json(run.adapter / CONFIG)
        assert isinstance(config, dict)
        return config
    except (OSError, ValueError, AssertionError) as error:
        raise problem("error.adapter_config", path=f"{run.id}/{run.adapter.name}") from error


def _formats_apart(templates: Sequence[Template]) -> str | None:
    """The note's key where answers end differently, so that one batch would end some of them at others' tokens."""
    ends = [sorted(template.end_ids()) for template in templates]
    return "note.adapters_formats" if any(end != ends[0] for end in ends) else None


def _answer_at_once(asked: _Question) -> Generator[dict, None, AdaptersChatResult]:
    """All adapters on the model, each row with its own: one batch, or several where the model can't mix them."""
    if [adapter.id for adapter in asked.slot.adapters] != [run.id for run in asked.chosen]:
        asked.slot.unload_adapter()
        yield {"kind": "phase", "name": "prepare"}
        asked.slot.load_adapters([(run.adapter, adapter_of(run)) for run in asked.chosen])
    rows = asked.rows()
    generation = check_rows(asked.loaded, rows, asked.generation)
    parts = batches(asked.loaded.model, [row.prompt for row in rows], generation.max_new_tokens)
    if len(parts) > 1:
        yield {"kind": "note", "key": "note.adapters_model", "values": {}}
    yield {"kind": "phase", "name": "chat"}
    memory = ChatMemory(asked.context)
    ends = yield from stream_answers(asked.context, asked.loaded, rows, generation, asked.named)
    sequences = max(map(len, parts)) * generation.num_beams
    tokens = longest_prompt(rows) + max(end["tokens"] for end in ends)
    adapters = sum(_adapter_bytes(run, asked.loaded) for run in asked.chosen)
    yield from memory.events(asked.settings, asked.loaded, sequences, tokens, adapters)
    return asked.result(ends, together=len(parts) == 1)


def _answer_in_turn(asked: _Question) -> Generator[dict, None, AdaptersChatResult]:
    """The base first, then one adapter after the other on the same weights, read from disk as its turn comes."""
    rows = [_as_only_adapter(row) for row in asked.rows()]
    texts = [""] * len(rows)
    ends: list[dict] = [WAITING] * len(rows)

    def named(number: int, new: list[str]) -> dict:
        [texts[number]] = new
        return asked.named(texts)

    asked.slot.unload_adapter()
    memory = ChatMemory(asked.context)
    for number, (row, run) in enumerate(zip(rows, [None, *asked.chosen])):
        if asked.context.stop.is_set():
            break
        yield from switch_adapter(asked.slot, run)
        generation = check_rows(asked.loaded, [row], asked.generation)
        yield {"kind": "phase", "name": "chat"}
        events = stream_answers(asked.context, asked.loaded, [row], generation, partial(named, number))
        [ends[number]] = yield from events
    tokens = longest_prompt(rows) + max(end["tokens"] for end in ends)
    adapters = max(_adapter_bytes(run, asked.loaded) for run in asked.chosen)
    yield from memory.events(asked.settings, asked.loaded, asked.generation.num_beams, tokens, adapters)
    return asked.result(ends, together=False)


def _as_only_adapter(row: AnswerRow) -> AnswerRow:
    """The same row for a model with one adapter at a time, which has the first name."""
    return AnswerRow(row.template, Prompt(row.prompt.ids, ADAPTER_NAMES[0])) if row.prompt.adapter else row


def _adapter_bytes(run: runs.Run, loaded: LoadedModel) -> int:
    """What a run's adapter takes on the model, by the shapes in its file."""
    return loaded.dtype.itemsize * sum(math.prod(shape) for shape in tensor_shapes(run.adapter).values())
