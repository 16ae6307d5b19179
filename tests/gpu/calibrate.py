"""Measure what CUDA and its libraries take of this GPU, for playground/memory/constants.py: toy models, a process each.

    python tests/gpu/calibrate.py

Bytes, for each of 16, 8 and 4 bits. context: in use once CUDA is initialized. load, chat, tune: in use on top of it,
without what torch reserved, after a first kernel, after two answers' first tokens and after three steps of LoRA.
workspace: what torch itself allocated for cuBLAS.
"""

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "tests/bench")]


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    figures = {}
    for bits in (16, 8, 4):
        command = [sys.executable, __file__, str(bits)]
        completed = subprocess.run(command, capture_output=True, text=True, check=True)
        figures[bits] = json.loads(completed.stdout.splitlines()[-1])
    print(json.dumps(figures, indent=1))


def measure(bits: int) -> dict:
    """The figures of one bit width, in this process."""
    import random_models
    import torch

    from playground.memory.release import release_memory
    from playground.model.load import LoadedModel

    torch.cuda.init()
    context = bytes_outside_torch()
    figures = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "context": context}
    torch.ones(1, device="cuda")
    figures["load"] = bytes_outside_torch() - context
    figures["workspace"] = workspace_bytes()
    model = random_models.with_random_weights(random_models.meta_model("calm", True), bits, "cuda")
    tokenizer = cast(Any, SimpleNamespace(pad_token_id=random_models.PAD))
    loaded = LoadedModel(model, tokenizer, "cuda", torch.bfloat16, "")
    answer_first_token(model)
    figures["chat"] = bytes_outside_torch() - context
    release_memory()
    train_three_steps(loaded)
    return figures | {"tune": bytes_outside_torch() - context}


def bytes_outside_torch() -> int:
    """Bytes in use on the GPU without what torch reserved."""
    import torch

    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def workspace_bytes() -> int:
    """What torch allocates for cuBLAS at the first product."""
    import torch

    before = torch.cuda.memory_allocated()
    factor = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
    product = factor @ factor
    return torch.cuda.memory_allocated() - before - factor.nbytes - product.nbytes


def answer_first_token(model: Any) -> None:
    """Read two prompts and generate a token."""
    import torch

    with torch.no_grad():
        ids = torch.randint(5, 400, (2, 200), device="cuda")
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        model(input_ids=ids[:, :1], past_key_values=output.past_key_values, use_cache=True)


def train_three_steps(loaded: Any) -> None:
    """Three steps of LoRA."""
    import random_models

    from playground.settings import Lora, Settings, Train
    from playground.train.loop import fine_tune
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer

    train = Train(batch_size=random_models.BATCH, max_steps=3, gradient_checkpointing="all", compile="off")
    examples = random_models.example_rows()
    trainer = prepare_trainer(
        loaded, Settings(lora=Lora(r=random_models.RANK), train=train), examples, [], Team("cuda")
    )
    for _ in fine_tune(trainer, examples, train, threading.Event()):
        pass


if __name__ == "__main__":
    main()
