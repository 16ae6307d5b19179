"""Names that settings had before, so that settings files, runs and commands of earlier versions still work."""

from playground.errors import problem

SCHEMA = 2  # of a settings file, under "schema"; files of version 1 don't say it

OLD_FIELDS = {
    "load": {"card": "simulate_gpu_gib", "anyway": "force"},
    "data": {
        "first": "start_row",
        "last": "end_row",
        "shortest": "min_chars",
        "longest": "max_chars",
        "template": "prompt_format",
        "form": "custom_format",
    },
    "lora": {
        "targets": "target_modules",
        "rslora": "use_rslora",
        "dora": "use_dora",
        "lr_ratio": "loraplus_lr_ratio",
    },
    "train": {
        "steps": "max_steps",
        "batch": "batch_size",
        "micro_batch": "micro_batch_size",
        "length": "max_seq_length",
        "checkpointing": "gradient_checkpointing",
        "tokens": "max_tokens_per_micro_batch",
        "measured": "eval_rows",
    },
}
OLD_VALUES = {("data", "prompt_format", "own"): "custom"}


def with_current_names(values: dict) -> dict:
    """Rename the fields of a settings file, {group: {field: value}}, of this or an earlier version to today's names.

    A field that is given under both names keeps the value of today's. Raises PlaygroundError for a file of a newer
    version.
    """
    schema = values.get("schema", 1)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise problem("error.settings_newer", schema=str(schema)[:20], known=SCHEMA)
    return rename_fields({group: group_values for group, group_values in values.items() if group != "schema"})


def rename_fields(values: dict) -> dict:
    """{group: {field: value}} under today's names, whatever else is in it."""
    return {
        group: _renamed(group, group_values) if isinstance(group_values, dict) else group_values
        for group, group_values in values.items()
    }


def _renamed(group: str, values: dict) -> dict:
    names = OLD_FIELDS.get(group, {})
    if not names.keys().isdisjoint(values):
        values = {names.get(name, name): value for name, value in values.items() if names.get(name) not in values}
    now = {name: new for (of, name, old), new in OLD_VALUES.items() if of == group and values.get(name) == old}
    return values | now
