"""Continue an adapter: find the one that a fine-tune starts from, and compare it with the settings."""

import re
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from playground import catalog, runs
from playground.errors import PlaygroundError, Problem, problem
from playground.json_values import read_small_json
from playground.model import adapt
from playground.model.adapter_check import check_fit
from playground.model.adapter_file import read_adapter
from playground.model.adapter_folder import CONFIG
from playground.model.load import LoadedModel
from playground.model.start_values import is_miss
from playground.settings import Settings, raise_all

COMPARED = {"r": "r", "alpha": "lora_alpha", "use_rslora": "use_rslora", "use_dora": "use_dora"}  # setting: PEFT's name


def start_folder(root: Path, start_from: str) -> Path:
    """The folder of an adapter: that of a run under `root`, by its id, or any folder with an adapter.

    Raises PlaygroundError where there is none.
    """
    if runs.RUN_ID.fullmatch(start_from) and (root / start_from).is_dir():
        folder = runs.find(root, start_from).adapter
    else:
        folder = Path(start_from).expanduser()
    try:
        if (folder / CONFIG).is_file():
            return folder
    except (OSError, ValueError):  # a name too long, or a NUL in it
        pass
    raise problem("error.start_from", start_from=start_from[:120])


def check_start(
    root: Path, loaded: LoadedModel, settings: Settings, resumed: bool = False
) -> Generator[dict, None, Path | None]:
    """The adapter that the fine-tune starts from, None for a new one; yields notes on what of it isn't used.

    resumed: from a checkpoint, whose weights take the place of the adapter's; where that is gone, a new one takes them.

    Raises PlaygroundError where there is none, where it changes its base model's own weights or doesn't fit them, or
    with every setting that contradicts the adapter's own config.
    """
    start_from = settings.lora.start_from
    if not start_from:
        return None
    try:
        folder = start_folder(root, start_from)
    except PlaygroundError:
        if resumed:
            return None
        raise
    try:
        config = read_small_json(folder / CONFIG)
        assert isinstance(config, dict)
    except (OSError, ValueError, AssertionError) as error:
        raise problem("error.adapter_config", path=start_from[:120]) from error
    if config.get("peft_type") != "LORA":
        raise problem("error.start_kind", start_from=start_from[:120], kind=str(config.get("peft_type"))[:40])
    adapter = read_adapter(folder)
    found = _pairs(folder, config, loaded, settings)
    conflicts = [(name, here, there) for name, here, there in found if here != there]
    raise_all(
        [
            Problem("error.start_conflict", {"field": name, "value": str(here)[:200], "adapter": str(there)[:200]})
            for name, here, there in conflicts
        ]
    )
    yield from check_fit(adapter, loaded.model.config, settings.load.model)
    return folder


def _pairs(folder: Path, config: dict, loaded: LoadedModel, settings: Settings) -> list[tuple[str, Any, Any]]:
    """(setting, its value in the settings, its value in the adapter) of all that must agree."""
    pairs: list[tuple[str, Any, Any]] = [
        ("load.model", settings.load.model, _base_of(folder, config, loaded, settings)),
        ("lora.kind", settings.lora.kind, "miss" if is_miss(folder) else "lora"),
    ]
    if settings.lora.kind == "miss":  # which has no scale
        settings = replace(settings, lora=replace(settings.lora, alpha=settings.lora.r))
    for name, peft_name in COMPARED.items():
        here = getattr(settings.lora, name)
        there = config.get(peft_name)
        pairs.append((f"lora.{name}", here, type(here)(there) if isinstance(there, (int, float)) else there or False))
    here, there = _targets(loaded.model, settings, config)
    pairs.append(("lora.target_modules", here, there))
    extra = sorted(name.strip() for name in settings.lora.modules_to_save.split(",") if name.strip())
    pairs.append(("lora.modules_to_save", ", ".join(extra), ", ".join(sorted(config.get("modules_to_save") or ()))))
    return pairs


def _base_of(folder: Path, config: dict, loaded: LoadedModel, settings: Settings) -> str:
    """The adapter's base: as the settings name their model where it is the same one."""
    named = str(config.get("base_model_name_or_path") or "–")
    model, own = settings.load.model, getattr(loaded.model, "name_or_path", None)
    entry = catalog.models().get(model)
    same = {model, own, entry and catalog.source_of(entry, "hub"), str(Path(model).expanduser())}
    return model if named in same else named


def _targets(model: PreTrainedModel, settings: Settings, config: dict) -> tuple[str, str]:
    """The adapted modules by the settings and by the adapter, in a form that is equal where these are."""
    here = adapt.resolve_target_modules(model, settings.lora.target_modules, settings.lora.layers)
    given = config.get("target_modules") or []
    wanted = given if isinstance(given, str) else ",".join(given)
    if wanted == "all-linear":
        there = adapt.resolve_target_modules(model, wanted)
    elif not wanted:
        there = []
    else:
        names = [name for name, _ in model.named_modules()]
        modules = {name for name in names if _matches(name, given)}
        same = {name for name in names if adapt.is_named(name, ",".join(here))}
        there = here if modules == same else sorted([given] if isinstance(given, str) else given)
    return ", ".join(here), ", ".join(there)


def _matches(name: str, given: str | list[str]) -> bool:
    """Whether PEFT adapts a module with these target modules: an expression for whole names, or suffixes."""
    if isinstance(given, str):
        return re.fullmatch(given, name) is not None
    return adapt.is_named(name, ",".join(given))
