"""What a person can choose. Frozen dataclasses of plain values, so they travel between processes and into a run.

`problems(settings)` lists all that is wrong at once, before anything is loaded. Labels and help of each field stand
in the words tables under `<group>.<field>` and `<group>.<field>.info`.
"""

import codecs
import math
from dataclasses import asdict, dataclass, field, fields, replace

from playground import forms
from playground.errors import PlaygroundError, Problem


@dataclass(frozen=True)
class Load:
    """Which model, in how many bits a weight, and where."""

    model: str = "smollm2-135m-instruct"  # an id of the catalog, a hub id, a folder, or a GGUF file
    bits: int = 0  # 32 float32, 16 half precision, 8 LLM.int8(), 4 nf4 or fp4; 0: 16, or 32 where that is faster
    dtype: str = "auto"  # what 16 bits means: auto, bfloat16, float16
    quant_type: str = "nf4"  # at 4 bits: nf4 or fp4
    double_quant: bool = True  # at 4 bits: quantize the quantization constants too (QLoRA)
    device: str = "auto"  # auto, cpu, cuda
    card: float = 0.0  # GiB of the card that is to be pretended; 0: the whole card
    accept_terms: bool = False  # the model's own terms were shown and accepted
    anyway: bool = False  # load it also where it is predicted not to fit


@dataclass(frozen=True)
class Data:
    """Which rows, and how they are written for the model."""

    source: str = "helpdesk.en"  # an id of the catalog, a file, or a hub id
    encoding: str = "auto"  # of a text file: auto, or a name that Python knows
    columns: str = ""  # by hand: "instruction=Frage, output=Antwort"; empty: guessed from their names
    first: int = 1  # first row of the slice, counted from 1
    last: int = 0  # last row of the slice; 0: to the end
    sample: int = 0  # draw this many rows of what is left at random; 0: all
    contains: str = ""  # keep only rows that hold this text
    category: str = ""  # keep only rows of this category
    shortest: int = 0  # keep only rows of at least so many characters, question and answer together
    longest: int = 0  # and of at most so many; 0: any
    drop_duplicates: bool = True  # of rows that are the same, keep the first
    drop_empty: bool = True  # leave out rows without a question or an answer; otherwise they're an error
    strip_citations: bool = False  # take marks like [3] out of all texts
    held_out: float = 0.1  # share kept apart to measure on, where the set brings no held-out rows of its own
    template: str = "auto"  # auto, chat, alpaca, talk, text (the answer alone), own
    form: str = ""  # the template "own": a text with {instruction}, {answer} and, if wanted, {input}
    train_on_prompt: bool = False  # also train on the prompt's tokens
    seed: int = 0


@dataclass(frozen=True)
class Lora:
    """The adapter (Hu et al. 2021, arXiv 2106.09685)."""

    r: int = 8
    alpha: float = 16
    dropout: float = 0.0
    targets: str = "all-linear"  # attention, all-linear, or module names separated by commas
    layers: int = 0  # adapt only the last so many layers; 0: all
    rslora: bool = False  # scale by alpha / √r instead of alpha / r
    dora: bool = False  # learn each weight's length apart from its direction
    lr_ratio: float = 1.0  # LoRA+: the B matrices learn so many times as fast as the A matrices


@dataclass(frozen=True)
class Train:
    """The fine-tune."""

    epochs: float = 3.0
    steps: int = 0  # stop after this many optimizer steps; 0: by epochs
    lr: float = 1e-3
    schedule: str = "linear"  # linear, cosine, constant
    warmup: float = 0.03  # share of the steps
    batch: int = 16  # rows an optimizer step
    micro_batch: int = 0  # rows at once on the device; 0: the whole batch
    length: int = 256  # tokens a row; longer rows are cut
    seed: int = 0
    method: str = "lora"  # lora, or full: every weight is trained
    optimizer: str = "adamw"  # adamw, adamw8bit, paged_adamw, paged_adamw8bit
    checkpointing: str = "auto"  # layers computed twice to save memory: auto, off, a number n (every n-th), all, offload
    tokens: int = 0  # tokens of a micro-batch at most; 0: as many as fit
    compile: str = "auto"  # layers compiled before training: auto (where it pays), on, off
    save_every: int = 0  # steps between two checkpoints to resume from; 0: only when stopped
    measured: int = 45  # held-out rows at most that are measured on before and after, evenly spread over the set; 0: none
    sample_every: str = "auto"  # steps after which a few of them are asked during training: a number, off, auto (a handful of times)


TEMPLATES = ("auto", "chat", "alpaca", "talk", "text", "own")
METHODS = ("lora", "full")
OPTIMIZERS = ("adamw", "adamw8bit", "paged_adamw", "paged_adamw8bit")
CHECKPOINTING = ("auto", "off", "2", "4", "all", "offload")  # on offer; any number from 2 on will do
COMPILE = ("auto", "on", "off")
MOST_MEASURED = 1000
SAMPLE_EVERY = ("auto", "off", "10", "50")  # on offer; any number from 1 on will do


@dataclass(frozen=True)
class Generation:
    """How answers are written. The defaults are plain and repeatable; `TALK` holds the talk's own values."""

    max_new_tokens: int = 64
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    num_beams: int = 1
    repetition_penalty: float = 1.0
    seed: int = 0


TALK_GENERATION = Generation(256, 0.9, 0.75, 40, 10, 5.0, 0)


@dataclass(frozen=True)
class Settings:
    """All of a run."""

    load: Load = field(default_factory=Load)
    data: Data = field(default_factory=Data)
    lora: Lora = field(default_factory=Lora)
    train: Train = field(default_factory=Train)

    def to_dict(self) -> dict:
        return asdict(self)

    def with_values(self, values: dict) -> "Settings":
        """These settings with {group: {field: value}} laid over them.

        Raises PlaygroundError that names every unknown group and field, and every value of a wrong type.
        """
        wrong, groups = [], {}
        for group, given in values.items():
            old = getattr(self, group, None)
            if old is None or not isinstance(given, dict):
                wrong.append(Problem("problem.unknown_group", {"group": group}))
                continue
            groups[group], more = lay_over(old, given, group)
            wrong += more
        laid = replace(self, **groups)
        if wrong:
            raise PlaygroundError(*wrong, *problems(laid))  # all at once: what can't be read, and what the rest gets wrong
        return laid


def lay_over(old, given: dict, group: str):
    """One settings group with `given` laid over it, and the problems met: (new group, list of Problem)."""
    kinds = {f.name: f.type for f in fields(old)}
    fresh, wrong = {}, []
    for name, value in given.items():
        if name not in kinds:
            wrong.append(Problem("problem.unknown_field", {"field": f"{group}.{name}", "known": list(kinds)}))
            continue
        try:
            fresh[name] = _as_kind(kinds[name], value)
        except (TypeError, ValueError):
            wrong.append(Problem("problem.kind", {"field": f"{group}.{name}", "value": str(value)[:80], "kind": kinds[name].__name__}))
    return replace(old, **fresh), wrong


def _as_kind(kind: type, value):
    """`value` as int, float, bool or str, refusing what would silently change (2.5 rows, "yes", None)."""
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError(value)
        return value
    if value is None or isinstance(value, (bool, list, dict)):
        raise ValueError(value)
    if kind in (int, float) and not math.isfinite(float(value)):
        raise ValueError(value)
    if kind is int and float(value) != int(float(value)):
        raise ValueError(value)
    return kind(float(value)) if kind in (int, float) else str(value).strip()


def problems(settings: Settings) -> list[Problem]:
    """Everything that is wrong with these settings by themselves, in the order of the form; empty if nothing is."""
    load, data, lora, train = settings.load, settings.data, settings.lora, settings.train
    checks = [
        (load.model != "", "problem.model_empty", {}),
        (load.bits in (0, 32, 16, 8, 4), "problem.bits", {"bits": load.bits}),
        (load.dtype in ("auto", "bfloat16", "float16"), "problem.choice", {"field": "load.dtype", "value": load.dtype, "choices": ["auto", "bfloat16", "float16"]}),
        (load.quant_type in ("nf4", "fp4"), "problem.choice", {"field": "load.quant_type", "value": load.quant_type, "choices": ["nf4", "fp4"]}),
        (load.device in ("auto", "cpu", "cuda"), "problem.choice", {"field": "load.device", "value": load.device, "choices": ["auto", "cpu", "cuda"]}),
        (load.card >= 0, "problem.card", {"card": load.card}),
        (data.source != "", "problem.source_empty", {}),
        (data.first >= 1, "problem.first", {"first": data.first}),
        (data.last == 0 or data.last >= data.first, "problem.last", {"first": data.first, "last": data.last}),
        (data.sample >= 0, "problem.sample", {"sample": data.sample}),
        (data.encoding.lower() == "auto" or knows_encoding(data.encoding), "error.encoding_unknown", {"encoding": data.encoding}),
        (data.shortest >= 0 and data.longest >= 0 and (data.longest == 0 or data.longest >= data.shortest), "problem.longest", {"shortest": data.shortest, "longest": data.longest}),
        (0 <= data.held_out <= 0.5, "problem.held_out", {"held_out": data.held_out}),
        (data.template in TEMPLATES, "problem.choice", {"field": "data.template", "value": data.template, "choices": list(TEMPLATES)}),
        *((False, key, values) for key, values in (forms.problems(data.form) if data.template == "own" else ())),
        (1 <= lora.r <= 1024, "problem.r", {"r": lora.r}),
        (lora.alpha > 0, "problem.alpha", {"alpha": lora.alpha}),
        (0 <= lora.dropout < 1, "problem.dropout", {"dropout": lora.dropout}),
        (lora.targets.strip(" ,") != "", "problem.targets", {}),
        (lora.layers >= 0, "problem.layers", {"layers": lora.layers}),
        (train.steps >= 0 and (train.steps > 0 or train.epochs > 0), "problem.epochs", {"epochs": train.epochs, "steps": train.steps}),
        (0 < train.lr <= 1, "problem.lr", {"lr": train.lr}),
        (train.schedule in ("linear", "cosine", "constant"), "problem.choice", {"field": "train.schedule", "value": train.schedule, "choices": ["linear", "cosine", "constant"]}),
        (0 <= train.warmup <= 1, "problem.warmup", {"warmup": train.warmup}),
        (train.batch >= 1, "problem.batch", {"batch": train.batch}),
        (train.micro_batch >= 0 and (train.batch < 1 or train.batch % (train.micro_batch or train.batch) == 0), "problem.micro_batch", {"batch": train.batch, "micro_batch": train.micro_batch}),
        (train.length >= 8, "problem.length", {"length": train.length}),
        (train.tokens == 0 or train.tokens >= 8, "problem.tokens", {"tokens": train.tokens}),
        (train.save_every >= 0, "problem.save_every", {"save_every": train.save_every}),
        (0 <= train.measured <= MOST_MEASURED, "problem.measured", {"measured": train.measured, "most": MOST_MEASURED}),
        (train.sample_every in SAMPLE_EVERY or _number_from(1, train.sample_every), "problem.sample_every", {"sample_every": train.sample_every}),
        (lora.lr_ratio > 0, "problem.lr_ratio", {"lr_ratio": lora.lr_ratio}),
        (train.checkpointing in CHECKPOINTING or _number_from(2, train.checkpointing), "problem.checkpointing", {"checkpointing": train.checkpointing}),
        (train.method != "full" or load.bits in (0, 16, 32), "problem.full_bits", {"bits": load.bits}),
        *((value in choices, "problem.choice", {"field": f"train.{name}", "value": value, "choices": list(choices)}) for name, value, choices in (
            ("method", train.method, METHODS), ("optimizer", train.optimizer, OPTIMIZERS), ("compile", train.compile, COMPILE))),
    ]
    return [Problem(key, values) for right, key, values in checks if not right]


def knows_encoding(name: str) -> bool:
    """Whether Python has a codec of that name that turns bytes into text."""
    try:
        return codecs.lookup(name)._is_text_encoding and name.lower() not in ("undefined", "idna", "punycode")
    except (LookupError, ValueError):  # ValueError: a name with a NUL in it
        return False


def _number_from(least: int, text: str) -> bool:
    return text.isdecimal() and int(text) >= least


def generation_problems(generation: Generation) -> list[Problem]:
    """Everything that is wrong with these generation settings."""
    checks = [
        (1 <= generation.max_new_tokens <= 4096, "problem.max_new_tokens", {"max_new_tokens": generation.max_new_tokens}),
        (0 <= generation.temperature <= 5, "problem.temperature", {"temperature": generation.temperature}),
        (0 < generation.top_p <= 1, "problem.top_p", {"top_p": generation.top_p}),
        (generation.top_k >= 0, "problem.top_k", {"top_k": generation.top_k}),
        (1 <= generation.num_beams <= 32, "problem.num_beams", {"num_beams": generation.num_beams}),
        (generation.repetition_penalty > 0, "problem.repetition_penalty", {"repetition_penalty": generation.repetition_penalty}),
    ]
    return [Problem(key, values) for right, key, values in checks if not right]


def check(found: list[Problem]) -> None:
    """Raise them all at once, if there are any."""
    if found:
        raise PlaygroundError(*found)
