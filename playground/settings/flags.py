"""Names of the settings' flags on the command line."""

PREFIXED = {("train", "seed"), ("lora", "layers")}  # fields whose flag begins with their group's name


def flag_name(group: str, name: str) -> str:
    """The flag of a settings group's field."""
    return "--" + (f"{group}-{name}" if (group, name) in PREFIXED else name).replace("_", "-")
