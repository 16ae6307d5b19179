"""A full fine-tune with an offloaded optimizer on CUDA: to the bit what a resident one computes, in less memory."""

import gc
import threading
from types import SimpleNamespace

import pytest
import torch
import toys
from torch import nn
from toys import make_model

if not torch.cuda.is_available():
    pytest.skip("needs CUDA", allow_module_level=True)

from playground.data.batch import Example
from playground.engine.workbench import Workbench
from playground.model.load import LoadedModel
from playground.runs import accuracy
from playground.settings import Data, Load, Settings, Train
from playground.train import offloaded_optimizer
from playground.train.loop import fine_tune
from playground.train.offloaded_optimizer import OffloadedOptimizer
from playground.train.optimizer import Optimizer
from playground.train.parallel import Team
from playground.train.prepare import prepare_trainer

WIDE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "max_position_embeddings": 1024}
# of at most 64 tokens, which attention's backward pass takes in one block: of several, it adds in any order
ROWS = [Example([5 + (7 * n + row) % 300 for n in range(length)], 4) for row, length in enumerate((40, 60, 17, 55))]


def network(dtype) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(256, 1000), *(nn.Linear(1000, 1000) for _ in range(6)), nn.Linear(1000, 64)]
    return nn.Sequential(*layers).to("cuda", dtype)


@pytest.mark.parametrize("slice_bytes", [2**25, 2**16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_those_of_the_resident_optimizer_to_the_bit(dtype, slice_bytes, monkeypatch):
    monkeypatch.setattr(offloaded_optimizer, "SLICE_BYTES", slice_bytes)
    found = []
    for offload in (False, True):
        model = network(dtype)
        optimizer = OffloadedOptimizer(model.named_parameters()) if offload else None
        optimizer = optimizer or Optimizer(model.named_parameters(), copies=False)
        torch.manual_seed(1)
        for step in range(6):
            for _ in range(1 + step % 3):
                inputs = torch.randn(512, 256, device="cuda").to(dtype)
                optimizer.backward((model(inputs).float() ** 2).sum())
            optimizer.step(1e-3)
        found.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(*found, strict=True))


def trained(offload: bool) -> tuple[list, list, int, int]:
    """(losses, weights, peak of allocated bytes while training, bytes of the weights) of a toy's full fine-tune."""
    model = make_model("llama", **WIDE).to("cuda", torch.bfloat16)
    loaded = LoadedModel(model, SimpleNamespace(pad_token_id=2), "cuda", torch.bfloat16, "")
    train = Train(
        method="full",
        offload_optimizer=offload,
        batch_size=4,
        max_steps=4,
        lr=1e-3,
        compile="off",
        gradient_checkpointing="all",
        max_tokens_per_micro_batch=128,
    )
    trainer = prepare_trainer(loaded, Settings(load=Load(bits=16), train=train), ROWS, [], Team("cuda"))
    size = sum(parameter.nbytes for parameter in model.parameters())
    torch.cuda.reset_peak_memory_stats()
    losses = [e["loss"] for e in fine_tune(trainer, ROWS, train, threading.Event()) if e["kind"] == "step"]
    peak = torch.cuda.max_memory_allocated()
    return losses, [parameter.detach().cpu() for parameter in model.parameters()], peak, size


def test_a_models_fine_tune_is_the_same_without_gradients_and_moments_on_the_card():
    results = []
    for offload in (False, True):
        results.append(trained(offload))
        gc.collect()
    (losses, weights, resident, size), (offloaded_losses, offloaded_weights, offloaded, _) = results
    assert losses == offloaded_losses and len(losses) == 4
    assert all(torch.equal(a, b) for a, b in zip(weights, offloaded_weights, strict=True))
    assert resident - offloaded > 2.3 * size  # of gradients and two moments, less what is on its way


def test_main_memory_is_locked_as_long_as_the_optimizer_is_there():
    model = network(torch.bfloat16)
    optimizer = OffloadedOptimizer(model.named_parameters())
    blocks = list(optimizer._blocks)
    optimizer.backward(model(torch.randn(8, 256, device="cuda", dtype=torch.bfloat16)).float().sum())
    optimizer.step(1e-3)
    assert len(blocks) == 3 * len(optimizer.parameters) and all(block.is_pinned() for block in blocks)
    assert sum(block.nbytes for block in blocks) == optimizer.main_memory_bytes()
    del optimizer
    gc.collect()
    assert not any(block.is_pinned() for block in blocks)


def test_predicted_memory_is_what_is_measured(tmp_path):
    folder = toys.save(tmp_path / "toy", chat=True, **WIDE)
    train = Train(method="full", offload_optimizer=True, max_steps=3, batch_size=8, sample_every="off", eval_rows=0)
    settings = Settings(load=Load(model=str(folder), bits=16), data=Data(end_row=32), train=train)
    workbench = Workbench(tmp_path / "runs")
    run = list(workbench.tune(settings))[-1]["result"]["run"]
    errors = {(pair.phase, pair.kind): pair.error for pair in accuracy.pairs(run, workbench.run.events())}
    workbench.free()
    assert abs(errors["tune", "allocated"]) < 0.05 and abs(errors["tune", "weights"]) < 0.01
    assert ("tune", "rss") in errors
