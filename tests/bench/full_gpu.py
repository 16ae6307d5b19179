"""A full fine-tune of 3 billion weights in 24 GB of GPU memory: gradients and optimizer states wait in main memory.

    python tests/bench/full_gpu.py                  # both arms; one GPU with 48 GB or more
    python tests/bench/full_gpu.py --deterministic  # the same with torch's deterministic kernels: equal losses, weights
    python tests/bench/full_gpu.py --cpu            # does it run? tiny, on the CPU

Qwen2.5-3B's shape with random weights in bfloat16, made on the GPU; 32 rows of 5,024 tokens a step, 4 steps, AdamW.
Arms: "offloaded" (`offload_optimizer`) on a GPU that the program itself caps at 24 GB (24 × 10⁹ bytes), everything else
as the program plans it; "resident", all on the whole GPU, by the plan of the first.

Predicted for a GPU of 24 GB before the first step; measured by torch (allocated, reserved), the driver (device) and the
system (main: resident memory of the process; of the first arm alone, since the second inherits what the first has
left). step_s, tokens_per_s: over the steps after the first. update_s: of these, in the optimizer. prepare_s: building
the trainer, with page-locking main memory. weights: a digest of all weights after the last step. Without
--deterministic, attention's backward pass adds in another order each time, so that losses differ a little from the
second step on.
"""

import argparse
import gc
import hashlib
import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arms
import random_models
from larger_gpu import peaks_on_gpu
from train_gpu import LIBRARIES

MODEL, GPU_BYTES, STEPS, LR = "Qwen/Qwen2.5-3B", 24 * 10**9, 4, 1e-5
COLUMNS = {
    "plan": "{}",
    "allocated_gib": "{:.2f}",
    "predicted_gib": "{:.2f}",
    "reserved_gib": "{:.2f}",
    "device_gib": "{:.2f}",
    "predicted_device_gib": "{:.2f}",
    "main_gib": "{:.2f}",
    "predicted_main_gib": "{:.2f}",
    "tokens_per_s": "{:,.0f}",
    "step_s": "{:.3f}",
    "update_s": "{:.3f}",
    "prepare_s": "{:.1f}",
    "first_loss": "{:.5f}",
    "last_loss": "{:.5f}",
    "weights": "{}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/full_gpu.json")
    parser.add_argument("--deterministic", action="store_true", help="slower: kernels that repeat to the bit")
    parser.add_argument("--cpu", action="store_true", help="tiny, to try it out")
    options = parser.parse_args()
    from playground.memory.meter import hardware

    device, rounds = "cpu" if options.cpu else "cuda", []
    if options.deterministic:
        _repeat_to_the_bit()
    if options.cpu:
        _offload_on_cpu()
    settings = settings_of(offload=True)
    for name in ("offloaded", "resident"):
        began = time.perf_counter()
        result = arms.attempt(lambda settings=settings: measure_arm(settings, device))
        rounds.append({"arm": name, "round": 1, **result, "arm_s": round(time.perf_counter() - began, 1)})
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
        report = arms.report("a full fine-tune in 24 GB", LIBRARIES, rounds, hardware=hardware(device))
        arms.write(options.out, report | {"deterministic": options.deterministic})
        settings = settings_of(offload=False, plan=result.get("plan", ""))
    print(arms.table({r["arm"]: arms.medians([r]) for r in rounds}, COLUMNS) + arms.failures(rounds))


def settings_of(offload: bool, plan: str = "") -> Any:
    """An arm's settings. plan: its checkpointing and the tokens of a micro-batch; else as the program chooses."""
    from playground.settings import Load, Settings, Train

    train = Train(
        method="full",
        offload_optimizer=offload,
        lr=LR,
        batch_size=random_models.BATCH,
        max_steps=STEPS,
        compile="off",
    )
    if plan:
        checkpointing, tokens = plan.removesuffix(" tokens").split(", ")
        train = replace(train, gradient_checkpointing=checkpointing, max_tokens_per_micro_batch=int(tokens))
    simulated = GPU_BYTES / 2**30 if offload else 0.0
    return Settings(load=Load(model=MODEL, bits=16, simulate_gpu_gib=simulated), train=train)


def measure_arm(settings: Any, device: str) -> dict:
    """Predict and measure one arm."""
    from playground.memory.card_limit import limit_cuda_memory
    from playground.memory.release import release_memory

    try:
        with limit_cuda_memory(settings.load, device):
            return _measure(settings, device)
    finally:
        gc.collect()
        release_memory()


def _measure(settings: Any, device: str) -> dict:
    import torch
    from peer import synchronize
    from predict_seconds import _without_values

    from playground.model.load import LoadedModel
    from playground.predict import meta_model
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer, try_batching

    config, examples = meta_model.config_of(settings.load.model), random_models.example_rows()
    if device == "cpu":
        config = _tiny(config)
    began = time.perf_counter()
    network = random_models.with_random_weights(_without_values(config, torch.bfloat16), 16, device)
    synchronize()
    result: dict[str, Any] = {"build_s": round(time.perf_counter() - began, 1)}
    loaded = LoadedModel(network, SimpleNamespace(pad_token_id=random_models.PAD), device, torch.bfloat16, "")
    batching = try_batching(loaded, examples, []).mode
    result |= _predicted(config, settings, examples, batching)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    trainer = prepare_trainer(loaded, settings, examples, [], Team(device), batching=batching)
    synchronize()
    result |= {"prepare_s": round(time.perf_counter() - began, 1), "batching": batching}
    return result | _train(trainer, examples, settings, device)


def _train(trainer: Any, examples: list, settings: Any, device: str) -> dict:
    """Time the steps, and read memory after the last one."""
    import psutil
    from peer import synchronize

    from playground.train.loop import fine_tune

    ends, updates, losses, notes = [], [], [], []
    step = trainer.optimizer.step

    def timed_step(lr: float) -> None:
        synchronize()
        began = time.perf_counter()
        step(lr)
        synchronize()
        ends.append(time.perf_counter())
        updates.append(ends[-1] - began)

    trainer.optimizer.step = timed_step
    for event in fine_tune(trainer, examples, settings.train, threading.Event()):
        if event["kind"] == "step":
            losses.append(event["loss"])
        else:
            notes.append(event["key"])
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
    policy = trainer.plan.policy
    return {
        "plan": f"{policy.checkpointing}, {policy.tokens} tokens",
        "main_gib": arms.gib(psutil.Process().memory_info().rss),
        "waiting_gib": arms.gib(trainer.optimizer.main_memory_bytes()),
        **(peaks_on_gpu() if device == "cuda" else {}),
        "tokens_per_s": round(sum(len(example.ids) for example in examples) / seconds),
        "step_s": round(seconds, 3),
        "update_s": round(sum(updates[1:]) / len(updates[1:]), 3),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "losses": " ".join(map(str, losses)),
        "notes": " ".join(notes),
        "weights": _digest(trainer.optimizer.parameters),
    }


def _predicted(config: Any, settings: Any, examples: list, batching: str) -> dict:
    """Predictions in GiB; of the arm on the whole GPU too, which is predicted by its plan."""
    import torch

    from playground.predict import phases

    capacity = int(settings.load.simulate_gpu_gib * 2**30)
    target = phases.Target("cuda", torch.bfloat16, capacity)
    lengths, labelled = [len(e.ids) for e in examples], [e.labelled for e in examples]
    tuned = phases.predict_tune(config, settings, target, lengths, labelled, batching=batching)
    return {
        "predicted_gib": arms.gib(tuned["allocated"]),
        "predicted_reserved_gib": arms.gib(tuned["reserved"]),
        "predicted_device_gib": arms.gib(tuned["device_used"]),
        "predicted_main_gib": arms.gib(tuned.get("main_memory", 0)),
        "predicted_parts": ", ".join(f"{part} {arms.gib(size)}" for part, size in tuned["parts"].items()),
        "predicted_plan": f"{tuned['checkpointing']}, {tuned['budget']} tokens",
    }


def _digest(parameters: list) -> str:
    """A digest of all weights: of the sums of their bits, parameter by parameter."""
    import torch

    with torch.no_grad():
        sums = [parameter.view(torch.int16).sum(dtype=torch.int64) for parameter in parameters]
    return hashlib.sha256(str(torch.stack(sums).tolist()).encode()).hexdigest()[:12]


def _repeat_to_the_bit() -> None:
    """Have torch's kernels, attention's backward pass among them, give the same sums in every run; else they raise."""
    import os

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    import torch

    torch.use_deterministic_algorithms(True)  # with warn_only, attention wouldn't repeat


def _offload_on_cpu() -> None:
    """Have a fine-tune on the CPU offload its optimizer too: within main memory."""
    from playground.train import prepare

    prepare.offloads = lambda train, device: train.offload_optimizer  # type: ignore[assignment]


def _tiny(config: Any) -> Any:
    """The shape with a few small layers."""
    for name, value in random_models.TINY.items():
        setattr(config, name, value)
    config.layer_types = config.layer_types[: config.num_hidden_layers]
    return config


if __name__ == "__main__":
    main()
