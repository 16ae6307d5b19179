"""What an export is asked for, checked, and how large it will be about. Imports no torch."""

import re
from dataclasses import dataclass
from typing import Any

from playground import catalog
from playground.errors import PlaygroundError, Problem

KINDS = ("adapter", "merged", "gguf", "hub")
# Bits a weight, scales included (gguf.GGML_QUANT_SIZES), by the type of a GGUF file's weights; largest first.
GGUF_BITS = {"f16": 16.0, "q8_0": 8.5, "q6_k": 6.5625, "q5_k": 5.5, "q4_k": 4.5, "q3_k": 3.4375, "q2_k": 2.625}
CONTENTS = ("adapter", "merged")  # of a repo on the hub
MAX_NAME_BYTES = 120
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)  # of Windows
REPO = re.compile(r"(\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True)
class ExportOrder:
    """What is written from a run: `to`, one of KINDS.

    out: the folder that it is written into; "" is the run's own. name: of the file or folder; "" is the usual one.
    type: of a GGUF file's weights. force: whether it replaces what has that name. content: what a repo gets.
    """

    run: str
    to: str = "adapter"
    out: str = ""
    name: str = ""
    type: str = "q8_0"
    force: bool = False
    repo: str = ""
    content: str = "adapter"
    private: bool = True
    lang: str = "en"


def parse_order(values: dict[str, Any]) -> ExportOrder:
    """The order of these fields. Raises PlaygroundError with everything that is wrong with them."""
    order = ExportOrder(**values)
    problems = []
    for field, allowed in (("to", KINDS), ("type", tuple(GGUF_BITS)), ("content", CONTENTS)):
        value = getattr(order, field)
        if value not in allowed:
            problems.append(
                Problem("error.export_choice", {"field": field, "value": str(value)[:80], "allowed": list(allowed)})
            )
    if order.name and not is_file_name(order.name):
        problems.append(Problem("error.export_name", {"name": order.name[:80], "most": MAX_NAME_BYTES}))
    if order.to == "hub" and not REPO.fullmatch(order.repo):
        problems.append(Problem("error.export_repo", {"repo": order.repo[:80]}))
    if problems:
        raise PlaygroundError(*problems)
    return order


def is_file_name(name: str) -> bool:
    """Whether a name can be that of a file in a folder, on any system."""
    plain = not re.search(r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f\ud800-\udfff]', name) and name == name.strip()
    plain = plain and not name.startswith(".") and not RESERVED.fullmatch(name)
    return plain and not name.endswith((".", ".partial")) and len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES


def usual_name(order: ExportOrder, model: str) -> str:
    """The name of the file or folder where the order doesn't give one; model: that of the run's settings."""
    stem = re.sub(r"[^\w.-]+", "-", catalog.display_name(model).lower(), flags=re.ASCII).strip("-.")[:60] or "model"
    return {"adapter": "adapter.zip", "merged": "merged", "gguf": f"{stem}-{order.type}.gguf", "hub": "hub"}[order.to]


def estimated_bytes(order: ExportOrder, model: str, adapter_bytes: int) -> int | None:
    """About how large the export will be; None where the model's size isn't known before it is loaded."""
    content = order.content if order.to == "hub" else order.to
    if content == "adapter":
        return adapter_bytes
    shape = catalog.shape_of(model)
    if shape is None:
        return None
    return round(shape["parameters"] * (GGUF_BITS[order.type] if content == "gguf" else 16) / 8)


def differs_much(difference: dict[str, Any]) -> bool:
    """Whether an export begins at least half of the answers otherwise. difference: of logits.Difference.to_json."""
    return 2 * difference["same_next_token"] <= difference["prompts"]
