"""The same rows, steps and adapter in plain transformers and PEFT: losses step by step, the adapter, the answers.

The plain side pads every row to the longest, takes the model's own loss, and torch's AdamW on PEFT's own modules.
"""

import random
import threading

import pytest
import torch
from family_sweep import small_config
from peft import LoraConfig, get_peft_model
from toys import make_tokenizer

from playground.chat.generate import Prompt, generate_answers
from playground.data.batch import Example
from playground.model import adapt
from playground.model.adapt import ADAPTER_NAME
from playground.model.load import LoadedModel, model_from_config
from playground.settings import Generation, Settings
from playground.train.loop import fine_tune
from playground.train.parallel import Team
from playground.train.prepare import prepare_trainer

FAMILIES = ["llama", "gpt_neox", "olmo2", "bart", "mixtral", "deepseek_v3", "qwen3_next", "llava"]
STEPS, RATE, PAD, END = 20, 5e-3, 2, 1
DRAW = random.Random(3)
ROWS = [Example([DRAW.randrange(5, 330) for _ in range(DRAW.randrange(10, 30))], 5) for _ in range(6)]
SETTINGS = Settings().with_values(
    {
        "load": {"bits": 32, "device": "cpu"},
        "train": {"max_steps": STEPS, "batch_size": len(ROWS), "lr": RATE, "schedule": "constant", "warmup": 0.0},
    }
)


def toy(family):
    config = small_config(family)
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)  # drawn in another order
    torch.manual_seed(0)
    return model_from_config(config, torch.float32).requires_grad_(False).eval()


def ours(family):
    """(losses, adapter, model) of this program's fine-tune."""
    loaded = LoadedModel(toy(family), make_tokenizer(False), "cpu", torch.float32, "")
    trainer = prepare_trainer(loaded, SETTINGS, ROWS, [], Team("cpu"))
    events = list(fine_tune(trainer, ROWS, SETTINGS.train, threading.Event(), lambda step: None))
    return [e["loss"] for e in events if e["kind"] == "step"], adapter_of(loaded.model), loaded.model


def plain(family):
    """(losses, adapter, model) of a loop as transformers' and PEFT's guides write it."""
    model = toy(family)
    config = LoraConfig(
        r=SETTINGS.lora.r,
        lora_alpha=int(SETTINGS.lora.alpha),
        target_modules=adapt.resolve_target_modules(model, SETTINGS.lora.target_modules),
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )
    torch.manual_seed(SETTINGS.train.seed)
    model = get_peft_model(model, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    batch = encoder_batch() if model.config.is_encoder_decoder else decoder_batch()
    losses = []
    model.train()
    for _ in range(STEPS):
        loss = model(**batch, use_cache=False).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # the default of transformers' Trainer
        optimizer.step()
    return losses, adapter_of(model), model


def padded(rows, value):
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def decoder_batch():
    ids, mask = padded([row.ids for row in ROWS], PAD), padded([[1] * len(row.ids) for row in ROWS], 0)
    labels = padded([[-100] * row.trained_from + list(row.ids[row.trained_from :]) for row in ROWS], -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def encoder_batch():
    prompts = [row.ids[: row.trained_from] for row in ROWS]
    labels = padded([row.ids[row.trained_from :] for row in ROWS], -100)
    mask = padded([[1] * len(prompt) for prompt in prompts], 0)
    return {"input_ids": padded(prompts, PAD), "attention_mask": mask, "labels": labels}


def adapter_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def answers(model):
    prompts = [Prompt([5, 6, 7, 8], ADAPTER_NAME), Prompt([9, 10, 11], ADAPTER_NAME)]
    generation = Generation(max_new_tokens=8)
    *_, last = generate_answers(model, make_tokenizer(False), prompts, [END], generation, threading.Event())
    return last["ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_training_is_that_of_plain_transformers_and_peft(family):
    """Losses to 1e-4 of their size, the adapter to 5e-3 of its largest number, the same greedy answers."""
    losses, adapter, model = ours(family)
    expected_losses, expected, plain_model = plain(family)
    assert losses[-1] < losses[0] - 0.1
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected_losses), rtol=1e-4, atol=0.0)
    assert adapter.keys() == expected.keys()
    for name, value in expected.items():
        close = 5e-3 * value.abs().max().item() + 2e-5
        torch.testing.assert_close(adapter[name], value, rtol=0.0, atol=close, msg=lambda text, name=name: name + text)
    assert answers(model) == answers(plain_model)
