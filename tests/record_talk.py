"""Renew what the talk shows of earlier measurements: `python -m tests.record_talk`, after tests/bench/lab.py.

Writes assets/recordings/talk.json: {"recorded" (date), "hardware" (name), "points" {model: [lab points]}, "weight"
(what 4 bits make of a layer of SmolLM2), "peft" ([{"model", "predicted", "measured"}], bytes by what is trained)}.
"""

import json

from playground import ASSETS
from playground.planning.forecast import predict_full_rows
from playground.planning.weight import weight_picture
from playground.settings import Settings
from playground.ui.talk_models import PEFT_RUN

RESULT = ASSETS.parent / "tests" / "bench" / "results" / "lab.json"
FORMATS = ("bf16", "int8", "int6", "int5", "int4", "int3", "int2", "nf4", "nvfp4")
FIELDS = ("bytes", "loss", "kernel", "answer", "finish")
MODEL, LAYER, FORMAT = "smollm2-135m-instruct", "model.layers.10.mlp.up_proj.weight", "int4"
# What PEFT's README reports of an A100 with 80 GB, in GB (10**9 bytes); 0: out of memory.
PEFT_README = {"bigscience/T0_3B": (47.14, 14.4), "bigscience/mt0-xxl": (0, 56), "bigscience/bloomz-7b1": (0, 32)}


def main() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    points: dict[str, list[dict]] = {}
    for entry in result["rounds"]:
        model, format = entry["arm"].split(", ")
        if format in FORMATS:
            points.setdefault(model, []).append({"format": format, **{name: entry[name] for name in FIELDS}})
    recording = {
        "recorded": result["date"][:10],
        "hardware": f"{result['hardware']['name']}, {result['hardware']['cores']}",
        "points": points,
        "weight": weight_picture(MODEL, LAYER, FORMAT) | {"layers": []},
        "peft": [_peft_entry(model, *figures) for model, figures in PEFT_README.items()],
    }
    text = json.dumps(recording, ensure_ascii=False)
    (ASSETS / "recordings" / "talk.json").write_text(text + "\n", encoding="utf-8")
    print(len(text), "characters")


def _peft_entry(model: str, full: float, lora: float) -> dict:
    """A model of PEFT's table: bytes predicted here and measured there, with all weights trained and with LoRA."""
    predicted = {}
    for method in ("full", "lora"):
        run = Settings().with_values(PEFT_RUN).with_values({"load": {"model": model}, "train": {"method": method}})
        predicted[method] = predict_full_rows(run, "cuda", 0)["need"]
    return {"model": model, "predicted": predicted, "measured": {"full": int(full * 1e9), "lora": int(lora * 1e9)}}


if __name__ == "__main__":
    main()
