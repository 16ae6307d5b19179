"""Loss of the written script against the run's, step by step, in another Python environment.

    python -m venv /tmp/fresh && /tmp/fresh/bin/pip install torch transformers peft bitsandbytes
    python tests/bench/script_parity.py --python /tmp/fresh/bin/python --out tests/bench/results/script.json

The other environment has the libraries that the script names, and not this program. SmolLM2-135M-Instruct with the
demo's rows and settings, a few steps of each arm.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
ARMS = {
    "LoRA, 32 bits": {"load": {"bits": 32}},
    "LoRA, nf4, computed in bfloat16": {"load": {"bits": 4}},
    "full, 32 bits": {"load": {"bits": 32}, "train": {"method": "full", "lr": 1e-4}},
}


def measure(name: str, changes: dict, steps: int, python: str, folder: Path) -> dict:
    """Losses of one arm: of the run, and of its script."""
    from playground import catalog
    from playground.engine.workbench import Workbench
    from playground.model.source import local_folder
    from playground.planning.repeat import repeat_files
    from playground.runs import find
    from playground.settings import Settings

    quick = {"train": {"max_steps": steps, "eval_rows": 0, "sample_every": "off"}}
    settings = Settings().with_values(catalog.presets()["demo-en"]["settings"]).with_values(quick).with_values(changes)
    [*_, done] = Workbench(folder / "runs").tune(settings)
    run = find(folder / "runs", done["result"]["run"])
    files = repeat_files(str(folder / "runs"), run.id, str(folder / run.id))
    command = [python, files["script"], "--model", str(local_folder(settings.load.model)), "--out", str(folder / "out")]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    expected = [event["loss"] for event in run.events() if event["kind"] == "step"]
    made = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)  in the run", ran.stdout)]
    assert len(made) == len(expected) == steps, ran.stdout
    differences = [abs(a / b - 1) for a, b in zip(made, expected)]
    return {"arm": name, "run": expected, "script": made, "largest_relative_difference": max(differences)}


def main() -> None:
    """Measure all arms and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", required=True, help="the other environment's python")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    code = f"import json; from importlib.metadata import version; print(json.dumps([version(n) for n in {LIBRARIES}]))"
    other = json.loads(subprocess.run([options.python, "-c", code], capture_output=True, text=True, check=True).stdout)
    chosen = {name: ARMS[name] for name in options.arms}
    found = subprocess.run([options.python, "-c", "import playground"], capture_output=True, cwd="/")
    assert found.returncode, "the other environment has this program"
    with tempfile.TemporaryDirectory() as folder:
        arms = [measure(name, arm, options.steps, options.python, Path(folder)) for name, arm in chosen.items()]
    result = {
        "model": "smollm2-135m-instruct",
        "run_versions": {name: version(name) for name in LIBRARIES},
        "script_versions": dict(zip(LIBRARIES, other)),
        "arms": arms,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for arm in arms:
        print(f"{arm['arm']}: {arm['largest_relative_difference']:.2e}")


if __name__ == "__main__":
    main()
