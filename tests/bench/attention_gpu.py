"""Time the tokens of answers with and without cuDNN's attention, which is planned anew for every length.

    python tests/bench/attention_gpu.py        # on one GPU, Hopper or later; a minute

The shapes of Llama-2-7B and Qwen2.5-1.5B with random weights in bfloat16, two rows, 24 tokens after prompts of lengths
that the process hasn't met, then the same again. Arms: with torch's own choice of the kernel, and as this program loads
models (compat.leave_out_cudnn_attention); each in a process by itself. Medians of three lengths.
"""

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import arms

LIBRARIES = ("torch", "transformers")
MODELS = {"llama": "meta-llama/Llama-2-7b-hf", "qwen2-1b": "Qwen/Qwen2.5-1.5B"}
KERNELS = ("torch's choice", "without cuDNN")
ARMS = [f"{model}/{kernels}" for model in MODELS for kernels in KERNELS]
PROMPTS, ANSWER, ROWS = (211, 467, 803), 24, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/attention_gpu.json")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(measure(*options.arm.split("/"))))
        return
    rounds, hardware = [], None
    for arm in ARMS:
        measured = arms.attempt(partial(arms.last_line, [sys.executable, __file__, "--arm", arm]))
        hardware = measured.pop("hardware", hardware)
        rounds.append({"round": 1, "arm": arm} | measured)
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
        report = arms.report("seconds of a token by attention kernel", LIBRARIES, rounds, hardware=hardware)
        arms.write(options.out, report)
    columns = {"first_ms": "{:.1f}", "again_ms": "{:.1f}"}
    print(arms.table(report["medians"], columns) + arms.failures(rounds))


def measure(shape: str, kernels: str) -> dict[str, Any]:
    """Milliseconds of a token of the first answer at a new length, and of the same answer again."""
    import predict_seconds
    import random_models
    import torch

    from playground import compat
    from playground.memory.meter import hardware
    from playground.predict import meta_model

    network = predict_seconds.without_values(meta_model.config_of(MODELS[shape]), torch.bfloat16)
    model = random_models.with_random_weights(network, 16, "cuda")
    if kernels == "without cuDNN":
        compat.leave_out_cudnn_attention()
    else:
        torch.backends.cuda.enable_cudnn_sdp(True)
    _answer(model, 40)  # what only a process's first answer takes
    times = [[_answer(model, prompt) for _ in range(2)] for prompt in PROMPTS]
    first, again = (1000 * statistics.median(column) for column in zip(*times))
    return {"first_ms": round(first, 2), "again_ms": round(again, 2), "hardware": hardware("cuda")}


def _answer(model: Any, prompt: int) -> float:
    """Seconds of a token, those of the prompt shared among them."""
    import random_models
    import torch

    ids = torch.full((ROWS, prompt), 5, dtype=torch.long, device="cuda")
    lengths = {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER}
    torch.cuda.synchronize()
    began = time.perf_counter()
    with torch.no_grad():
        model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=random_models.PAD, **lengths
        )
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / ANSWER


if __name__ == "__main__":
    main()
