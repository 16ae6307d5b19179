"""The training core on CUDA, at toy size: whatever is saved or sped up, the lesson is the same."""

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
    """A toy with an adapter; dense: its quantized weights are rounded as they would be, and multiplied in bfloat16."""
    model = make_model(family, num_hidden_layers=4, hidden_size=256, intermediate_size=512).to("cuda", torch.bfloat16)
    if bits < 16:
        model = _quantized(model, bits)
    if dense:
        _made_dense(model)
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


def _quantized(model, bits):
    for name, module in list(model.named_modules()):
        if type(module) is not torch.nn.Linear or module is model.get_output_embeddings():
            continue
        shape, bias = (module.in_features, module.out_features), module.bias is not None
        if bits == 4:
            made = Linear4bit(
                *shape, bias=bias, compute_dtype=torch.bfloat16, quant_type="nf4", compress_statistics=True
            )
            made.weight = Params4bit(
                module.weight.data.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True
            )
        else:
            made = Linear8bitLt(*shape, bias=bias, has_fp16_weights=False)
            made.weight = Int8Params(module.weight.data.cpu(), requires_grad=False, has_fp16_weights=False)
        if bias:
            made.bias = module.bias
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, made.to("cuda"))
    return model


def _made_dense(model):
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


def learned(model, policy=None, compiled=False) -> tuple[torch.Tensor, int]:
    """All gradients as one vector, and the most that was allocated on the way; without a dial, as PEFT and bitsandbytes do it."""
    loss_module = Loss(model)
    optimizer, layers = (
        Optimizer([(n, p) for n, p in model.named_parameters() if p.requires_grad]),
        CheckpointedLayers(model),
    )
    batcher = Batcher(loss_module, ROWS, 2, "cuda")
    loss_module.train()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    if policy is None:
        optimizer.backward(loss_module(collate(ROWS, 2, "cuda")))
    else:
        assert batcher.mode == "rows"
        with patch_modules(loss_module, model.get_base_model()), batcher.attention():
            layers.set(policy, compiled)
            optimizer.backward(loss_module(batcher.batch(ROWS)))
            layers.restore()
    return torch.cat([g.flatten() for g in optimizer.gradients()]), torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_packed_lean_compiled_and_checkpointed_teach_the_same(family, bits, compiled):
    model = tuned(family, bits)
    reference, _ = learned(
        tuned(family, bits, dense=bits == 8)
    )  # LLM.int8()'s own product rounds activations too: 14 % of the gradients
    for how in ("off", "2", "all", "offload"):
        found, _ = learned(model, CheckpointPolicy(how), compiled)
        assert (found - reference).norm() < 0.06 * reference.norm(), how


@pytest.mark.parametrize("kind", ["adamw8bit", "paged_adamw", "paged_adamw8bit"])
def test_other_optimizers_go_the_same_way(kind):
    def after(kind):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(128, 128, device="cuda"))
        optimizer = Optimizer([("w", weight)], kind, copies=False)
        for _ in range(20):
            optimizer.backward((weight - 1).square().mean())
            optimizer.step(1e-2)
        return weight.detach()

    ours, theirs = after(kind), after("adamw")
    assert (ours - theirs).abs().mean() < 0.02


def test_the_plan_fits_a_capped_card(tmp_path):
    from toys import save

    from playground.engine.workbench import Workbench
    from playground.settings import Settings

    folder = save(tmp_path / "model", "llama", hidden_size=512, num_hidden_layers=8, intermediate_size=1024)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(
            '{"instruction": "Say %d again and again", "output": "%s"}\n' % (n, "so it is " * 30) for n in range(64)
        )
    )
    settings = Settings().with_values(
        {
            "load": {"model": str(folder), "bits": 16},
            "data": {"source": str(rows), "held_out": 0.0},
            "train": {"max_steps": 3, "batch_size": 64, "max_seq_length": 256},
        }
    )
    total, dials = torch.cuda.get_device_properties(0).total_memory, []
    for room in (4096, 520):
        torch.cuda.set_per_process_memory_fraction(room * 2**20 / total)
        bench = Workbench(tmp_path / "runs")
        try:
            events = list(bench.tune(settings))
        finally:
            bench.free()
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert events[-1]["result"]["steps"] == 3 and events[-1]["result"]["peak"]["reserved"] <= room * 2**20
        dials.append(
            next(e["values"]["checkpointing"] for e in events if e["kind"] == "note" and e["key"] == "note.plan")
        )
    assert dials[0] == "off"
