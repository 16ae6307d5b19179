"""MiSS, PiSSA and LoftQ: as PEFT computes them, beside a base model that stays as it was."""

import threading

import pytest
import torch
from peft import LoraConfig, MissConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from toys import keys, make_model, make_tokenizer

from playground import compat
from playground.chat.generate import supports_mixed_batches
from playground.data.batch import Example
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.export.model_card import model_card
from playground.model import adapt
from playground.model.adapter_file import layer_of
from playground.model.load import LoadedModel, load_model
from playground.model.merged_weights import merged_model, save_merged
from playground.model.start_values import is_miss, repeated_identity
from playground.runs import accuracy, find
from playground.settings import Generation, Load, Settings, parse
from playground.train.loop import fine_tune
from playground.train.parallel import Team
from playground.train.prepare import prepare_trainer

IDS = torch.arange(3, 27)[None]
ROWS = [Example(list(range(3 + n, 23 + 2 * n)), 5) for n in range(6)]
KINDS = {"miss": {"kind": "miss"}, "pissa": {"init": "pissa"}, "loftq": {"init": "loftq"}}
AT_OTHER_BITS = {("miss", 16), ("miss", 8), ("pissa", 32), ("pissa", 8)}
# Every kind at every bit width that it is for. LoftQ needs a quantized base, and is tried at both with each run.
AT_BITS = [
    pytest.param(kind, bits, marks=[pytest.mark.exhaustive] * ((kind, bits) in AT_OTHER_BITS))
    for kind in KINDS
    for bits in (32, 16, 8, 4)
    if kind != "loftq" or bits < 16
]
# What a fine-tune measures beside its memory and losses depends on no kind of adapter
UNMEASURED = {"sample_every": "off", "measure_forgetting": False, "eval_rows": 4}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits.float()


def load(folder, bits):
    return load_model(folder, Load(model=str(folder), bits=bits, device="cpu"), lambda *_: None)


def distance(one, other):
    return float((one - other).norm() / other.norm())


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
                    "train": {"max_steps": 6, "batch_size": 8, "lr": 3e-3} | UNMEASURED,
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
    base = logits(untouched)
    plain = logits(PeftModel.from_pretrained(untouched, run / "adapter").eval())
    assert distance(plain, trained) < {32: 1e-5, 8: 0.05}.get(bits, 0.02)  # PEFT keeps adapters in 32 bits
    assert distance(base, trained) > max(0.05, 2 * distance(plain, trained))


@pytest.mark.slow
@pytest.mark.parametrize("kind,bits", AT_BITS)
def test_what_is_not_trained_stays(tuned, kind, bits):
    """MiSS' A, and the half of PiSSA's matrices that takes away what the other half started from."""
    folder, _, _, _, run = tuned(kind, bits)
    tensors = {name: tensor.float() for name, tensor in load_file(run / "adapter/adapter_model.safetensors").items()}
    for name, a in tensors.items():
        if "lora_A" not in name:
            continue
        b = tensors[name.replace("lora_A", "lora_B")]
        if kind == "miss":
            assert torch.equal(a, repeated_identity(*a.shape)) and b.abs().max() > 0
        elif kind == "pissa":
            assert (
                a.shape[0] == b.shape[1] == 16
                and not torch.equal(a[:8], a[8:])
                and not torch.equal(b[:, :8], -b[:, 8:])
            )
            weight = dict(load(folder, bits).model.named_modules())[layer_of(name)]
            strongest = torch.linalg.svdvals(compat.unquantized_weight(weight).float())[:8]
            # scale 2: B₀A₀ has the largest singular values of the weight, whatever was learned beside it
            torch.testing.assert_close(2 * torch.linalg.svdvals(b[:, 8:] @ a[8:])[:8], strongest, rtol=0.02, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind,bits", AT_BITS)
def test_memory_of_each_kind_is_predicted_near_what_is_measured(tuned, kind, bits):
    """As tightly as test_predictions.py wants it of LoRA."""
    _, _, _, events, run = tuned(kind, bits)
    parts = {p.kind: p.error for p in accuracy.pairs(run.name, events) if p.phase == "tune"}
    assert all(-0.01 < parts[part] < 0.1 for part in ("weights", "adapters", "optimizer")), parts


@pytest.mark.slow
@pytest.mark.parametrize("kind,bits", [("miss", 32), ("pissa", 4), ("loftq", 4)])
def test_export_merges_each_kind_into_the_weights_that_it_was_trained_on(tuned, tmp_path, kind, bits):
    _, trained, loaded, _, _ = tuned(kind, bits)
    save_merged(merged_model(loaded.model, torch.float32), tmp_path, lambda *_: None)
    make_tokenizer(False).save_pretrained(tmp_path)
    assert distance(logits(load(tmp_path, 32).model), trained) < (1e-4 if bits == 32 else 0.04)


@pytest.mark.slow
def test_a_loftq_adapter_is_said_to_belong_to_its_bits(tuned):
    folder, _, _, _, run = tuned("loftq", 4)
    turn = [{"instruction": "What is the answer?", "answer": None}]
    for bits, noted in ((4, False), (32, True)):
        settings = Settings().with_values({"load": {"model": str(folder), "bits": bits, "device": "cpu"}})
        events = Workbench(run.parent).chat(settings, run.name, {"base": turn, "tuned": turn}, Generation(2))
        assert ("note.loftq_other_bits" in [event.get("key") for event in events]) == noted
    card = model_card(find(run.parent, run.name), "adapter", "en")
    assert "init loftq" in card and "load_in_4bit=True, bnb_4bit_quant_type='nf4'" in card


@pytest.mark.slow
def test_base_and_tuned_answer_in_one_batch(tuned):
    for kind in KINDS:
        _, _, loaded, _, _ = tuned(kind, 4)
        assert supports_mixed_batches(loaded.model)


@pytest.mark.slow
@pytest.mark.parametrize("kind,lora", [("miss", {"kind": "miss"}), ("pissa", {"r": 16, "alpha": 32})])
def test_miss_is_continued_as_miss_and_pissa_as_the_lora_that_it_is_saved_as(tuned, chosen, kind, lora):
    folder, _, _, events, run = tuned(kind, 32)

    def settings(**more):
        start = {"lora": {"start_from": run.name, **lora, **more}, "load": {"model": str(folder), "bits": 32}}
        return chosen(**start, train={"max_steps": 2, "eval_rows": 4})

    *_, done = Workbench(run.parent).tune(settings())
    assert done["result"]["loss"]["before"] == pytest.approx(events[-1]["result"]["loss"]["after"], abs=1e-4)
    assert is_miss(run.parent / done["result"]["run"] / "adapter") == (kind == "miss")
    with pytest.raises(PlaygroundError) as error:
        list(Workbench(run.parent).tune(settings(kind="lora" if kind == "miss" else "miss")))
    fields = {problem.values["field"] for problem in error.value.problems}
    assert set(keys(error)) == {"error.start_conflict"} and "lora.kind" in fields
