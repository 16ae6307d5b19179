"""Catalog: the models, data sets, presets, prompts and GPUs to choose from, and whether a hub has a repo.

May import: settings, errors, i18n. Imports no torch.
"""

from playground.catalog.entries import (
    cache_folder,
    column_names,
    data_sets,
    display_name,
    encodings,
    first_plan,
    models,
    offline_models,
    option_labels,
    presets,
    prompts,
    read_entries,
    requirements,
    role_names,
    setups,
    shape_of,
    shapes,
    source_of,
    split_values,
    verdicts,
)

__all__ = [
    "cache_folder",
    "column_names",
    "data_sets",
    "display_name",
    "encodings",
    "first_plan",
    "models",
    "offline_models",
    "option_labels",
    "presets",
    "prompts",
    "read_entries",
    "requirements",
    "role_names",
    "setups",
    "shape_of",
    "shapes",
    "source_of",
    "split_values",
    "verdicts",
]
