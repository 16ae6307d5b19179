"""What CUDA and its libraries take of this card, for playground/memory/table.py: made-up toys, a fresh process each.

    python tests/gpu/calibrate.py

context: in use once CUDA has begun. load, chat, tune: what has come on top of it, beside what torch reserved, after a first
kernel, after two answers' first tokens and after three steps of LoRA, at 16, 8 and 4 bits; workspace: what torch itself allocated for cuBLAS.
"""

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "tests/bench")]


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(one(int(sys.argv[1]))))
        return
    started = {
        bits: subprocess.run([sys.executable, __file__, str(bits)], capture_output=True, text=True, check=True)
        for bits in (16, 8, 4)
    }
    print(json.dumps({bits: json.loads(ended.stdout.splitlines()[-1]) for bits, ended in started.items()}, indent=1))


def one(bits: int) -> dict:
    import arms
    import torch

    from playground.memory.release import release_memory
    from playground.model.load import LoadedModel
    from playground.settings import Lora, Settings, Train
    from playground.train.loop import fine_tune
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer

    def beside() -> int:
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved()

    torch.cuda.init()
    found = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "context": beside()}
    torch.ones(1, device="cuda")
    found["load"] = beside() - found["context"]
    before = torch.cuda.memory_allocated()
    left = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
    product = left @ left
    found["workspace"] = torch.cuda.memory_allocated() - before - 2 * left.nbytes
    del left, product
    model = arms.made_up(arms.shape_of("calm", True), bits, "cuda")
    loaded = LoadedModel(model, SimpleNamespace(pad_token_id=arms.PAD), "cuda", torch.bfloat16, "")
    with torch.no_grad():
        ids = torch.randint(5, 400, (2, 200), device="cuda")
        made = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        model(input_ids=ids[:, :1], past_key_values=made.past_key_values, use_cache=True)
    found["chat"] = beside() - found["context"]
    del made
    release_memory()
    train, examples = (
        Train(batch_size=arms.BATCH, max_steps=3, gradient_checkpointing="all", compile="off"),
        arms.rows(),
    )
    trainer = prepare_trainer(loaded, Settings(lora=Lora(r=arms.RANK), train=train), examples, [], Team("cuda"))
    for _ in fine_tune(trainer, examples, train, threading.Event()):
        pass
    return found | {"tune": beside() - found["context"]}


if __name__ == "__main__":
    main()
