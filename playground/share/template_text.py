"""Fill in a template of source code: `$name` is a value, and lines between `# [if name]` and `# [end]` are optional.

`# [if name]` … `# [else]` … `# [end]`, each alone in its line, keep one of the two parts; they can stand inside one
another. A template is read as text and never run.
"""

import re
from collections.abc import Mapping, Set
from string import Template

MARK = re.compile(r"\s*# \[(if (\w+)|else|end)\]\s*$")


def fill_in(template: str, true: Set[str], values: Mapping[str, str]) -> str:
    """The text with its conditions decided and its values filled in; an indented value keeps its indentation.

    true: names of the conditions that hold. A line whose only value is empty is left out. Raises KeyError for a value
    that is missing, and ValueError for a template whose conditions don't end.
    """
    lines: list[str] = []
    for line in _decided(template, true):
        filled = Template(line).substitute(values)
        indent = line[: len(line) - len(line.lstrip())]
        if filled.strip() or not line.strip():
            lines.append(filled.replace("\n", f"\n{indent}"))
    return "\n".join(lines)


def _decided(template: str, true: Set[str]) -> list[str]:
    """The lines whose conditions hold, without the marks."""
    kept: list[str] = []
    conditions: list[bool] = []
    for line in template.split("\n"):
        mark = MARK.match(line)
        if not mark:
            if all(conditions):
                kept.append(line)
        elif mark[1] == "else":
            conditions[-1] = not conditions[-1]
        elif mark[1] == "end":
            conditions.pop()
        else:
            conditions.append(mark[2] in true)
    if conditions:
        raise ValueError("a condition of the template doesn't end")
    return kept
