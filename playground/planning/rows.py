"""Questions about rows before anything is loaded: one as the model will see it, and what a cutoff costs.

Asked in the planning process. A model's tokenizer has to be on this machine already: nothing is fetched for it.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from playground import catalog, runs
from playground.data import source
from playground.data import xray as rays
from playground.data.lengths import count_tokens, histogram
from playground.data.source import Row, SelectedRows
from playground.data.template import Template, choose_template_for
from playground.errors import problem
from playground.model.source import local_folder
from playground.model.tokenizer import load_tokenizer
from playground.planning import cost as costs
from playground.predict import meta_model
from playground.settings import Data, Load, Settings, problems, raise_all


def xray(settings: Settings, row: int = 1, on_progress: Callable = lambda *_: None) -> dict:
    """One row token by token; what data/xray.py says of it, and "row" (its texts), "number" and "rows" (to learn).

    row: its number in its source (the next one's that is left, if it isn't), or where rows have none its place among those to
    learn, from 1. Raises PlaygroundError: settings that can't be, rows that can't be read, no such row, a tokenizer that isn't here.
    """
    raise_all(problems(settings))
    (_, loaded), (_, rows) = _held(settings.load), _rows(settings.data, on_progress)
    template = _template(loaded, settings.data, rows)
    chosen = _numbered(rows, row)
    told = rays.xray(chosen, template, settings.train.max_seq_length, settings.data.train_on_prompt)
    shown = {name: getattr(chosen, name) for name in ("instruction", "input", "output", "system", "category")}
    return told | {
        "row": shown | {"before": [list(pair) for pair in chosen.before]},
        "number": chosen.number,
        "rows": len(rows.train),
    }


def count_rows(settings: Settings, on_progress: Callable = lambda *_: None) -> dict:
    """What is left of a set: {"train", "held_out", "total" (rows), "dropped" ({reason: count}), "where" ({reason: row numbers}), "notes"}.

    Raises PlaygroundError: settings that can't be, rows that can't be read, nothing left.
    """
    raise_all(problems(settings))
    _, found = _rows(settings.data, on_progress)
    notes = [{"key": note.key, "values": note.values} for note in found.notes]
    return {
        "train": len(found.train),
        "held_out": len(found.held_out),
        "total": found.total,
        "dropped": found.dropped,
        "where": found.where,
        "notes": notes,
    }


def cutoff_cost(
    settings: Settings,
    cutoff: int = 0,
    capacity: int = 0,
    device: str = "cuda",
    card: str = "",
    sample: int = 0,
    root: str = "",
    on_progress: Callable = lambda *_: None,
) -> dict:
    """What price.py says of a cutoff (0: settings.train.max_seq_length), and "histogram", "template", "counted" of "rows" rows.

    card: an id of the catalog's, or a device's name; sample: count only so many rows, evenly spread (0: all); root: the folder of
    the runs, to tell of an earlier one's speed. Raises PlaygroundError as `xray` does.
    """
    settings = replace(settings, train=replace(settings.train, max_seq_length=cutoff or settings.train.max_seq_length))
    raise_all(problems(settings))
    (model, loaded), (data, rows) = _held(settings.load), _rows(settings.data, on_progress)
    template = _template(loaded, settings.data, rows)
    counted = rows.train[:: max(1, -(-len(rows.train) // sample))] if sample else rows.train
    lengths = COUNTS.get(
        (model, data, len(counted), template.name, template.form, template.plain_end),
        lambda: count_tokens(counted, template, on_progress),
    )
    measured = runs.measured_speed(Path(root), settings.load.model, settings.load.bits, card) if root else None
    told = costs.cutoff_cost(
        lengths,
        settings,
        loaded.model.config,
        costs.Place(device, capacity, card),
        measured,
        len(rows.train) / len(counted),
    )
    return told | {
        "histogram": histogram(lengths, settings.train.max_seq_length),
        "template": template.name,
        "counted": len(lengths.prompts),
        "rows": len(rows.train),
    }


def _template(loaded: "Known", data: Data, rows: SelectedRows) -> Template:
    return choose_template_for(loaded, data.prompt_format, [row.instruction for row in rows.train], data.custom_format)[
        0
    ]


def _numbered(rows: SelectedRows, number: int) -> Row:
    every = [*rows.train, *rows.held_out]
    if any(row.number for row in every):
        found = min((row for row in every if row.number >= number), key=lambda row: row.number, default=None)
    else:
        found = rows.train[number - 1] if 1 <= number <= len(rows.train) else None
    if found is None:
        raise problem("error.no_row", row=number, rows=len(rows.train))
    return found


# --- what is kept between questions ---


@dataclass(frozen=True, eq=False)
class Known:
    """A model's tokenizer, and its network with no values but the head's: all that a template asks of a loaded model."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


class Kept:
    """The last few things that were made, by what they were made of."""

    def __init__(self, most: int):
        self._most, self._made = most, OrderedDict()

    def get(self, key, make: Callable):
        if key not in self._made:
            self._made[key] = make()
            while len(self._made) > self._most:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return self._made[key]


MODELS, SETS, COUNTS = Kept(3), Kept(2), Kept(16)


def _held(load: Load) -> tuple[tuple, Known]:
    folder = local_folder(load.model)
    if folder is None:
        raise problem("error.tokenizer_absent", model=catalog.display_name(load.model))
    key = (str(folder), max(file.stat().st_mtime_ns for file in folder.iterdir()))
    return key, MODELS.get(key, lambda: _known(folder))


def _known(folder: Path) -> Known:
    model = meta_model.build(meta_model.config_of(str(folder)), Load(bits=16), torch.float32, "cpu")
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    stored = _head(folder, model)
    if stored is not None:
        model.get_output_embeddings().weight = torch.nn.Parameter(stored, requires_grad=False)
    return Known(model, load_tokenizer(folder, model))


def _head(folder: Path, model: PreTrainedModel) -> torch.Tensor | None:
    """The rows of the head, or of the embedding that serves as one, as a file of the folder has them; None where none is found."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None:
        return None
    names = {module: f"{name}.weight" for name, module in model.named_modules()}
    wanted = [names[head], *([names[embedding]] if head.weight is embedding.weight else [])]
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                if name in wanted and tensors.get_slice(name).get_shape() == list(head.weight.shape):
                    return tensors.get_tensor(name)
    return None


def _rows(data: Data, on_progress: Callable) -> tuple[tuple, SelectedRows]:
    key = (
        replace(data, prompt_format="", custom_format="", train_on_prompt=False),
        Path(data.source).expanduser().stat().st_mtime_ns if source.is_file(data.source) else 0,
    )
    return key, SETS.get(key, lambda: source.read(data, on_progress))
