"""Answer questions about rows before a model is loaded: their count, one row token by token, the cost of a cutoff.

The model's tokenizer has to be on this machine already: nothing is fetched. Every function takes validated settings,
and an `on_progress(done, total, unit)` that may raise to stop it. What was read stays in bounded caches
(predict/lru.py): functools.lru_cache would make on_progress a part of the key, and cachetools, which wouldn't, would
be a new dependency in place of 40 lines that the predictions need as well.
"""

from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import GenerationConfig, PreTrainedModel

from playground import catalog, runs
from playground.data import source
from playground.data import xray as xray_rows
from playground.data.fit import fit_turns
from playground.data.lengths import Lengths, count_tokens, histogram
from playground.data.row_notes import row_notes
from playground.data.source import Row, SelectedRows
from playground.data.template import Template
from playground.data.template_choice import choose_template_for
from playground.errors import problem
from playground.model.dtype import default_bits
from playground.model.load import LoadedModel
from playground.model.source import local_folder
from playground.model.tokenizer import load_tokenizer
from playground.planning import cost
from playground.predict import meta_model
from playground.predict.lru import LruCache
from playground.settings import Data, Load, Settings, problems, raise_all

ROW_TEXTS = ("instruction", "input", "output", "system", "category")

_models: LruCache[LoadedModel] = LruCache(3)
_row_sets: LruCache[SelectedRows] = LruCache(2)
_lengths: LruCache[Lengths] = LruCache(16)


def ignore_progress(done: float, total: float, unit: str = "bytes") -> None:
    """An `on_progress` that shows nothing."""


def count_rows(settings: Settings, on_progress: Callable = ignore_progress) -> dict:
    """How many rows of the data set remain after selection.

    Returns {"train", "held_out", "left_out" ({reason: rows}), "total" (the sum of these rows), "where" ({reason: row
    numbers}), "notes" ([{"key", "values"}])}. Raises PlaygroundError: rows that can't be read, none left.
    """
    _, rows = read_rows(settings.data, on_progress)
    return {
        "train": len(rows.train),
        "held_out": len(rows.held_out),
        "left_out": rows.left_out,
        "total": rows.total,
        "where": rows.where,
        "notes": [{"key": note.key, "values": note.values} for note in rows.notes],
    }


def xray(settings: Settings, row: int = 1, on_progress: Callable = ignore_progress) -> dict:
    """One row token by token, as the model will see it.

    row: its number in its source (or else the next number that is left); where rows have no numbers, its place among
    the training rows, from 1. Returns data.xray's answer with "row" (its texts), "number", "turns_left_out" (its
    earliest turns, which don't fit), "notes" (row_notes of it), and "rows" (training rows). Raises PlaygroundError:
    rows that can't be read, no such row, a tokenizer that isn't on this machine.
    """
    _, model = read_model(settings.load)
    _, rows = read_rows(settings.data, on_progress)
    template = _choose_template(model, settings.data, rows)
    found, length = _find_row(rows, row), settings.train.max_seq_length
    [chosen], _ = fit_turns([found], template, length)
    tokens = xray_rows.xray(chosen, template, length, settings.data.train_on_prompt)
    texts: dict[str, Any] = {name: getattr(chosen, name) for name in ROW_TEXTS}
    return tokens | {
        "row": texts | {"before": [list(turn) for turn in chosen.before]},
        "number": chosen.number,
        "turns_left_out": len(found.before) - len(chosen.before),
        "notes": [{"key": note["key"], "values": note["values"]} for note in row_notes([found], template)],
        "rows": len(rows.train),
    }


def cutoff_cost(
    settings: Settings,
    cutoff: int = 0,
    capacity: int = 0,
    device: str = "cuda",
    card: str = "",
    sample: int = 0,
    root: str = "",
    on_progress: Callable = ignore_progress,
) -> dict:
    """What a fine-tune costs at a cutoff, in tokens (0: settings.train.max_seq_length).

    capacity: bytes of the memory, 0: no limit. card: a GPU's id in the catalog, or a device's name. sample: count
    this many rows, evenly spread (0: all). root: the folder of the runs, to use the speed of an earlier one. Returns
    planning.cost's answer with "histogram" (data.lengths), "template", "counted" and "rows" (rows counted, and in
    all). Raises PlaygroundError as `xray` does.
    """
    if cutoff:  # not one of the settings that the edge has validated
        settings = replace(settings, train=replace(settings.train, max_seq_length=cutoff))
        raise_all(problems(settings))
    bits = settings.load.bits or default_bits(device)
    model_key, model = read_model(settings.load)
    rows_key, rows = read_rows(settings.data, on_progress)
    template = _choose_template(model, settings.data, rows)
    counted = rows.train[:: max(1, -(-len(rows.train) // sample))] if sample else rows.train
    lengths = _lengths.get_or_compute(
        (model_key, rows_key, len(counted), template.name, template.custom_format, template.plain_end),
        lambda: count_tokens(counted, template, on_progress),
    )
    answer = cost.cutoff_cost(
        lengths,
        settings,
        model.model.config,
        cost.Machine(device, capacity, card),
        runs.measured_speed(Path(root), settings.load.model, bits, card) if root else None,
        len(rows.train) / len(counted),
    )
    return answer | {
        "histogram": histogram(lengths, settings.train.max_seq_length),
        "template": template.name,
        "counted": len(lengths.prompts),
        "rows": len(rows.train),
    }


def _choose_template(model: LoadedModel, data: Data, rows: SelectedRows) -> Template:
    questions = [row.instruction for row in rows.train]
    template, _ = choose_template_for(model, data.prompt_format, questions, data.custom_format)
    return template


def _find_row(rows: SelectedRows, number: int) -> Row:
    every = [*rows.train, *rows.held_out]
    if any(row.number for row in every):
        row = min((row for row in every if row.number >= number), key=lambda row: row.number, default=None)
    else:
        row = rows.train[number - 1] if 1 <= number <= len(rows.train) else None
    if row is None:
        raise problem("error.no_row", row=number, rows=len(rows.train))
    return row


def read_rows(data: Data, on_progress: Callable) -> tuple[Hashable, SelectedRows]:
    """The selected rows, and a key that changes with their file and with every setting that selects them."""
    key = (replace(data, prompt_format="", custom_format="", train_on_prompt=False), source.modified(data.source))
    return key, _row_sets.get_or_compute(key, lambda: source.read(data, on_progress))


def read_model(load: Load) -> tuple[Hashable, LoadedModel]:
    """A model's tokenizer with its network on the meta device, and a key that changes with its files.

    Of the weights only the head's are read: all that a template asks of a loaded model.
    """
    folder = local_folder(load.model)
    if folder is None:
        raise problem("error.tokenizer_absent", model=catalog.display_name(load.model))
    key = (str(folder), max(file.stat().st_mtime_ns for file in folder.iterdir()))
    return key, _models.get_or_compute(key, lambda: _build_model(folder))


def _build_model(folder: Path) -> LoadedModel:
    model = meta_model.build(meta_model.config_of(str(folder)), Load(bits=16), torch.float32, "cpu")
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    head = _read_head(folder, model)
    if head is not None:
        model.get_output_embeddings().weight = torch.nn.Parameter(head, requires_grad=False)
    return LoadedModel(model, load_tokenizer(folder, model), "meta", torch.float32, "dtype.float32")


def _read_head(folder: Path, model: PreTrainedModel) -> torch.Tensor | None:
    """The weights of the head, or of the embedding tied to it, from the folder's files; None where absent."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None:
        return None
    names = {module: f"{name}.weight" for name, module in model.named_modules()}
    accepted = [names[head], *([names[embedding]] if head.weight is embedding.weight else [])]
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                if name in accepted and tensors.get_slice(name).get_shape() == list(head.weight.shape):
                    return tensors.get_tensor(name)
    return None
