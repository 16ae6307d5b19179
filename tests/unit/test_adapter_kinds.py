"""MiSS, PiSSA and LoftQ: as PEFT computes them, beside a base model that stays as it was."""

import threading

import pytest
import torch
from peft import LoraConfig, MissConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from toys import keys, make_model, make_tokenizer

from playground.data.batch import Example
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.model import adapt
from playground.model.load import LoadedModel, load_model
from playground.model.start_values import repeated_identity
from playground.runs import accuracy
from playground.settings import Load, Lora, Settings, parse
from playground.train.loop import fine_tune
from playground.train.parallel import Team
from playground.train.prepare import prepare_trainer

IDS = torch.arange(3, 27)[None]
ROWS = [Example(list(range(3 + n, 23 + 2 * n)), 5) for n in range(6)]
KINDS = {"miss": {"kind": "miss"}, "pissa": {"init": "pissa"}, "loftq": {"init": "loftq"}}
# Every kind at every bit width that it is for. LoftQ needs a quantized base.
AT_BITS = [(kind, bits) for kind in KINDS for bits in (32, 16, 8, 4) if kind != "loftq" or bits < 16]


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits.float()


def load(folder, bits):
    return load_model(folder, Load(model=str(folder), bits=bits, device="cpu"), lambda *_: None)


def losses(model, lora):
    """Of this program's fine-tune, step by step."""
    settings = Settings().with_values(
        {
            "load": {"bits": 32, "device": "cpu"},
            "lora": lora,
            "train": {"max_steps": 12, "batch_size": len(ROWS), "lr": 5e-3, "schedule": "constant", "warmup": 0.0},
        }
    )
    loaded = LoadedModel(model, make_tokenizer(False), "cpu", torch.float32, "")
    trainer = prepare_trainer(loaded, settings, ROWS, [], Team("cpu"))
    events = list(fine_tune(trainer, ROWS, settings.train, threading.Event(), lambda step: None))
    return [event["loss"] for event in events if event["kind"] == "step"]


def plain_losses(model, config):
    """Of a loop on PEFT's own adapter, step by step."""
    torch.manual_seed(0)
    model = get_peft_model(model.requires_grad_(False), config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.0)
    width, found = max(len(row.ids) for row in ROWS), []
    ids = torch.tensor([[*row.ids, *[2] * (width - len(row.ids))] for row in ROWS])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in ROWS])
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :5] = -100
    for _ in range(12):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return found


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("r", [8, 6])  # 6 doesn't divide the widths
def test_miss_learns_as_pefts_own(family, r):
    targets = adapt.resolve_target_modules(make_model(family), "all-linear")
    expected = plain_losses(make_model(family), MissConfig(r=r, target_modules=targets, task_type="CAUSAL_LM"))
    ours = losses(make_model(family), {"kind": "miss", "r": r})
    assert ours == pytest.approx(expected, rel=2e-4) and ours[-1] < ours[0] - 0.3


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}])
def test_pissa_learns_as_pefts_own(family, options):
    targets = adapt.resolve_target_modules(make_model(family), "all-linear")
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=targets, init_lora_weights="pissa", task_type="CAUSAL_LM", **options
    )
    ours = losses(make_model(family), {"init": "pissa", "r": 4, "alpha": 6, **options})
    assert ours == pytest.approx(plain_losses(make_model(family), config), rel=2e-3) and ours[-1] < ours[0] - 0.3


@pytest.fixture(scope="module")
def tuned(toy, lesson, tmp_path_factory):
    """`tuned(kind, bits)`: (workbench, its model, events, run's folder), once for each."""
    root, done = tmp_path_factory.mktemp("kinds"), {}

    def run(kind, bits):
        if (kind, bits) not in done:
            folder = toy("llama", hidden_size=256, intermediate_size=512)  # tensors are counted in pieces of 512 bytes
            settings = parse(
                {
                    "load": {"model": str(folder), "bits": bits, "device": "cpu", "dtype": "bfloat16"},
                    "data": {"source": str(lesson)},
                    "lora": KINDS[kind],
                    "train": {"max_steps": 6, "batch_size": 8, "lr": 3e-3, "sample_every": "off", "eval_rows": 4},
                }
            )
            workbench = Workbench(root)
            events = list(workbench.tune(settings))
            run = root / events[-1]["result"]["run"]
            done[kind, bits] = folder, logits(workbench._slot.loaded.model), workbench._slot.loaded, events, run
        return done[kind, bits]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("kind,bits", AT_BITS)
def test_each_kind_trains_beside_an_unchanged_base_and_loads_with_plain_peft(tuned, kind, bits):
    folder, trained, loaded, events, run = tuned(kind, bits)
    steps = [event["loss"] for event in events if event["kind"] == "step"]
    assert steps[-1] < steps[0] - 0.1
    untouched = load(folder, bits).model
    with loaded.model.disable_adapter():
        assert torch.equal(logits(loaded.model), logits(untouched))
    plain = PeftModel.from_pretrained(untouched, run / "adapter", autocast_adapter_dtype=False).eval()
    plain = adapt._cast_adapters(plain, loaded.dtype)
    torch.testing.assert_close(logits(plain), trained, rtol=0, atol=1e-5)
    assert (trained - logits(load(folder, bits).model)).abs().max() > 0.1
