"""Settings: what a person can choose for a run, which values are allowed, and the names that it had before.

May import: errors, i18n. Imports no torch.
"""

from playground.settings.aliases import SCHEMA
from playground.settings.schema import (
    ADAPTER_KINDS,
    BIT_WIDTHS,
    CHECKPOINTING_CHOICES,
    COMPILE_CHOICES,
    MAX_EVAL_ROWS,
    METHODS,
    OPTIMIZERS,
    PROMPT_FORMATS,
    SAMPLE_CHOICES,
    START_VALUES,
    TALK_GENERATION,
    Data,
    Generation,
    Load,
    Lora,
    Settings,
    Train,
    is_float8,
    is_int8,
    merge_group,
)
from playground.settings.validate import (
    generation_problems,
    is_text_encoding,
    parse,
    parse_generation,
    problems,
    raise_all,
    read_file,
)

__all__ = [
    "ADAPTER_KINDS",
    "BIT_WIDTHS",
    "CHECKPOINTING_CHOICES",
    "COMPILE_CHOICES",
    "MAX_EVAL_ROWS",
    "METHODS",
    "OPTIMIZERS",
    "PROMPT_FORMATS",
    "SAMPLE_CHOICES",
    "SCHEMA",
    "START_VALUES",
    "TALK_GENERATION",
    "Data",
    "Generation",
    "Load",
    "Lora",
    "Settings",
    "Train",
    "generation_problems",
    "is_float8",
    "is_int8",
    "is_text_encoding",
    "merge_group",
    "parse",
    "parse_generation",
    "problems",
    "raise_all",
    "read_file",
]
