"""Renew what the talk shows of earlier measurements: `python -m tests.record_talk`, after tests/bench/lab.py.

Writes assets/recordings/talk.json: {"recorded" (date), "hardware" (name), "points" {model: [lab points]}, "weight"
(what 4 bits make of a layer of SmolLM2)}.
"""

import json

from playground import ASSETS
from playground.planning.weight import weight_picture

RESULT = ASSETS.parent / "tests" / "bench" / "results" / "lab.json"
FORMATS = ("bf16", "int8", "int6", "int5", "int4", "int3", "int2", "nf4", "nvfp4")
FIELDS = ("bytes", "loss", "kernel", "answer", "finish")
MODEL, LAYER, FORMAT = "smollm2-135m-instruct", "model.layers.10.mlp.up_proj.weight", "int4"


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
    }
    text = json.dumps(recording, ensure_ascii=False)
    (ASSETS / "recordings" / "talk.json").write_text(text + "\n", encoding="utf-8")
    print(len(text), "characters")


if __name__ == "__main__":
    main()
