"""Training on CUDA at toy size: whatever saves memory or time gives the same gradients."""

import json

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs CUDA", allow_module_level=True)

from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from peft import LoraConfig, get_peft_model
from toys import make_model

from playground.data.batch import Example, collate
from playground.model.adapt import resolve_target_modules
from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers, CheckpointPolicy
from playground.train.loss import Loss
from playground.train.optimizer import Optimizer
from playground.train.patches import patch_modules

ROWS = [Example(list(range(5, 5 + n)), 4) for n in (40, 90, 17, 63)]


def tuned(family, bits=16, dense=False):
    """A toy model with an adapter; dense: its weights are rounded by quantization, and multiplied in bfloat16."""
    model = make_model(family, num_hidden_layers=4, hidden_size=256, intermediate_size=512).to("cuda", torch.bfloat16)
    if bits < 16:
        model = quantize(model, bits)
    if dense:
        make_dense(model)
    torch.manual_seed(1)
    model = get_peft_model(
        model.requires_grad_(False),
        LoraConfig(r=8, target_modules=resolve_target_modules(model, "all-linear"), task_type="CAUSAL_LM"),
        autocast_adapter_dtype=False,
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def quantize(model, bits):
    for name, module in list(model.named_modules()):
        if type(module) is not torch.nn.Linear or module is model.get_output_embeddings():
            continue
        shape, bias = (module.in_features, module.out_features), module.bias is not None
        if bits == 4:
            layer = Linear4bit(
                *shape, bias=bias, compute_dtype=torch.bfloat16, quant_type="nf4", compress_statistics=True
            )
            layer.weight = Params4bit(
                module.weight.data.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True
            )
        else:
            layer = Linear8bitLt(*shape, bias=bias, has_fp16_weights=False)
            layer.weight = Int8Params(module.weight.data.cpu(), requires_grad=False, has_fp16_weights=False)
        if bias:
            layer.bias = module.bias
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.to("cuda"))
    return model


def make_dense(model):
    for name, module in list(model.named_modules()):
        if isinstance(module, Linear8bitLt):
            plain = torch.nn.Linear(
                module.in_features,
                module.out_features,
                bias=module.bias is not None,
                device="cuda",
                dtype=torch.bfloat16,
            )
            plain.weight.data = (module.weight.data * (module.weight.SCB[:, None] / 127)).to(torch.bfloat16)
            plain.bias = module.bias
            model.set_submodule(name, plain)


def gradients(model, policy=None, compiled=False) -> torch.Tensor:
    """All gradients as one vector; without a policy, computed by PEFT and bitsandbytes themselves."""
    loss_module = Loss(model)
    optimizer, layers = (
        Optimizer([(n, p) for n, p in model.named_parameters() if p.requires_grad]),
        CheckpointedLayers(model),
    )
    batcher = Batcher(loss_module, ROWS, 2, "cuda")
    loss_module.train()
    if policy is None:
        optimizer.backward(loss_module(collate(ROWS, 2, "cuda")))
    else:
        assert batcher.mode == "rows"
        with patch_modules(loss_module, model.get_base_model()), batcher.attention():
            layers.set(policy, compiled)
            optimizer.backward(loss_module(batcher.batch(ROWS)))
            layers.restore()
    return torch.cat([g.flatten() for g in optimizer.gradients()])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_packed_compiled_and_checkpointed_give_the_same_gradients(family, bits, compiled):
    model = tuned(family, bits)
    # LLM.int8()'s own product rounds activations too: 14 % of the gradients
    reference = gradients(tuned(family, bits, dense=bits == 8))
    for how in ("off", "2", "all", "offload"):
        actual = gradients(model, CheckpointPolicy(how), compiled)
        assert (actual - reference).norm() < 0.06 * reference.norm(), how


@pytest.mark.parametrize("kind", ["adamw8bit", "paged_adamw", "paged_adamw8bit"])
def test_other_optimizers_give_nearly_the_same_weights(kind):
    def after(kind):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(128, 128, device="cuda"))
        optimizer = Optimizer([("w", weight)], kind, copies=False)
        for _ in range(20):
            optimizer.backward((weight - 1).square().mean())
            optimizer.step(1e-2)
        return weight.detach()

    assert (after(kind) - after("adamw")).abs().mean() < 0.02


def test_the_plan_fits_a_capped_card(tmp_path):
    from toys import save

    from playground.engine.workbench import Workbench
    from playground.settings import Settings

    folder = save(tmp_path / "model", "llama", hidden_size=512, num_hidden_layers=8, intermediate_size=1024)
    rows = tmp_path / "rows.jsonl"
    texts = [{"instruction": f"Say {n} again and again", "output": "so it is " * 30} for n in range(64)]
    rows.write_text("".join(json.dumps(text) + "\n" for text in texts))
    settings = Settings().with_values(
        {
            "load": {"model": str(folder), "bits": 16},
            "data": {"source": str(rows), "held_out": 0.0},
            "train": {"max_steps": 3, "batch_size": 64, "max_seq_length": 256},
        }
    )
    total, policies = torch.cuda.get_device_properties(0).total_memory, []
    for room in (4096, 520):
        torch.cuda.set_per_process_memory_fraction(room * 2**20 / total)
        bench = Workbench(tmp_path / "runs")
        try:
            events = list(bench.tune(settings))
        finally:
            bench.free()
            torch.cuda.set_per_process_memory_fraction(1.0)
        notes = {event["key"]: event["values"] for event in events if event["kind"] == "note"}
        assert events[-1]["result"]["steps"] == 3
        assert "note.stepped_down" not in notes, notes  # the plan itself fitted
        policies.append(notes["note.plan"])
    assert policies[0]["checkpointing"] == "off" and policies[1] != policies[0]
