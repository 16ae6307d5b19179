"""Loss against size in every kind of number format, of the two models that work offline.

    python tests/bench/lab.py --save tests/bench/results/lab.json --figure tests/bench/results/lab.svg

A program command for each model: `python -m playground lab MODEL --formats …`, on the bundled English prose. Seconds a
format: rounding all linear layers, the loss, and an answer of up to 40 tokens.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from arms import PROJECT, report, write

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
FORMATS = (
    *("bf16", "int8", "int6", "int5", "int4", "int3", "int2", "nf4", "fp4", "float4", "quantile3", "ternary"),
    *("int4:32", "int4:256", "fp8", "mxfp4", "nvfp4", "hqq4", "hqq3", "hqq2"),
    *("gguf-q8_0", "gguf-q6_k", "gguf-q5_k", "gguf-q4_k", "gguf-q3_k", "gguf-q2_k", "gguf-q4_0"),
    *("bitsandbytes-int8", "bitsandbytes-nf4"),
)
IN_FIGURE = ("bf16", "int8", "int6", "int5", "int4", "int3", "int2", "nf4", "nvfp4", "hqq3")
STYLE = """<style>
svg { font: 14px system-ui, sans-serif; background: white } text { fill: #172033 } .title { font-weight: 600 }
.grid { stroke: #d3dae4 } .look-0 { --look: #0b5cad } .look-1 { --look: #b45309 }
.join { stroke: var(--look); stroke-width: 2; opacity: .45 }
circle { stroke: var(--look); stroke-width: 2.5; fill: white } circle.kernel { fill: var(--look) }
text.name { fill: var(--look); font-weight: 600; paint-order: stroke; stroke: white; stroke-width: 4px }
</style>"""


def measure(model: str, runs: str) -> list[dict]:
    """A model's points, as the command prints them."""
    command = [sys.executable, "-m", "playground", "lab", model, "--formats", ",".join(FORMATS), "--runs", runs]
    process = subprocess.run([*command, "--accept-terms"], cwd=PROJECT, capture_output=True, text=True, check=True)
    points: list[dict] = json.loads(process.stdout)["points"]
    return points


def draw(points: dict[str, list[dict]]) -> str:
    """The Bit widths tab's figure as a standalone SVG file, with the models' names in it."""
    from playground.catalog import display_name
    from playground.i18n import translate
    from playground.ui import lab_figure

    shown = {(m, p["format"]): p for m, listed in points.items() for p in listed if p["format"] in IN_FIGURE}
    html = lab_figure.figure(partial(translate, "en"), shown)
    svg = html[html.index("<svg") : html.index("</svg>")]
    svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    names = "".join(
        f'<text class="name look-{number}" x="420" y="{130 + 20 * number}">{display_name(model)}</text>'
        for number, model in enumerate(points)
    )
    return svg.replace(">", f">{STYLE}", 1) + names + "</svg>\n"


def main() -> None:
    from playground.memory.meter import hardware

    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--save", type=Path)
    flags.add_argument("--figure", type=Path)
    chosen = flags.parse_args()
    with tempfile.TemporaryDirectory() as runs:
        points = {model: measure(model, runs) for model in MODELS}
    rounds = [
        {"arm": f"{model}, {point['format']}", "ok": True, **{k: v for k, v in point.items() if k != "format"}}
        for model, listed in points.items()
        for point in listed
    ]
    libraries = ("torch", "transformers", "bitsandbytes", "gguf")
    result = report("loss against size in number formats", libraries, rounds, hardware=hardware("cpu"))
    print(json.dumps(result["medians"], indent=1))
    if chosen.save:
        write(chosen.save, result)
    if chosen.figure:
        chosen.figure.write_text(draw(points), encoding="utf-8")


if __name__ == "__main__":
    main()
