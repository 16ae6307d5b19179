"""The order of modules' and tensors' names, in which layer 10 comes behind layer 9."""


def natural_order(name: str) -> list[tuple[int, str]]:
    """A key to sort names by. Only a part that int() takes counts as a number, which a superscript isn't."""
    return [(int(part), "") if part.isdecimal() and len(part) < 20 else (-1, part) for part in name.split(".")]
