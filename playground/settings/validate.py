"""Find everything that is wrong with settings, all at once, before anything is loaded."""

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from playground.errors import PlaygroundError, Problem, problem
from playground.json_values import read_small_json
from playground.settings import prompt_format
from playground.settings.aliases import with_current_names
from playground.settings.schema import (
    ADAPTER_KINDS,
    BIT_WIDTHS,
    CHECKPOINTING_CHOICES,
    COMPILE_CHOICES,
    MAX_EVAL_ROWS,
    METHODS,
    MOST_PROCESSES,
    OPTIMIZERS,
    PARALLEL_CHOICES,
    PROMPT_FORMATS,
    QUANT_TYPES,
    QUANT_TYPES_8BIT,
    SAMPLE_CHOICES,
    START_VALUES,
    STREAMED_CHOICES,
    Data,
    Generation,
    Load,
    Lora,
    Settings,
    Train,
    merge,
    merge_group,
    streamed_count,
)

MOST_ROWS = 10**9
MOST_STEPS = 10**7
MOST_SEED = 2**53 - 1  # what a browser still tells apart
MOST_TOKENS = 2**20  # of a row
MOST_BATCH_TOKENS = 2**26  # of a step
MOST = {  # of numbers whose other limits stand with their checks; -MOST for those that may be negative
    **dict.fromkeys(("data.start_row", "data.end_row", "data.sample", "data.min_chars", "data.max_chars"), MOST_ROWS),
    **dict.fromkeys(("train.max_steps", "train.save_every", "train.eval_every", "train.patience"), MOST_STEPS),
    **dict.fromkeys(("data.seed", "train.seed", "generation.seed"), MOST_SEED),
    "load.simulate_gpu_gib": 2**20,
    "lora.alpha": 10**6,
    "lora.layers": 10**4,
    "lora.loraplus_lr_ratio": 10**6,
    "train.epochs": 10**5,
    "train.batch_size": 10**5,
    "train.max_seq_length": MOST_TOKENS,
    "train.max_tokens_per_micro_batch": 2**24,
    "generation.top_k": 10**7,
    "generation.repetition_penalty": 100,
}
PATHS = ("load.model", "data.source", "lora.start_from")
MOST_NAME_BYTES = 255  # of a file's or folder's name, as file systems have it; the hub's ids are shorter
MOST_CHARACTERS = 4096  # of a text: a path, a hub id, names of modules
MOST_FORMAT_CHARACTERS = 100_000  # of a prompt format

FAST_PISSA = re.compile(r"pissa_niter_[1-9]\d{0,2}")  # PEFT's names for PiSSA by an iterative SVD

Check = tuple[bool, str, dict]  # whether the value is allowed; the words key and values of the problem if it isn't


def parse(values: dict, base: Settings | None = None) -> Settings:
    """Validated settings from {group: {field: value}} over `base` (the defaults), of this or an earlier version.

    The edge at which settings enter the program: a form, a command line, a settings file, a message between processes.
    Raises PlaygroundError with all problems at once: what can't be read, and what isn't allowed.
    """
    settings, unreadable = merge(base or Settings(), with_current_names(values))
    raise_all(unreadable + problems(settings))
    return settings


def read_file(path: Path, name: str, base: Settings | None = None, of_run: bool = False) -> Settings:
    """Validated settings from a JSON file, as `parse`; `name` is how errors call the file. Raises PlaygroundError.

    of_run: whether it is a run's own, which names its model: defaults would make another run of a damaged one.
    """
    try:
        values = read_small_json(path)
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or str(error)  # without the path on this machine
        raise problem("error.settings_file", path=name, detail=detail[:200]) from error
    if not isinstance(values, dict):
        raise problem("error.settings_file", path=name, detail=type(values).__name__)
    load = values.get("load")
    if of_run and not (isinstance(load, dict) and load.get("model")):
        raise problem("error.settings_file", path=name, detail="load.model: –")
    return parse(values, base)


def parse_generation(values: dict) -> Generation:
    """Validated generation settings from {field: value} over the defaults; the same edge as `parse`."""
    generation, unreadable = merge_group(Generation(), values, "generation")
    raise_all(unreadable + generation_problems(generation))
    return generation


def problems(settings: Settings) -> list[Problem]:
    """Everything that is wrong with these settings, whatever the model and the data, in the order of the form."""
    checks = [
        *_load_checks(settings.load),
        *_data_checks(settings.data),
        *_lora_checks(settings.lora),
        *(_streamed_checks(settings) if streamed_count(settings.load) else ()),
        *(_kind_checks(settings.lora, settings.load.bits) if settings.train.method != "full" else ()),
        *_train_checks(settings.train, settings.load.bits, settings.lora.start_from),
        *(check for group in fields(settings) for check in _size_checks(group.name, getattr(settings, group.name))),
    ]
    return [Problem(key, values) for allowed, key, values in checks if not allowed]


def generation_problems(generation: Generation) -> list[Problem]:
    """Everything that is wrong with these generation settings."""
    allowed = {
        "max_new_tokens": 1 <= generation.max_new_tokens <= 4096,
        "temperature": 0 <= generation.temperature <= 5,
        "top_p": 0 < generation.top_p <= 1,
        "top_k": generation.top_k >= 0,
        "num_beams": 1 <= generation.num_beams <= 32,
        "repetition_penalty": generation.repetition_penalty > 0,
    }
    wrong = [Problem(f"problem.{n}", {n: getattr(generation, n)}) for n, valid in allowed.items() if not valid]
    sizes = _size_checks("generation", generation)
    return wrong + [Problem(key, values) for is_allowed, key, values in sizes if not is_allowed]


def raise_all(problems: list[Problem]) -> None:
    """Raise one PlaygroundError with all these problems, if there are any."""
    if problems:
        raise PlaygroundError(*problems)


def is_text_encoding(name: str) -> bool:
    """Whether Python has a codec of that name that decodes bytes to text, as `open` would use it."""
    if name.lower() in ("undefined", "idna", "punycode"):
        return False
    try:
        codecs.lookup(name)  # "locale", which only `open` knows, is no codec
        io.TextIOWrapper(io.BytesIO(), encoding=name)
        return True
    except (LookupError, ValueError):  # ValueError: a NUL in the name
        return False


def _load_checks(load: Load) -> Iterator[Check]:
    yield load.model != "", "problem.model_empty", {}
    yield load.bits in (0, *BIT_WIDTHS), "problem.bits", {"bits": load.bits}
    yield _one_of("load.dtype", load.dtype, ("auto", "bfloat16", "float16"))
    yield _one_of("load.quant_type", load.quant_type, QUANT_TYPES)
    yield _one_of("load.quant_type_8bit", load.quant_type_8bit, QUANT_TYPES_8BIT)
    yield _one_of("load.device", load.device, ("auto", "cpu", "cuda"))
    streamed = load.streamed_layers in STREAMED_CHOICES or _is_number_from(1, load.streamed_layers)
    yield streamed, "problem.streamed_layers", {"streamed_layers": load.streamed_layers}
    yield load.simulate_gpu_gib >= 0, "problem.simulate_gpu_gib", {"simulate_gpu_gib": load.simulate_gpu_gib}


def _data_checks(data: Data) -> Iterator[Check]:
    known = data.encoding.lower() == "auto" or is_text_encoding(data.encoding)
    chars_in_order = (
        data.min_chars >= 0 and data.max_chars >= 0 and (data.max_chars or data.min_chars) >= data.min_chars
    )
    yield data.source != "", "problem.source_empty", {}
    yield data.start_row >= 1, "problem.start_row", {"start_row": data.start_row}
    yield (
        data.end_row == 0 or data.end_row >= data.start_row,
        "problem.end_row",
        {"start_row": data.start_row, "end_row": data.end_row},
    )
    yield data.sample >= 0, "problem.sample", {"sample": data.sample}
    yield known, "error.encoding_unknown", {"encoding": data.encoding}
    yield chars_in_order, "problem.max_chars", {"min_chars": data.min_chars, "max_chars": data.max_chars}
    yield 0 <= data.held_out <= 0.5, "problem.held_out", {"held_out": data.held_out}
    yield _one_of("data.prompt_format", data.prompt_format, PROMPT_FORMATS)
    if data.prompt_format == "custom":
        yield from ((False, key, values) for key, values in prompt_format.problems(data.custom_format))


def _lora_checks(lora: Lora) -> Iterator[Check]:
    is_known = lora.init in START_VALUES or FAST_PISSA.fullmatch(lora.init) is not None
    yield _one_of("lora.kind", lora.kind, ADAPTER_KINDS)
    yield is_known, "problem.choice", {"field": "lora.init", "value": lora.init, "choices": list(START_VALUES)}
    yield 1 <= lora.r <= 1024, "problem.r", {"r": lora.r}
    yield lora.alpha > 0, "problem.alpha", {"alpha": lora.alpha}
    yield 0 <= lora.dropout < 1, "problem.dropout", {"dropout": lora.dropout}
    yield lora.target_modules.strip(" ,") != "", "problem.target_modules", {}
    yield lora.layers >= 0, "problem.layers", {"layers": lora.layers}
    yield lora.loraplus_lr_ratio > 0, "problem.loraplus_lr_ratio", {"loraplus_lr_ratio": lora.loraplus_lr_ratio}


def _streamed_checks(settings: Settings) -> Iterator[Check]:
    """That nothing but a forward pass reads the weights of streamed layers, and nothing changes them."""
    lora = settings.lora
    used = [name for name, is_used in (("init", lora.init != "default"), ("use_dora", lora.use_dora)) if is_used]
    yield settings.train.method != "full", "problem.streamed_full", {}
    yield not used, "problem.streamed_start", {"fields": [f"lora.{name}" for name in used]}


def _kind_checks(lora: Lora, bits: int) -> Iterator[Check]:
    """Which kinds of adapters and start values go with which other settings."""
    used = {
        "lora.init": lora.init != "default",
        "lora.use_rslora": lora.use_rslora,
        "lora.use_dora": lora.use_dora,
        "lora.loraplus_lr_ratio": lora.loraplus_lr_ratio != 1,
    }
    with_miss = [name for name, is_used in used.items() if is_used]
    yield lora.kind != "miss" or not with_miss, "problem.miss_with", {"fields": with_miss}
    yield lora.init != "loftq" or bits in (4, 8), "problem.loftq_bits", {"bits": bits}
    yield lora.init != "loftq" or not lora.use_dora, "problem.loftq_dora", {}
    yield lora.init == "default" or not lora.start_from, "problem.init_start_from", {"init": lora.init}


def _train_checks(train: Train, bits: int, start_from: str) -> Iterator[Check]:
    batch, micro, budget = train.batch_size, train.micro_batch_size, train.max_tokens_per_micro_batch
    divides = micro >= 0 and (batch < 1 or batch % (micro or batch) == 0)
    ends = train.max_steps >= 0 and (train.max_steps > 0 or train.epochs > 0)
    samples = train.sample_every in SAMPLE_CHOICES or _is_number_from(1, train.sample_every)
    recomputes = train.gradient_checkpointing in CHECKPOINTING_CHOICES or _is_number_from(
        2, train.gradient_checkpointing
    )
    yield ends, "problem.epochs", {"epochs": train.epochs, "max_steps": train.max_steps}
    yield 0 < train.lr <= 1, "problem.lr", {"lr": train.lr}
    yield _one_of("train.schedule", train.schedule, ("linear", "cosine", "constant"))
    yield 0 <= train.warmup <= 1, "problem.warmup", {"warmup": train.warmup}
    yield batch >= 1, "problem.batch_size", {"batch_size": batch}
    yield divides, "problem.micro_batch_size", {"batch_size": batch, "micro_batch_size": micro}
    yield train.max_seq_length >= 8, "problem.max_seq_length", {"max_seq_length": train.max_seq_length}
    tokens = batch * train.max_seq_length
    yield tokens <= MOST_BATCH_TOKENS, "problem.batch_tokens", {"tokens": tokens, "most": MOST_BATCH_TOKENS}
    yield budget == 0 or budget >= 8, "problem.max_tokens_per_micro_batch", {"max_tokens_per_micro_batch": budget}
    yield train.save_every >= 0, "problem.save_every", {"save_every": train.save_every}
    yield (
        0 <= train.eval_rows <= MAX_EVAL_ROWS,
        "problem.eval_rows",
        {"eval_rows": train.eval_rows, "most": MAX_EVAL_ROWS},
    )
    yield train.eval_every >= 0, "problem.eval_every", {"eval_every": train.eval_every}
    yield train.eval_every <= 0 or train.eval_rows > 0, "problem.eval_every_rows", {"eval_every": train.eval_every}
    yield train.patience >= 0, "problem.patience", {"patience": train.patience}
    yield train.patience <= 0 or train.eval_every > 0, "problem.patience_alone", {"patience": train.patience}
    yield samples, "problem.sample_every", {"sample_every": train.sample_every}
    yield recomputes, "problem.gradient_checkpointing", {"gradient_checkpointing": train.gradient_checkpointing}
    yield train.method != "full" or not start_from, "problem.start_from_full", {"start_from": start_from[:120]}
    yield train.method != "full" or bits in (0, 16, 32), "problem.full_bits", {"bits": bits}
    yield _one_of("train.method", train.method, METHODS)
    yield _one_of("train.optimizer", train.optimizer, OPTIMIZERS)
    offloads = train.offload_optimizer
    yield not offloads or train.method != "lora", "problem.offload_lora", {}
    yield not offloads or train.optimizer == "adamw", "problem.offload_kind", {"optimizer": train.optimizer}
    yield _one_of("train.compile", train.compile, COMPILE_CHOICES)
    processes = {"num_processes": train.num_processes, "most": MOST_PROCESSES}
    yield 1 <= train.num_processes <= MOST_PROCESSES, "problem.num_processes", processes
    yield _one_of("train.parallel", train.parallel, PARALLEL_CHOICES)


def _size_checks(group: str, values: Any) -> Iterator[Check]:
    """That no number and no text of a settings group is larger than anything can use."""
    for name in (f.name for f in fields(values)):
        field, value = f"{group}.{name}", getattr(values, name)
        if field in MOST:
            yield abs(value) <= MOST[field], "problem.most", {"field": field, "value": value, "most": MOST[field]}
        elif isinstance(value, str):
            most = MOST_FORMAT_CHARACTERS if name == "custom_format" else MOST_CHARACTERS
            sizes = {"field": field, "characters": len(value), "most": most}
            yield len(value) <= most, "problem.text_length", sizes
            longest = max((len(part.encode("utf-8", "replace")) for part in re.split(r"[/\\]", value)), default=0)
            is_path = field in PATHS and len(value) <= most
            yield not is_path or longest <= MOST_NAME_BYTES, "problem.name_length", {"field": field, "size": longest}


def _one_of(field: str, value: str, choices: tuple[str, ...]) -> Check:
    return value in choices, "problem.choice", {"field": field, "value": value, "choices": list(choices)}


def _is_number_from(least: int, text: str) -> bool:
    return text.isdecimal() and len(text) <= len(str(MOST_STEPS)) and least <= int(text) <= MOST_STEPS
