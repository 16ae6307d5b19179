"""Tokens without a row in the embedding: grown and trained on request, saved with the adapter, gone with it."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from toys import keys
from transformers import AutoModelForCausalLM, AutoTokenizer

from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.model import adapt, saved_adapter
from playground.model.embedding import embedding_name, resize_embedding, rows_in_adapter
from playground.model.load import load_model
from playground.settings import Generation, Load, Lora
from playground.train.loss import Loss


@pytest.fixture
def folder(toy, tmp_path):
    """A toy whose tokenizer has two tokens more than its embedding has rows, and rows with one of them."""
    path = tmp_path / "model"
    shutil.copytree(toy("llama"), path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    rows = AutoModelForCausalLM.from_pretrained(path).config.vocab_size
    tokenizer.add_tokens([f"<new{n}>" for n in range(rows + 2 - len(tokenizer))])
    tokenizer.save_pretrained(path)
    token = tokenizer.convert_ids_to_tokens(rows)
    lines = [json.dumps({"question": f"q {n} {token}?", "answer": f"a {n} {token}."}) for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return path, tmp_path / "rows.jsonl", rows


def tune(chosen, folder, rows, runs, bits, modules_to_save):
    settings = chosen(
        load={"model": str(folder), "bits": bits, "device": "cpu"},
        data={"source": str(rows)},
        lora={"modules_to_save": modules_to_save},
        train={"max_steps": 2, "batch_size": 4, "sample_every": "off", "eval_rows": 0, "lr": 1e-2},
    )
    return settings, list(Workbench(runs).tune(settings))


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("modules", ["embed_tokens", "embed_tokens, lm_head"])
def test_the_embedding_grows_is_trained_and_saved_with_the_adapter(chosen, folder, tmp_path, bits, modules):
    path, rows, before = folder
    settings, events = tune(chosen, path, rows, tmp_path / "runs", bits, modules)
    assert events[-1]["kind"] == "done", events[-1]
    [note] = [event for event in events if event.get("key") == "note.embedding_grown"]
    assert note["values"] == {"rows": before + 2, "before": before}
    adapter = tmp_path / "runs" / events[-1]["result"]["run"] / "adapter"
    with safe_open(adapter / "adapter_model.safetensors", "pt") as tensors:
        saved = [key for key in tensors.keys() if key.endswith("embed_tokens.weight")]
        assert len(saved) == 1 and tensors.get_slice(saved[0]).get_shape()[0] == before + 2
        assert any(key.endswith("lm_head.weight") for key in tensors.keys())  # its rows were drawn, if not trained
    turn = [{"instruction": "q 3 <new0>?", "answer": None}]
    fresh = Workbench(tmp_path / "runs")  # whose base model has no such rows yet
    chat = {"base": turn, "tuned": turn}
    *_, last = fresh.chat(settings, events[-1]["result"]["run"], chat, Generation(max_new_tokens=4))
    assert last["kind"] == "done"


def test_without_being_asked_for_the_row_and_its_token_are_named(chosen, folder, tmp_path):
    path, rows, before = folder
    with pytest.raises(PlaygroundError) as caught:
        tune(chosen, path, rows, tmp_path / "runs", 16, "lm_head")
    assert keys(caught) == ["error.token_in_row"] and caught.value.problems[0].values["rows"] == before


def test_the_base_is_itself_again_once_the_adapter_is_gone(toy):
    loaded = load_model(toy("llama"), Load(model=str(toy("llama")), bits=32, device="cpu"), lambda *done: None)
    ids = torch.arange(5, 20)[None]
    with torch.no_grad():
        before = loaded.model(ids).logits
        model = adapt.add_lora(loaded.model, Lora(modules_to_save="embed_tokens,lm_head"), torch.float32, 0)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.add_(0.1)
        assert not torch.equal(model(ids).logits, before)
        assert sum("modules_to_save" in name for name in trained) == 2 and not Loss(model).chunked
        assert torch.equal(adapt.remove_lora(model)(ids).logits, before)


def test_new_rows_leave_the_others_as_they_were(toy):
    model = load_model(toy("llama"), Load(model=str(toy("llama")), bits=32, device="cpu"), lambda *done: None).model
    ids, rows = torch.arange(5, 20)[None], model.config.vocab_size
    with torch.no_grad():
        before = model(ids).logits
        resize_embedding(model, rows + 3)
        after = model(ids).logits
    assert after.shape[-1] == rows + 3 and torch.equal(after[..., :rows], before)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert embedding_name(model) == "model.embed_tokens"


def test_an_adapter_with_plain_lora_has_no_rows(toy, tmp_path):
    loaded = load_model(toy("llama"), Load(model=str(toy("llama")), bits=32, device="cpu"), lambda *done: None)
    model = adapt.add_lora(loaded.model, Lora(), torch.float32, 0)
    saved_adapter.save_lora(model, tmp_path / "adapter")
    assert rows_in_adapter(loaded.model, tmp_path / "adapter") == 0 == rows_in_adapter(loaded.model, tmp_path)
    assert isinstance(model, PeftModel)


def test_a_module_that_there_is_not_is_named():
    import toys

    with pytest.raises(PlaygroundError) as caught:
        adapt.add_lora(toys.make_model("llama"), Lora(modules_to_save="embed_tokens, wte"), torch.float32, 0)
    assert keys(caught) == ["error.targets"] and caught.value.problems[0].values["missing"] == ["wte"]
