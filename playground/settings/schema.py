"""Everything a person can choose for a run: frozen dataclasses of plain values.

Labels and help of each field are in the words tables under `<group>.<field>` and `<group>.<field>.info`. Field names
follow transformers, peft and bitsandbytes where these have one. validate.py says which values are allowed.
"""

import math
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

from playground.errors import PlaygroundError, Problem
from playground.json_values import MAX_INT, valid_text

BIT_WIDTHS = (32, 16, 8, 4)  # that a weight can be loaded at; 0 leaves the choice to the hardware
QUANT_TYPES = ("nf4", "nf4-fast", "fp4")  # of 4-bit weights
QUANT_TYPES_8BIT = ("int8", "int8-fast", "fp8")
PROMPT_FORMATS = ("auto", "chat", "alpaca", "talk", "text", "custom")
METHODS = ("lora", "full")
PARALLEL_CHOICES = ("ddp", "fsdp2")
MOST_PROCESSES = 64
ADAPTER_KINDS = ("lora", "miss")
START_VALUES = ("default", "pissa", "pissa_niter_16", "loftq")  # any number of iterations is allowed too
OPTIMIZERS = ("adamw", "adamw8bit", "paged_adamw", "paged_adamw8bit")
CHECKPOINTING_CHOICES = ("auto", "off", "2", "4", "all", "offload")  # any number from 2 on is allowed too
STREAMED_CHOICES = ("auto", "0")  # any number of layers is allowed too
COMPILE_CHOICES = ("auto", "on", "off")
SAMPLE_CHOICES = ("auto", "off", "10", "50")  # any number from 1 on is allowed too
MAX_EVAL_ROWS = 1000


@dataclass(frozen=True)
class Load:
    """Which model, at how many bits a weight, and on which device."""

    model: str = "smollm2-135m-instruct"  # a catalog id, a hub id, a folder, or a GGUF file
    bits: int = 0  # 32 float32, 16 half precision, 8 LLM.int8(), 4 nf4 or fp4; 0: 16, or 32 where that is faster
    dtype: str = "auto"  # what 16 bits means: auto, bfloat16, float16
    quant_type: str = "nf4"  # at 4 bits: nf4, fp4, or nf4-fast (nf4, multiplied in float8 on GPUs that have it)
    quant_type_8bit: str = "int8"  # at 8 bits: int8 (LLM.int8()), or multiplied so: int8-fast, fp8 (e4m3)
    double_quant: bool = True  # at 4 bits: quantize the quantization constants too (QLoRA)
    device: str = "auto"  # auto, cpu, cuda
    streamed_layers: str = "auto"  # layers that wait in main memory: a number; auto: none where the whole model fits
    simulate_gpu_gib: float = 0.0  # GiB of a smaller GPU to simulate; 0: the whole GPU
    accept_terms: bool = False  # the model's license terms were shown and accepted
    force: bool = False  # load even where the prediction says that it won't fit


def is_int8(load: Load) -> bool:
    """Whether weights are loaded as LLM.int8() has them."""
    return load.bits == 8 and load.quant_type_8bit == "int8"


def is_float8(load: Load) -> bool:
    """Whether weights are loaded in float8."""
    return load.bits == 8 and load.quant_type_8bit == "fp8"


def is_fast_int8(load: Load) -> bool:
    """Whether weights are loaded as 8-bit integers with a scale a row, and multiplied so."""
    return load.bits == 8 and load.quant_type_8bit == "int8-fast"


def has_own_layers(load: Load) -> bool:
    """Whether weights are loaded into this program's layers of 8 bits rather than into bitsandbytes'."""
    return is_float8(load) or is_fast_int8(load)


def is_fast_nf4(load: Load) -> bool:
    """Whether weights in nf4 are multiplied in float8 where adapters are trained."""
    return load.bits == 4 and load.quant_type == "nf4-fast"


def streamed_count(load: Load) -> int:
    """How many layers are streamed; 0 where that is still to be chosen."""
    return int(load.streamed_layers) if load.streamed_layers.isdecimal() else 0


def stored_quant_type(load: Load) -> str:
    """The type that 4-bit weights are stored in, as bitsandbytes names it."""
    return load.quant_type.removesuffix("-fast")


@dataclass(frozen=True)
class Data:
    """Which rows to train on, and how they are formatted for the model."""

    source: str = "helpdesk.en"  # a catalog id, a file, or a hub id
    encoding: str = "auto"  # of a text file: auto, or a name that Python knows
    part: str = ""  # sheet of a workbook, or split of a folder; empty: the first sheet, or train
    columns: str = ""  # set by hand: "instruction=Frage, output=Antwort"; empty: guessed from column names
    start_row: int = 1  # first row of the slice, counted from 1
    end_row: int = 0  # last row of the slice; 0: to the end
    sample: int = 0  # draw this many of the remaining rows at random; 0: all
    contains: str = ""  # keep only rows that contain this text
    category: str = ""  # keep only rows of this category
    min_chars: int = 0  # keep only rows of at least this many characters, question and answer together
    max_chars: int = 0  # keep only rows of at most this many; 0: no limit
    drop_duplicates: bool = True  # of identical rows, keep the first
    drop_empty: bool = True  # leave out rows without a question or an answer; otherwise they are an error
    strip_citations: bool = False  # remove marks like [3] from all texts
    held_out: float = 0.1  # share of rows held out for evaluation, where the set has no held-out rows itself
    prompt_format: str = "auto"  # auto, chat, alpaca, talk, text (the answer alone), custom
    custom_format: str = ""  # the prompt format "custom": a text with {instruction}, {answer} and optionally {input}
    train_on_prompt: bool = False  # compute the loss on the prompt's tokens too
    seed: int = 0


@dataclass(frozen=True)
class Lora:
    """The adapter (Hu et al. 2021, arXiv 2106.09685)."""

    kind: str = "lora"  # lora, or miss: one trained matrix a layer (Kang and Yin 2024, arXiv 2409.15371)
    init: str = "default"  # what LoRA starts from: default (B = 0), pissa, pissa_niter_N (its fast SVD), loftq
    r: int = 8
    alpha: float = 16
    dropout: float = 0.0
    target_modules: str = "all-linear"  # attention, all-linear, or module names separated by commas
    layers: int = 0  # adapt only this many layers, the last ones; 0: all
    modules_to_save: str = ""  # trained in full beside the adapter, as embed_tokens; names separated by commas
    use_rslora: bool = False  # scale by alpha / √r instead of alpha / r
    use_dora: bool = False  # learn each weight's magnitude and direction separately
    loraplus_lr_ratio: float = 1.0  # LoRA+: learning rate of the B matrices over that of the A matrices
    start_from: str = ""  # a run's id or an adapter folder whose adapter is trained further; empty: a new adapter


@dataclass(frozen=True)
class Train:
    """The fine-tune."""

    epochs: float = 3.0
    max_steps: int = 0  # stop after this many optimizer steps; 0: by epochs
    lr: float = 1e-3
    schedule: str = "linear"  # linear, cosine, constant
    warmup: float = 0.03  # share of the steps
    batch_size: int = 16  # rows an optimizer step
    micro_batch_size: int = 0  # rows at once on the device; 0: the whole batch
    max_seq_length: int = 256  # tokens a row; longer rows are truncated
    seed: int = 0
    method: str = "lora"  # lora, or full: every weight is trained
    optimizer: str = "adamw"  # adamw, adamw8bit, paged_adamw, paged_adamw8bit
    offload_optimizer: bool = False  # in a full fine-tune, gradients and optimizer state wait in main memory
    gradient_checkpointing: str = "auto"  # layers recomputed in backward: auto, off, n (every n-th), all, offload
    max_tokens_per_micro_batch: int = 0  # 0: as many as fit
    compile: str = "auto"  # torch.compile per layer: auto (where it pays), on, off
    save_every: int = 0  # steps between two checkpoints to resume from; 0: automatically, for under 1 % of the time
    eval_rows: int = 45  # held-out rows evaluated before and after, at most, evenly spread over the set; 0: none
    eval_every: int = 0  # steps between two measurements of the held-out loss; the best weights are kept; 0: none
    patience: int = 0  # such measurements without a lower loss after which training ends; 0: never early
    measure_forgetting: bool = True  # the loss on ordinary text too, in English and Japanese, before and after
    sample_every: str = "auto"  # steps between two rounds of sample answers: a number, off, auto (a few a run)
    num_processes: int = 1  # GPUs that train together, one process each
    parallel: str = "ddp"  # with several processes: ddp (each holds all weights), fsdp2 (frozen weights are split)
    memory_snapshot: bool = False  # record what CUDA's allocator does, for PyTorch's memory viewer


@dataclass(frozen=True)
class Generation:
    """How answers are generated. The defaults are greedy and repeatable; TALK_GENERATION holds the talk's values."""

    max_new_tokens: int = 512  # the bundled models end most answers by themselves before that
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    num_beams: int = 1
    repetition_penalty: float = 1.0
    seed: int = 0
    model_defaults: bool = False  # sample, search and penalize as the model's own generation config says


TALK_GENERATION = Generation(256, 0.9, 0.75, 40, 10, 5.0, 0)


@dataclass(frozen=True)
class Settings:
    """All settings of a run, in four groups."""

    load: Load = field(default_factory=Load)
    data: Data = field(default_factory=Data)
    lora: Lora = field(default_factory=Lora)
    train: Train = field(default_factory=Train)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """{group: {field: value}} of every field, as `with_values` reads it."""
        return asdict(self)

    def with_values(self, values: dict) -> "Settings":
        """Replace fields by {group: {field: value}}; validate.py checks whether the new values are allowed.

        Raises PlaygroundError with every unknown group and field, and every value of a wrong type.
        """
        merged, wrong = merge(self, values)
        if wrong:
            raise PlaygroundError(*wrong)
        return merged


def merge(settings: Settings, values: dict) -> tuple[Settings, list[Problem]]:
    """Settings with {group: {field: value}} applied as far as it can be read, and a Problem for all that can't."""
    known = [f.name for f in fields(settings)]
    wrong: list[Problem] = []
    groups: dict[str, Any] = {}
    for group, group_values in values.items():
        if group not in known:
            wrong.append(_unknown_group(group, known))
        elif not isinstance(group_values, dict):
            wrong.append(Problem("problem.group_kind", {"group": group, "value": str(group_values)[:80]}))
        else:
            groups[group], more = merge_group(getattr(settings, group), group_values, group)
            wrong += more
    return replace(settings, **groups), wrong


def merge_group(current: Any, values: dict, group: str) -> tuple[Any, list[Problem]]:
    """One settings group (a dataclass) with `values` applied, and a Problem for each that can't be read."""
    types: dict[str, Any] = {f.name: f.type for f in fields(current)}
    converted: dict[str, Any] = {}
    wrong: list[Problem] = []
    for name, value in values.items():
        if name not in types:
            wrong.append(_unknown_field(group, name, list(types)))
            continue
        try:
            converted[name] = _convert(types[name], value)
        except (TypeError, ValueError, OverflowError):
            kind = types[name].__name__
            wrong.append(Problem("problem.kind", {"field": f"{group}.{name}", "value": str(value)[:80], "kind": kind}))
    return replace(current, **converted), wrong


def _unknown_group(group: str, known: list[str]) -> Problem:
    if near := get_close_matches(group, known, 1):
        return Problem("problem.unknown_group_near", {"group": group, "near": near, "known": known})
    return Problem("problem.unknown_group", {"group": group, "known": known})


def _unknown_field(group: str, name: str, known: list[str]) -> Problem:
    field = f"{group}.{name}"
    if near := get_close_matches(name, known, 1):
        return Problem("problem.unknown_field", {"field": field, "near": near})
    return Problem("problem.unknown_field_known", {"field": field, "known": known})


def _convert(kind: Any, value: Any) -> Any:
    """`value` as int, float, bool or str; refuses what would change silently (2.5 rows, "yes", None)."""
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError(value)
        return value
    if value is None or isinstance(value, (bool, list, dict)):
        raise ValueError(value)
    if kind in (int, float) and not math.isfinite(float(value)):
        raise ValueError(value)
    if kind is int and (float(value) != int(float(value)) or abs(float(value)) >= MAX_INT):
        raise ValueError(value)
    return kind(float(value)) if kind in (int, float) else valid_text(str(value)).strip()
