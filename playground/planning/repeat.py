"""Answer `repeat_files`: write the script and the notebook that repeat a fine-tune, with its rows as trained.

Rows and their order are rebuilt as a fine-tune makes them, and checked against the tokens of each recorded step. The
model's tokenizer and weights have to be on this machine already: nothing of a model is downloaded.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from playground import catalog, runs
from playground.data.allowed_names import checked_settings
from playground.data.batch import Example, encode, epoch_batches
from playground.data.fit import fit_turns
from playground.data.source import short_name
from playground.data.template_choice import choose_template_for
from playground.errors import Problem
from playground.model import adapt
from playground.model.language_part import auto_class
from playground.model.load import LoadedModel
from playground.model.source import local_folder
from playground.model.start_values import lora_rank_and_alpha
from playground.planning.rows import ignore_progress, read_model, read_rows
from playground.predict import meta_model
from playground.settings import Load, Settings
from playground.share import notebook, script
from playground.share.command_lines import SETTINGS_FILE, settings_text
from playground.share.files import named_failure, write_together
from playground.share.recipe import Recipe, RunFacts, run_facts, setting_notes

AUTO_DTYPE = "bfloat16"  # of a run that doesn't say what its model computed in


def repeat_files(
    root: str, run: str, folder: str, on_progress: Callable = ignore_progress, with_settings: bool = False
) -> dict:
    """Write the files that repeat a run into `folder`: all of them, or none. with_settings: also its settings file.

    Returns {"script", "notebook", "rows" (None where the script holds them), "settings" (or None): paths, "notes":
    [{"key", "values"}], what differs from the run}. Raises PlaygroundError: no such run, not a fine-tune, no step, rows
    or tokenizer that aren't on this machine any more.
    """
    recipe = make_recipe(runs.find(Path(root), run), on_progress)
    rows = script.rows_text(recipe.rows)
    apart = len(rows.encode()) > script.EMBEDDED_BYTES
    out = Path(folder)
    with named_failure(out):
        out.mkdir(parents=True, exist_ok=True)
    files = {
        "script": (script.NAME, script.script_text(recipe, apart)),
        "notebook": (notebook.NAME, notebook.notebook_text(recipe, apart)),
        "rows": (script.ROWS_NAME, rows) if apart else None,
        "settings": (SETTINGS_FILE, settings_text(recipe.settings)) if with_settings else None,
    }
    write_together({out / file[0]: file[1] for file in files.values() if file})
    written = {name: str(out / file[0]) if file else None for name, file in files.items()}
    return written | {"notes": [{"key": note.key, "values": note.values} for note in recipe.notes]}


def make_recipe(run: runs.Run, on_progress: Callable = ignore_progress) -> Recipe:
    """The recipe of a run. Raises PlaygroundError as `repeat_files`."""
    facts, settings = run_facts(run), checked_settings(run.settings())
    _, loaded = read_model(settings.load)
    examples = _examples(settings, loaded, on_progress)
    by_length, is_same = _order(examples, settings, facts)
    name, model_notes = _model_name(settings.load)
    model = loaded.model
    stored = getattr(model.config, "quantization_config", None) is not None
    towers = getattr(model, "left_out", None) is not None
    encoder = model.config.is_encoder_decoder
    notes = [*model_notes, *([] if is_same else [Problem("repeat.note.rows")])]
    notes += [Problem("repeat.note.towers")] if towers else []
    if not facts.dtype:
        facts = replace(facts, dtype=AUTO_DTYPE if settings.load.dtype == "auto" else settings.load.dtype)
    decoder_start = model.generation_config.decoder_start_token_id if encoder else None
    pad = loaded.tokenizer.pad_token_id or 0
    return Recipe(
        run=run.id,
        model=name,
        title=_title(settings),
        settings=settings,
        facts=facts,
        rows=[_row(example, loaded.tokenizer) for example in examples],
        by_length=by_length,
        target_modules=_target_modules(settings, loaded, towers),
        modules_to_save=[name.strip() for name in settings.lora.modules_to_save.split(",") if name.strip()],
        auto_class=auto_class(meta_model.config_of(str(local_folder(settings.load.model)))).__name__,
        pad=pad,
        start=(pad if decoder_start is None else decoder_start) if encoder else None,
        rank_and_alpha=lora_rank_and_alpha(settings.lora),
        stored=stored,
        notes=(*notes, *setting_notes(settings, facts)),
    )


def _examples(settings: Settings, loaded: LoadedModel, on_progress: Callable) -> list[Example]:
    """The rows of a fine-tune, encoded as it does."""
    data, length = settings.data, settings.train.max_seq_length
    _, rows = read_rows(data, on_progress)
    questions = [row.instruction for row in rows.train]
    template, _ = choose_template_for(loaded, data.prompt_format, questions, data.custom_format)
    fitted, _ = fit_turns(rows.train, template, length)
    return encode(fitted, template, length, data.train_on_prompt)[0]


def _order(examples: list[Example], settings: Settings, facts: RunFacts) -> tuple[bool, bool]:
    """Whether the run put rows of similar length together, and whether these are the rows of its steps."""
    choices = [not facts.packed] if facts.packed is not None else [False, True]
    for by_length in choices:
        if _tokens_match(examples, settings, facts, by_length):
            return by_length, True
    return choices[0], False


def _tokens_match(examples: list[Example], settings: Settings, facts: RunFacts, by_length: bool) -> bool:
    """Whether these rows in this order have as many tokens, step by step, as the run's."""
    tokens, step, epoch = 0, 0, 0
    while step < facts.steps:
        batches = epoch_batches(examples, settings.train.batch_size, settings.train.seed + epoch, by_length)
        for batch in islice(batches, facts.steps - step):
            step += 1
            tokens += sum(len(example.ids) for example in batch)
            if facts.tokens.get(step, tokens) != tokens:
                return False
        epoch += 1
    return True


def _row(example: Example, tokenizer: PreTrainedTokenizerBase) -> dict:
    """A row as text, with token ids where the text alone would give others."""
    ids = list(example.ids)
    row: dict = {}
    for part, own in (("prompt", ids[: example.trained_from]), ("answer", ids[example.trained_from :])):
        text = str(tokenizer.decode(own, clean_up_tokenization_spaces=False))
        row[part] = text
        if tokenizer(text, add_special_tokens=False)["input_ids"] != own:
            row[f"{part}_ids"] = own
    if example.masked:
        row["masked"] = [[begin, min(end, len(ids))] for begin, end in example.masked if begin < len(ids)]
    return row


def _model_name(load: Load) -> tuple[str, list[Problem]]:
    """The model's Hub id, or "" where only a folder of this machine is the model, and notes about it."""
    entry = catalog.models().get(load.model)
    folder = local_folder(load.model)
    if entry is None:
        path = Path(load.model).expanduser()
        if not path.exists() and path.suffix != ".gguf":
            return load.model, []
        return "", [Problem("repeat.note.folder", {"name": short_name(load.model)})]
    repo = catalog.source_of(entry, "hub") or ""
    own = catalog.source_of(entry, "folder")
    notes = []
    if own and folder == catalog.cache_folder() / own:
        notes.append(Problem("repeat.note.wheels", {"model": repo or load.model, "folder": own}))
    if entry.get("gated"):
        notes.append(Problem("repeat.note.gated", {"model": repo}))
    return repo, notes


def _target_modules(settings: Settings, loaded: LoadedModel, towers: bool) -> list[str]:
    """PEFT's `target_modules`; whole names for a model with towers, which the script has and the run hadn't."""
    if settings.train.method == "full":
        return []
    names = adapt.resolve_target_modules(loaded.model, settings.lora.target_modules, settings.lora.layers)
    if not towers:
        return names
    return [name for name, _ in loaded.model.named_modules() if any(f".{name}".endswith(f".{end}") for end in names)]


def _title(settings: Settings) -> str:
    train, lora = settings.train, settings.lora
    kind = {"miss": "MiSS", "lora": "LoRA"}[lora.kind] + (f" from {lora.init}" if lora.init != "default" else "")
    what = "every weight" if train.method == "full" else f"{kind} with r {lora.r}"
    model = catalog.display_name(settings.load.model)
    return f"{model} at {settings.load.bits} bits, {what}, on {short_name(settings.data.source)}"
