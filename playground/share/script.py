"""Write the script that repeats a fine-tune with transformers and PEFT alone, from its recipe."""

import json
import re
import textwrap
from collections.abc import Sequence

from playground import ASSETS
from playground.json_values import one_line
from playground.settings import Settings, has_own_layers, stored_quant_type
from playground.share.recipe import Recipe, listed_losses, warmup_steps
from playground.share.template_text import fill_in

TEMPLATE = ASSETS / "share" / "script.py.txt"
WIDTH = 116  # characters of a line of the docstring
ORDER_MARKS = re.compile("[\u202a-\u202e\u2066-\u2069]")  # make source code look like other code (CVE-2021-42574)
EMBEDDED_BYTES = 256_000  # of rows that are written into the script; more of them are a file beside it
NAME, ROWS_NAME = "repeat_run.py", "repeat_run_rows.jsonl"
OPTIMIZERS = {
    "adamw": "torch.optim.AdamW",
    "adamw8bit": "bitsandbytes.optim.AdamW8bit",
    "paged_adamw": "bitsandbytes.optim.PagedAdamW32bit",
    "paged_adamw8bit": "bitsandbytes.optim.PagedAdamW8bit",
}
SCHEDULES = {
    "linear": "Rises over the first steps, then falls in a line to zero.",
    "cosine": "Rises over the first steps, then falls along a half cosine to zero.",
    "constant": "Rises over the first steps, then stays.",
}
# Measured: 5e-6 on SmolLM2 (tests/bench/results/script.json); at 4 bits 3e-3 on a toy (tests/unit/test_script.py).
TOLERANCE = {
    "float32": (
        "In 32 bits on a CPU the losses agree to about 1e-5: sums are formed in another order, since the run packs rows"
        " into one sequence and this script pads them. Such differences grow with the steps."
    ),
    "half": (
        "In 16 bits the losses agree to about 1e-2: the run multiplies in other kernels and packs rows into one"
        " sequence, and each product is rounded to 8 or 11 bits. Such differences grow with the steps."
    ),
}


def rows_text(rows: Sequence[dict]) -> str:
    """Rows as JSON lines, in which marks that would show the script's text in another order are escaped."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return ORDER_MARKS.sub(lambda mark: f"\\u{ord(mark[0]):04x}", text)


def script_text(recipe: Recipe, rows_file: bool) -> str:
    """The script. rows_file: whether its rows are in a file beside it."""
    return fill_in(TEMPLATE.read_text(encoding="utf-8"), _conditions(recipe, rows_file), _values(recipe))


def requirements(recipe: Recipe) -> list[str]:
    """What pip has to install, in the versions of the run; torch in any, since each machine needs its own."""
    names = ["transformers"]
    names += ["peft"] if recipe.settings.train.method != "full" else []
    names += ["bitsandbytes"] if _is_quantized(recipe) or recipe.settings.train.optimizer != "adamw" else []
    versions = recipe.facts.versions
    pinned = [f"{name}=={versions[name]}" if _is_version(versions.get(name)) else name for name in names]
    return ["torch", *pinned]


def python_list(values: Sequence[str]) -> str:
    """A list of texts as Python source: in one line where it fits, else one entry a line."""
    line = json.dumps(list(values), ensure_ascii=False)
    if len(line) <= 90:
        return line
    return "[\n" + "".join(f"    {json.dumps(value, ensure_ascii=False)},\n" for value in values) + "]"


def module_list(names: Sequence[str]) -> str:
    """Module names as Python source; names that differ in their layer's number alone as a comprehension over it."""
    pattern = re.compile(r"(.*?)(?<![^.])(\d+)(\..+)")
    found = [pattern.fullmatch(name) for name in names]
    matches = [match for match in found if match]
    if len(matches) == len(names) > 8:
        numbers = sorted({int(match[2]) for match in matches})
        parts = sorted({(match[1], match[3]) for match in matches})
        first, last = numbers[0], numbers[-1]
        is_grid = len(parts) * len(numbers) == len(names) and numbers == list(range(first, last + 1))
        if is_grid and not any(brace in name for name in names for brace in "{}"):
            prefixes = {before for before, _ in parts}
            if len(prefixes) == 1:
                ends = json.dumps([after for _, after in parts])
                if len(ends) > 85:
                    ends = "[\n" + "".join(f"        {json.dumps(after)},\n" for _, after in parts) + "    ]"
                prefix = parts[0][0]
                return f'[\n    f"{prefix}{{layer}}{{module}}"\n    for layer in range({first}, {last + 1})\n' + (
                    f"    for module in {ends}\n]"
                )
    return python_list(names)


def _conditions(recipe: Recipe, rows_file: bool) -> set[str]:
    settings, train = recipe.settings, recipe.settings.train
    lora = train.method != "full"
    starts = lora and settings.lora.init != "default"
    held = {
        "lora": lora,
        "quantized": _is_quantized(recipe),
        "seq2seq": recipe.start is not None,
        "masked": any("masked" in row for row in recipe.rows),
        "by_length": recipe.by_length,
        "copies": recipe.facts.dtype != "float32" and (lora or recipe.facts.dtype == "float16"),
        "miss": lora and settings.lora.kind == "miss",
        "pissa": lora and settings.lora.init.startswith("pissa"),
        "exact_svd": settings.lora.init == "pissa",
        "loftq": lora and settings.lora.init == "loftq",
        "start_values": starts,
        "four_bits": settings.load.bits == 4,
        "loraplus": lora and settings.lora.loraplus_lr_ratio != 1,
        "bitsandbytes": train.optimizer != "adamw" or (starts and _is_quantized(recipe)),
        "checkpointing": recipe.facts.recomputed,
        "stopped": recipe.facts.steps < recipe.facts.scheduled,
        "cosine": train.schedule == "cosine",
        "constant": train.schedule == "constant",
        "rows_file": rows_file,
        "folder_model": not recipe.model,
    }
    return {name for name, holds in held.items() if holds}


def _values(recipe: Recipe) -> dict[str, str]:
    settings, facts, train = recipe.settings, recipe.facts, recipe.settings.train
    lora, full, stopped = settings.lora, train.method == "full", facts.steps < facts.scheduled
    r, alpha = recipe.rank_and_alpha
    names = [recipe.auto_class, "AutoTokenizer", *(["BitsAndBytesConfig"] if _is_quantized(recipe) else [])]
    return {
        "title": _plain(f"Repeat a fine-tune: {recipe.title} (run {recipe.run} of the fine-tuning playground)."),
        "install": f"pip install {' '.join(requirements(recipe))}",
        "file_name": NAME,
        "model_help": "--model FOLDER" if not recipe.model else "       # or with --model FOLDER",
        "tolerance": _plain(TOLERANCE["float32" if facts.dtype == "float32" else "half"]),
        "notes": _notes(recipe),
        "transformers_names": ", ".join(names),
        "model": json.dumps(recipe.model),
        "dtype": facts.dtype,
        "seed": str(train.seed),
        "steps": str(facts.steps),
        "scheduled": str(facts.scheduled),
        "batch_size": str(train.batch_size),
        "micro_batch_size": str(train.micro_batch_size or train.batch_size),
        "lr": repr(train.lr),
        "warmup_steps": str(warmup_steps(facts, train)),
        "pad": str(recipe.pad),
        "start": str(recipe.start),
        "auto_class": recipe.auto_class,
        "quantization": _quantization(settings),
        "task_type": "CAUSAL_LM" if recipe.start is None else "SEQ_2_SEQ_LM",
        "r": str(r),
        "rank": str(lora.r),
        "niter": lora.init.rsplit("_", 1)[-1],
        "alpha": f"{alpha:.16g}",
        "dropout": repr(lora.dropout),
        "target_modules": module_list(recipe.target_modules),
        "lora_options": _lora_options(recipe),
        "schedule_text": SCHEDULES[train.schedule],
        "total_name": "SCHEDULED_STEPS" if stopped else "STEPS",
        "ratio": repr(lora.loraplus_lr_ratio),
        "times_ratio": ' * group["ratio"]' if not full and lora.loraplus_lr_ratio != 1 else "",
        "optimizer": OPTIMIZERS[train.optimizer],
        "optimizer_options": "weight_decay=0.0, fused=True" if train.optimizer == "adamw" else "weight_decay=0.0",
        "model_default": "this has to be given" if not recipe.model else "the run's",
        "out": "model" if full else "adapter",
        "saved": "the model" if full else "the adapter",
        "losses": _losses(listed_losses(facts)),
        "rows": rows_text(recipe.rows),
        "rows_name": ROWS_NAME,
    }


def _is_quantized(recipe: Recipe) -> bool:
    """Whether the script quantizes while it loads; weights that are stored quantized bring their own config.

    transformers has no layers like this program's of 8 bits, so such a run is repeated at 16 bits.
    """
    load = recipe.settings.load
    return load.bits in (4, 8) and not recipe.stored and not has_own_layers(load)


def _quantization(settings: Settings) -> str:
    load = settings.load
    if load.bits == 8:
        return "load_in_8bit=True"
    options = [
        "load_in_4bit=True",
        f'bnb_4bit_quant_type="{stored_quant_type(load)}"',
        f"bnb_4bit_use_double_quant={load.double_quant}",
        "bnb_4bit_compute_dtype=DTYPE",
    ]
    return "\n" + "".join(f"    {option},\n" for option in options)


def _lora_options(recipe: Recipe) -> str:
    """PEFT's further options of the adapter; MiSS has the first one alone."""
    lora = recipe.settings.lora
    options = [f"modules_to_save={python_list(recipe.modules_to_save)}"] if recipe.modules_to_save else []
    options += ["use_rslora=True"] if lora.use_rslora else []
    options += ["use_dora=True"] if lora.use_dora else []
    return ",\n".join(options) + ("," if options else "")


def _notes(recipe: Recipe) -> str:
    """What isn't repeated, as a list in the docstring."""
    if not recipe.notes:
        return ""
    items = (
        textwrap.fill(_plain(note.text("en")), WIDTH, initial_indent="- ", subsequent_indent="  ")
        for note in recipe.notes
    )
    return "\nWhat differs from the run:\n" + "\n".join(items) + "\n"


def _losses(losses: Sequence[float | None]) -> str:
    return textwrap.fill(f"[{', '.join(map(str, losses))}]", WIDTH, subsequent_indent="    ")


def _plain(text: str) -> str:
    """A text inside a docstring: without what would end or escape it, or show it in another order, wrapped."""
    return textwrap.fill(ORDER_MARKS.sub("", one_line(text)).replace("\\", "/").replace('"', "'"), WIDTH)


def _is_version(version: object) -> bool:
    return isinstance(version, str) and re.fullmatch(r"\d+(\.\d+)+", version) is not None
