"""What CUDA and its libraries take of this card, for playground/memory/table.py: made-up toys, a fresh process each.

    python tests/gpu/calibrate.py

context: in use beside what torch reserved, once a first tensor is there. load, chat, tune: what has come on top of it after the model is made, after two
answers' first token and after three steps of LoRA, at 16, 8 and 4 bits; workspace: what torch itself allocated for cuBLAS.
"""

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "tests/bench")]


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(one(int(sys.argv[1]), Path(sys.argv[2]))))
        return
    with tempfile.TemporaryDirectory() as work:  # they import side by side, and have the card one at a time
        started = {bits: subprocess.Popen([sys.executable, __file__, str(bits), work], stdout=subprocess.PIPE, text=True) for bits in (16, 8, 4)}
        print(json.dumps({bits: json.loads(process.communicate()[0].splitlines()[-1]) for bits, process in started.items()}, indent=1))


def one(bits: int, work: Path) -> dict:
    import arms
    import torch
    from train_gpu import turn

    from playground.model.load import Loaded, give_back
    from playground.settings import Lora, Settings, Train
    from playground.train.loop import fine_tune
    from playground.train.parallel import Team
    from playground.train.prepare import prepare

    def beside() -> int:
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved()

    with turn(work):
        torch.ones(1, device="cuda")
        found = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "context": beside()}
        before = torch.cuda.memory_allocated()
        left = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
        product = left @ left
        found["workspace"] = torch.cuda.memory_allocated() - before - 2 * left.nbytes
        del left, product
        model = arms.made_up(arms.shape_of("calm", True), bits, "cuda")
        held = Loaded(model, SimpleNamespace(pad_token_id=arms.PAD), "cuda", torch.bfloat16, "")
        found["load"] = beside() - found["context"]
        with torch.no_grad():
            ids = torch.randint(5, 400, (2, 200), device="cuda")
            made = model(input_ids=ids, use_cache=True, logits_to_keep=1)
            model(input_ids=ids[:, :1], past_key_values=made.past_key_values, use_cache=True)
        found["chat"] = beside() - found["context"]
        del made
        give_back()
        train, examples = Train(batch=arms.BATCH, steps=3, checkpointing="all", compile="off"), arms.rows()
        trainer = prepare(held, Settings(lora=Lora(r=arms.RANK), train=train), examples, [], Team("cuda"))
        for _ in fine_tune(trainer, examples, train, threading.Event()):
            pass
        return found | {"tune": beside() - found["context"]}


if __name__ == "__main__":
    main()
