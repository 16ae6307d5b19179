"""What the models on offer take at 4 bits, and which layers LoRA finds in them: `python -m playground.memory.needs` writes assets/catalog/needs.json.

Written once for every shape, because the page shows all of them at once, and predicting takes seconds a model. To be
run again after a change of the catalog or of the predictions; tests/unit/test_catalog.py says when.
"""

import json
import sys

import torch

from playground import ASSETS, catalog
from playground.model import adapt
from playground.planning import forecast
from playground.predict import meta_model
from playground.settings import Load, Lora

BITS = 4


def requirements(model: str) -> dict:
    """Bytes to chat and to fine-tune, of a card and of main memory without one, and the default's LoRA targets.

    {"id": shape, "cuda": {"chat", "tune"}, "cpu": {"chat", "tune"}, "targets": [names]}, as planner.need asks.
    """
    network = meta_model.build(meta_model.config_of(model), Load(bits=16), torch.bfloat16, "cuda")
    taken = {
        device: {kind: forecast.required_memory(model, BITS, kind, device) for kind in ("chat", "tune")}
        for device in ("cuda", "cpu")
    }
    return {"id": model, **taken, "targets": adapt.resolve_target_modules(network, Lora().target_modules)}


def main() -> None:
    lines = []
    for model in dict.fromkeys(entry["shape"] for entry in catalog.models().values()):
        lines.append("  " + json.dumps(requirements(model)))
        print(model, file=sys.stderr)
    (ASSETS / "catalog" / "needs.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
