"""Weight files: every supported format, and files that are broken, mismatched or made for other libraries."""

import json
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors.torch import load_file, save_file
from toys import keys

from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory import ledger
from playground.model import adapt, gguf, source, weights
from playground.model.conversion_notes import read_notes
from playground.model.load import load_model
from playground.predict import meta_model, phases
from playground.settings import Load, Lora, Settings

IDS = torch.tensor([[5, 6, 7, 8]])


def ignore_progress(*_):
    pass


def load(folder, **values):
    return load_model(folder, Load(**{"model": str(folder), "device": "cpu", "bits": 32, **values}), ignore_progress)


def logits(folder, **values) -> torch.Tensor:
    with torch.no_grad():
        return load(folder, **values).model(input_ids=IDS).logits


def load_error(folder: Path, **values) -> tuple[list[str], str]:
    """The words keys and the text of the error that loading raises."""
    with pytest.raises(PlaygroundError) as caught:
        load(folder, **values)
    return keys(caught), str(caught.value)


@pytest.fixture
def folder(tmp_path, toy) -> Path:
    return Path(shutil.copytree(toy(), tmp_path / "m"))


@pytest.fixture
def shards(tmp_path) -> Path:
    toys.make_model("llama").save_pretrained(tmp_path / "s", max_shard_size="200KB")
    toys.make_tokenizer(False).save_pretrained(tmp_path / "s")
    return tmp_path / "s"


def test_shards_and_bin_files_load_the_same_model(folder, shards, tmp_path):
    assert len(list(shards.glob("*.safetensors"))) > 2
    assert torch.equal(logits(shards), logits(folder))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    before = logits(folder)
    (folder / "model.safetensors").unlink()
    assert torch.equal(logits(folder), before)


def test_a_bin_file_with_code_is_not_executed(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"model.embed_tokens.weight": Evil()}, folder / "pytorch_model.bin", pickle_module=pickle)
    (folder / "model.safetensors").unlink()
    assert load_error(folder)[0] == ["error.unsafe_weights"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_model_saved_quantized_loads_unchanged_and_trains(tmp_path, toy, bits):
    first = load(toy(), bits=bits, dtype="bfloat16", quant_type="fp4" if bits == 4 else "nf4")
    first.model.save_pretrained(tmp_path / "q")
    first.tokenizer.save_pretrained(tmp_path / "q")
    again = load(tmp_path / "q", bits=bits, dtype="bfloat16")
    layers = [m for m in again.model.modules() if isinstance(m, (Linear4bit, Linear8bitLt))]
    assert len(layers) == 14
    if bits == 4:
        assert {m.weight.quant_type for m in layers} == {"fp4"} and {m.compute_dtype for m in layers} == {
            torch.bfloat16
        }
    assert ledger.bytes_by_part(again.model) == ledger.bytes_by_part(first.model)
    with torch.no_grad():
        assert torch.equal(again.model(input_ids=IDS).logits, first.model(input_ids=IDS).logits)
    tuned = adapt.add_lora(again.model, Lora(), torch.bfloat16, 0)
    tuned(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None for p in tuned.parameters() if p.requires_grad)


@pytest.mark.parametrize("bits,other", [(4, 16), (8, 4)])
def test_a_bit_width_other_than_the_stored_one_is_an_error_and_the_stored_one_is_predicted(tmp_path, toy, bits, other):
    first = load(toy("llama", hidden_size=256, intermediate_size=1024), bits=bits, dtype="bfloat16", double_quant=False)
    first.model.save_pretrained(tmp_path / "q")
    first.tokenizer.save_pretrained(tmp_path / "q")
    error_keys, text = load_error(tmp_path / "q", bits=other)
    assert error_keys == ["error.stored_bits"] and f"quantized to {bits} bits" in text
    config, target = meta_model.config_of(str(tmp_path / "q")), phases.Target("cpu", torch.bfloat16)
    prediction = phases.predict_load(config, Settings(load=Load(bits=bits)), target)["parts"]
    parts = ledger.bytes_by_part(first.model)
    assert prediction["weights"] == pytest.approx(parts["weights"], rel=0.01)
    assert prediction["quant_constants"] == pytest.approx(parts["quant_constants"], rel=0.1)


@pytest.mark.parametrize("method", ["awq", "gptq", "fp8", "mxfp4"])
def test_an_unsupported_quantization_format_is_named(folder, method):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": method, "bits": 4}})
    )
    error_keys, text = load_error(folder)
    assert error_keys == ["error.quant_method"] and method in text


GGUF_METADATA = {
    "llama.context_length": 512,
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.feed_forward_length": 128,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.rope.dimension_count": 16,
    "llama.vocab_size": 336,
}
GGUF_NAMES = {  # transformers' names of tensors to llama.cpp's
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def write_gguf(file: Path, kind="", left_out=(), further=()) -> dict[str, torch.Tensor]:
    """Write the toy llama as llama.cpp does, in float32; return its tensors by their names in transformers.

    kind: the file's `general.type`. left_out: parts of the names of tensors that it lacks. further: names of others.
    """
    from gguf import GGUFWriter

    tensors = toys.make_model("llama").state_dict()
    writer = GGUFWriter(file, "llama")
    if kind:
        writer.add_type(kind)
    for name, value in GGUF_METADATA.items():
        writer.add_uint32(name, value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    tokenizer = json.loads(toys.make_tokenizer(False).backend_tokenizer.to_str())
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if n < 5 else 1 for n in range(len(vocabulary))])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, tensor in tensors.items():
        short = name.removesuffix(".weight")
        for transformers_name, gguf_name in GGUF_NAMES.items():
            short = short.replace(transformers_name, gguf_name)
        if short.endswith(("attn_q", "attn_k")):  # llama.cpp turns the halves of a head into pairs
            heads = 4 if short.endswith("attn_q") else 2
            tensor = tensor.view(heads, 2, 8, 64).transpose(1, 2).reshape(tensor.shape)
        if not any(part in short for part in left_out):
            writer.add_tensor(f"{short}.weight", tensor.numpy().astype(np.float32))
    for name in further:
        writer.add_tensor(name, np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_a_gguf_file_is_converted_once_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "toy model.gguf"
    expected = write_gguf(file)
    assert source.local_folder(str(file)) is None
    assert meta_model.config_of(str(file)).hidden_size == 64  # it can be planned for before it is converted
    bench = Workbench(tmp_path / "runs")
    for _ in range(2):
        events = list(bench.load(Settings(load=Load(model=str(file), bits=16, device="cpu"))))
        bench.free()
    assert "convert" not in [e.get("name") for e in events]
    folder = source.local_folder(str(file))
    converted = load_file(folder / "model.safetensors")
    assert set(converted) == set(expected)
    assert all(torch.equal(converted[name], expected[name].bfloat16()) for name in expected)
    tokenizer = load(folder, bits=16).tokenizer
    assert tokenizer.decode(tokenizer.encode("The answer is 青い.", add_special_tokens=False)) == "The answer is 青い."
    file.write_bytes(file.read_bytes() + b"\0")
    assert source.local_folder(str(file)) is None  # it has been replaced by another file


@pytest.mark.parametrize(
    "left_out,missing",
    [(["blk.1.ffn_up"], 1), (["blk.1."], 9), (["token_embd", "output", "blk"], 21), (["output_norm"], 1)],
)
def test_a_gguf_file_that_lacks_tensors_is_not_filled_with_random_numbers(tmp_path, left_out, missing):
    file = tmp_path / "part.gguf"
    write_gguf(file, left_out=left_out)
    with pytest.raises(PlaygroundError) as caught:
        gguf.convert(file, tmp_path / "converted", lambda *_: None)
    assert keys(caught) == ["error.tensors_missing"] and not (tmp_path / "converted").exists()
    [found] = caught.value.problems
    assert found.values["path"] == "part.gguf" and found.values["count"] == missing


def test_tensors_of_a_gguf_file_without_a_place_are_noted_at_each_load(tmp_path):
    file, folder = tmp_path / "more.gguf", tmp_path / "converted"
    write_gguf(file, further=["blk.0.attn_q.bias", "blk.1.attn_rot_embd.weight"])
    gguf.convert(file, folder, lambda *_: None)
    names = ["blk.0.attn_q.bias", "blk.1.attn_rot_embd.weight"]
    note = {"kind": "note", "key": "note.unused_tensors", "values": {"path": file.name, "count": 2, "names": names}}
    assert load(folder, bits=32).notes == [note] == load(folder, bits=4).notes


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"note.unused_tensors": 1}', '{"note.unused_tensors": {"path": "x"}}']
)
def test_notes_of_a_conversion_that_cannot_be_read_are_none(tmp_path, text):
    (tmp_path / "conversion_notes.json").write_text(text)
    assert read_notes(tmp_path) == []


@pytest.mark.parametrize("kind", ["adapter", "vocab", "mmproj", "imatrix"])
def test_a_gguf_file_of_something_else_than_a_model_is_refused_before_it_is_read(tmp_path, kind):
    file = tmp_path / "other.gguf"
    write_gguf(file, kind)
    for ask in (gguf.check_file, lambda file: meta_model.config_of(str(file))):
        with pytest.raises(PlaygroundError) as caught:
            ask(file)
        assert keys(caught) == ["error.gguf_type"] and kind in caught.value.text("en")
    write_gguf(file, "model")
    gguf.check_file(file)


def test_broken_gguf_files_are_errors(tmp_path):
    def error(file):
        with pytest.raises(PlaygroundError) as caught:
            gguf.check_file(file)
        return keys(caught)[0]

    file = tmp_path / "a.gguf"
    write_gguf(file)
    gguf.check_file(file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-5000])
    assert error(file) in ("error.cut_off", "error.gguf_damaged")
    file.write_bytes(whole[:300])
    assert error(file) == "error.gguf_damaged"
    file.write_bytes(b"<html>")
    assert error(file) == "error.gguf_not"
    part = tmp_path / "a-00001-of-00002.gguf"
    part.write_bytes(whole)
    assert error(part) == "error.gguf_part"


def test_a_gguf_file_of_a_hub_is_split_into_repo_and_file():
    assert gguf.parse_hub_file("someone/some-GGUF/sub/model-q4_k_m.gguf") == (
        "someone/some-GGUF",
        "sub/model-q4_k_m.gguf",
    )
    assert (
        gguf.parse_hub_file("someone/some-model") is None
        and gguf.parse_hub_file("/home/me/model.gguf") is None
        and gguf.parse_hub_file("me/model.gguf") is None
    )


def test_all_broken_shards_are_reported_at_once(shards):
    first, second, third, *_ = sorted(shards.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-100])
    second.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n")
    third.unlink()
    error_keys, text = load_error(shards)
    assert sorted(error_keys) == ["error.cut_off", "error.lfs_pointer", "error.shards_missing"]
    assert first.name in text and second.name in text and third.name in text


@pytest.mark.parametrize(
    "content,key",
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "error.web_page"),
        (b"", "error.not_safetensors"),
        (b"\xff" * 64, "error.not_safetensors"),
        (struct.pack("<Q", 5000) + b"{", "error.truncated"),
        (struct.pack("<Q", 4) + b"oops", "error.not_safetensors"),
        (struct.pack("<Q", 6) + b'{"a":1}', "error.not_safetensors"),
    ],
)
def test_a_file_that_is_no_weight_file_is_an_error(folder, content, key):
    (folder / "model.safetensors").write_bytes(content)
    error_keys, text = load_error(folder)
    assert error_keys == [key] and "model.safetensors" in text


def test_a_truncated_bin_file_is_an_error(folder):
    file = folder / "pytorch_model.bin"
    torch.save(load_file(folder / "model.safetensors"), file)
    (folder / "model.safetensors").unlink()
    file.write_bytes(file.read_bytes()[:-2000])
    assert not zipfile.is_zipfile(file)
    assert load_error(folder)[0] == ["error.truncated"]


def test_a_damaged_index_is_an_error(shards):
    (shards / "model.safetensors.index.json").write_text("[]")
    assert "error.index_damaged" in load_error(shards)[0]


def test_weights_of_another_model_are_an_error_instead_of_random_numbers(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    error_keys, text = load_error(folder)
    assert error_keys == ["error.tensors_missing"] and "model.layers.2" in text
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    error_keys, text = load_error(folder)
    assert error_keys == ["error.mismatched"] and "64 × 128 instead of 64 × 96" in text


def test_a_missing_tensor_is_an_error(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    error_keys, text = load_error(folder)
    assert error_keys == ["error.tensors_missing"] and "model.norm.weight" in text


def test_a_complete_folder_passes(folder, shards):
    weights.check_files(folder)
    weights.check_files(shards)


def test_an_index_of_files_that_are_not_read_is_ignored(folder, shards):
    index = json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}})
    for one in (folder, shards):
        (one / "pytorch_model.bin.index.json").write_text(index)
        weights.check_files(one)
    (folder / "model.safetensors").unlink()
    assert load_error(folder)[0] == ["error.shards_missing"]


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hostname", "..", "a\\b.safetensors"])
def test_an_index_that_names_a_file_elsewhere_is_refused(shards, name):
    index = shards / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"][min(values["weight_map"])] = name
    index.write_text(json.dumps(values))
    shutil.copy(next(shards.glob("*.safetensors")), shards.parent / "outside.safetensors")
    found, text = load_error(shards)
    assert found == ["error.shards_elsewhere"] and name in text
