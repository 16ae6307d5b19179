"""Write assets/catalog/requirements.json: each model's memory needs at 4 bits, and the layers that LoRA adapts.

    python -m playground.planning.build_requirements

Predicting takes seconds a model and the page shows all models at once, so the figures are written down once for every
shape in the catalog. Run it again after a change of the catalog or of the predictions; tests/unit/test_catalog.py
says when.
"""

import json
import sys

import torch

from playground import ASSETS, catalog
from playground.model import adapt
from playground.planning import largest
from playground.predict import meta_model
from playground.settings import Load, Lora

BITS = 4


def requirements(model: str) -> dict:
    """One shape's entry: {"id", "cuda": {"chat", "tune"}, "cpu": {"chat", "tune"} (bytes), "targets" (module names)}.

    Bytes as largest.required_memory predicts them, on the GPU and in main memory without one; targets of the default
    LoRA settings.
    """
    network = meta_model.build(meta_model.config_of(model), Load(bits=16), torch.bfloat16, "cuda")
    needs = {
        device: {job: largest.required_memory(model, BITS, job, device) for job in ("chat", "tune")}
        for device in ("cuda", "cpu")
    }
    return {"id": model, **needs, "targets": adapt.resolve_target_modules(network, Lora().target_modules)}


def main() -> None:
    """Write the file, with the name of each finished model on standard error."""
    lines = []
    for model in dict.fromkeys(entry["shape"] for entry in catalog.models().values()):
        lines.append("  " + json.dumps(requirements(model)))
        print(model, file=sys.stderr)
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    (ASSETS / "catalog" / "requirements.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
