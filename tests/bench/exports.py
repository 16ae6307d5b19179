"""What each export of a fine-tuned SmolLM2-135M weighs, takes and changes; llama.cpp reads each GGUF file, where it is.

    python tests/bench/exports.py

One fine-tune of a few steps, then every kind of export by command, each a process of its own. mb: of the file or
folder; s: the command's wall seconds, with imports and loading the model; largest, mean: absolute differences between
the logits of the trained model and of the export as read back; same_next: prompts whose likeliest next token is the
same, of `prompts`. llama_s: seconds in which llama-cpp-python loads the file and answers with eight tokens, llama_text.
"""

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import arms

LIBRARIES = ("torch", "transformers", "peft", "gguf", "llama-cpp-python")
TYPES = ("f16", "q8_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k")
ARMS = {"adapter": ["--to", "adapter"], "merged": ["--to", "merged"]} | {
    f"gguf-{kind}": ["--to", "gguf", "--type", kind] for kind in TYPES
}
PROGRAM = [sys.executable, "-m", "playground"]
PROMPT = "The capital of Japan is"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/exports.json")
    options = parser.parse_args()
    from playground.memory.meter import hardware

    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        runs = ["--runs", f"{folder}/runs"]
        trained = arms.last_line([*PROGRAM, "tune", *runs, "--model", options.model, "--max-steps", "30"])
        for number in range(1, options.rounds + 1):
            for arm in options.arms:
                command = [*PROGRAM, "export", trained["run"], *runs, *ARMS[arm], "--out", f"{folder}/{number}"]
                rounds.append({"round": number, "arm": arm, **arms.attempt(partial(export, command))})
                print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    more = {"hardware": hardware("cpu"), "model": options.model}
    report = arms.report("exports of a fine-tuned model", LIBRARIES, rounds, **more)
    arms.write(options.out, report)
    columns = {"mb": "{:.1f}", "s": "{:.1f}", "largest": "{:.3f}", "mean": "{:.4f}", "same_next": "{:.0f}"}
    print(arms.table(report["medians"], columns), arms.failures(rounds))


def export(command: list[str]) -> dict[str, Any]:
    """The figures of one export. Raises RuntimeError with the command's output if it fails."""
    began = time.perf_counter()
    result = arms.last_line(command)
    found = {"mb": round(result["bytes"] / 1e6, 2), "s": round(time.perf_counter() - began, 2)}
    if result.get("difference"):  # an adapter has none
        names = {"prompts": "prompts", "same_next": "same_next_token", "largest": "largest", "mean": "mean"}
        found |= {name: result["difference"][key] for name, key in names.items()}
    path = Path(result["path"])
    if path.suffix == ".gguf" and find_spec("llama_cpp"):
        found |= run_by_llama_cpp(path)
    return found


def run_by_llama_cpp(path: Path) -> dict[str, Any]:
    """llama.cpp's answer to the prompt, without sampling."""
    from llama_cpp import Llama

    began = time.perf_counter()
    model = Llama(str(path), n_ctx=256, verbose=False)
    text = model.create_completion(PROMPT, max_tokens=8, temperature=0.0)["choices"][0]["text"]
    return {"llama_s": round(time.perf_counter() - began, 2), "llama_text": text}


if __name__ == "__main__":
    main()
