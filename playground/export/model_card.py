"""A model card (README.md of a hub repo) written from a run: what was trained, on what, how, and what was measured.

Paths of this machine stay out of it: a model or data set that has no public name is named by its file or folder alone.
"""

import json
from pathlib import Path
from typing import Any

from playground import catalog
from playground.catalog.public_name import is_hub_id, public_name
from playground.i18n import format_bytes, translate
from playground.json_values import one_line, read_small_json
from playground.runs import Run, last_result
from playground.settings import Settings, stored_quant_type

ADAPTER_CONFIG = "adapter_config.json"
LIBRARY = {"adapter": "peft", "merged": "transformers"}
REPORTED = ("device_used", "rss", "allocated")  # kinds of memory, the first that a run has


def hub_id(model: str, loaded_from: str = "") -> str | None:
    """The hub's id of a run's base model; None for a folder, a file, or a model that no hub has.

    loaded_from: the folder that it was loaded from, where that is known. A hub's models lie in its cache, so any other
    folder was a path of that name.
    """
    entry = catalog.models().get(model)
    if entry:
        return catalog.source_of(entry, "hub")
    is_path = Path(loaded_from).is_absolute() and f"models--{model.replace('/', '--')}" not in Path(loaded_from).parts
    return model if is_hub_id(model) and not is_path else None


def loaded_from(run: Run) -> str:
    """The folder that a run's base model was loaded from, as its adapter's config names it; "" where none does."""
    try:
        config = read_small_json(run.adapter / ADAPTER_CONFIG)
        return str(config.get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def model_card(run: Run, content: str, lang: str, exported: dict[str, Any] | None = None) -> str:
    """The card's text. content: "adapter" or "merged"; exported: what the export found (ExportResult's fields)."""
    settings, result = run.settings(), last_result(run)
    folder = loaded_from(run)
    base = hub_id(settings.load.model, folder)

    def word(key: str, **values: Any) -> str:
        return translate(lang, f"export.card.{key}", **values)

    name = base or one_line(catalog.display_name(public_name(settings.load.model)))
    lines = [_front_matter(settings, base, content), f"# {word('title', model=catalog.display_name(name))}", ""]
    lines += [word(f"what_{content}", model=name), ""]
    rows = [
        (word("base"), name),
        (word("license"), _license(settings.load.model) or word("license_unknown")),
        (word("bits"), _bits(settings, lang)),
        (word("data"), _data(settings)),
        (word("rows"), str(result.get("rows", "–"))),
        (word("settings"), _training(settings)),
        (word("steps"), f"{result.get('steps', '–')} / {result.get('total_steps', '–')}"),
        *_losses(result, word),
        *_memory(run, word),
        *_hardware(run, word),
    ]
    difference = (exported or {}).get("difference")
    if difference:
        rows.append((word("difference"), word("difference_value", **difference)))
    if base and _is_offline_copy(settings.load.model, folder):
        lines += [word("offline_base", model=base), ""]
    lines += [f"| | |\n|---|---|\n{''.join(f'| {_cell(label)} | {_cell(value)} |{chr(10)}' for label, value in rows)}"]
    lines += [word("use"), "", "```python", *_usage(content, base or name, settings), "```", ""]
    return "\n".join(lines)


def _front_matter(settings: Settings, base: str | None, content: str) -> str:
    """The card's metadata, as hubs read it (YAML; JSON strings are YAML)."""
    values: dict[str, Any] = {"library_name": LIBRARY[content], "pipeline_tag": "text-generation"}
    if base:
        values["base_model"] = base
    license = _license(settings.load.model)
    known = {"Apache-2.0": "apache-2.0", "MIT": "mit"}.get(license or "")
    if license:
        values["license"] = known or "other"
    if license and not known:
        values["license_name"] = license
    values["tags"] = ["full-fine-tune" if settings.train.method == "full" else "lora", f"{settings.load.bits}-bit"]
    return (
        "---\n"
        + "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
        + "---\n"
    )


def _is_offline_copy(model: str, folder: str) -> bool:
    """Whether a catalog model was loaded from the copy that needs no hub, which was rounded to 4 bits once."""
    entry = catalog.models().get(model)
    own = catalog.source_of(entry, "folder") if entry else None
    return bool(own) and Path(folder).as_posix().endswith(f"/{own}")


def _license(model: str) -> str | None:
    entry = catalog.models().get(model)
    return entry.get("licence") if entry else None


def _bits(settings: Settings, lang: str) -> str:
    bits = translate(lang, "runs.bits", bits=settings.load.bits)
    kind = {8: settings.load.quant_type_8bit, 4: settings.load.quant_type}.get(settings.load.bits)
    return f"{bits} ({kind})" if kind else bits


def _data(settings: Settings) -> str:
    source = settings.data.source
    return public_name(source)[:80] if "\n" not in source else "–"


def _training(settings: Settings) -> str:
    train, lora = settings.train, settings.lora
    parts = [f"method {train.method}", f"lr {train.lr:g}", f"epochs {train.epochs}", f"batch_size {train.batch_size}"]
    parts += [f"max_seq_length {train.max_seq_length}", f"seed {train.seed}"]
    if train.method != "full":
        parts += [f"r {lora.r}", f"alpha {lora.alpha:g}", f"target_modules {lora.target_modules}"]
        parts += [name for name in ("use_dora", "use_rslora") if getattr(lora, name)]
        parts += [f"kind {lora.kind}"] if lora.kind != "lora" else []
        parts += [f"init {lora.init}"] if lora.init != "default" else []
    return ", ".join(parts)


def _losses(result: dict, word: Any) -> list[tuple[str, str]]:
    loss, recall = result.get("loss") or {}, result.get("recall")
    rows = []
    if loss.get("before") is not None and loss.get("after") is not None:
        rows.append((word("loss"), f"{loss['before']:.3f} → {loss['after']:.3f}"))
    if recall:
        rows.append((word("recall"), f"{100 * recall['base']:.0f} % → {100 * recall['tuned']:.0f} %"))
    for language, figure in (result.get("forgetting") or {}).items():
        change = f"{figure['difference']:+.3f}"
        if figure["intervals"]:
            change += " [{:+.3f}, {:+.3f}]".format(*figure["intervals"]["difference"])
        rows.append((word(f"forgetting_{language}"), f"{figure['base']:.3f} → {figure['tuned']:.3f} ({change})"))
    return rows


def _memory(run: Run, word: Any) -> list[tuple[str, str]]:
    """Predicted and measured memory of the fine-tune, of the same kind."""
    events = [event for event in run.events() if event.get("phase") == "tune"]
    predicted: dict = next((event for event in reversed(events) if event["kind"] == "memory_predicted"), {})
    measured: dict = next((event["peak"] for event in reversed(events) if event["kind"] == "memory_measured"), {})
    kind = next((kind for kind in REPORTED if kind in measured), None)
    if kind is None:
        return []
    guess = format_bytes(predicted[kind]) if kind in predicted else "–"
    return [(word("memory"), f"{guess} / {format_bytes(measured[kind])}")]


def _hardware(run: Run, word: Any) -> list[tuple[str, str]]:
    first: dict = next(run.events(), {})
    versions = ", ".join(f"{name} {version}" for name, version in first.get("versions", {}).items())
    return [(word("hardware"), first.get("hardware", {}).get("name", "–")), (word("versions"), versions)]


def _usage(content: str, base: str, settings: Settings) -> list[str]:
    if content == "adapter" and settings.lora.init == "loftq":
        return _usage_with_loftq(base, settings)
    if content == "adapter":
        return [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({base!r})",
            f"base = AutoModelForCausalLM.from_pretrained({base!r})",
            'model = PeftModel.from_pretrained(base, ".")  # this folder, or this repo\'s id',
        ]
    return [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained(".")  # this folder, or this repo\'s id',
        'model = AutoModelForCausalLM.from_pretrained(".")',
    ]


def _usage_with_loftq(base: str, settings: Settings) -> list[str]:
    """The base model has to be quantized as it was: the adapter makes up for what that loses."""
    options: dict[str, Any] = {"load_in_8bit": True}
    if settings.load.bits == 4:
        kind, twice = stored_quant_type(settings.load), settings.load.double_quant
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": twice}
    arguments = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig",
        "",
        f"quantization = BitsAndBytesConfig({arguments})  # LoftQ: as it was trained",
        f"tokenizer = AutoTokenizer.from_pretrained({base!r})",
        f"base = AutoModelForCausalLM.from_pretrained({base!r}, quantization_config=quantization)",
        'model = PeftModel.from_pretrained(base, ".")  # this folder, or this repo\'s id',
    ]


def _cell(text: str) -> str:
    """A text inside a table's cell."""
    return one_line(text).replace("|", "\\|")
