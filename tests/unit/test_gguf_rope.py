"""GGUF files with scaled rotary positions: the logits of the model that they were made from, or an error."""

import math

import numpy as np
import pytest
import torch
import toys
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from toys import keys
from transformers import AutoModelForCausalLM

from playground.errors import PlaygroundError
from playground.export import gguf_families, gguf_file
from playground.model import gguf
from playground.model.gguf_rope import TENSORS, set_rope
from playground.model.load import load_model
from playground.model.merged_weights import merged_model
from playground.settings import Load

FACTORS = {"short_factor": [1.0, 1.1, 1.5, 2.0, 3.0, 4.0, 4.5, 5.0], "long_factor": [1.0, 2, 3, 4, 5, 6, 7, 8]}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LINEAR = {"scaling.type": "linear", "scaling.factor": 4.0}
YARN = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 64}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function that writes a toy with these rotary positions as GGUF, and returns the file and the toy."""
    monkeypatch.setattr(gguf_families, "_check_rope", lambda *_: None)  # the export itself refuses scaled positions

    def write(family, rope, metadata=(), tensors=(), **config):
        wide = {"max_position_embeddings": 256} | config | ({"rope_parameters": rope} if rope else {})
        folder = tmp_path / family
        toys.save(folder, family, True, **wide)
        loaded = load_model(folder, Load(model=str(folder), bits=32, device="cpu"), lambda *_: None)
        for parameter in loaded.model.parameters():
            parameter.data = parameter.data.bfloat16().float()  # so that nothing is rounded later
        plain, file = tmp_path / "plain.gguf", tmp_path / "scaled.gguf"
        gguf_file.write_gguf(merged_model(loaded.model, torch.float32), loaded.tokenizer, plain, "f16", "toy", print)
        copy_with(plain, file, dict(metadata), dict(tensors))
        return file, loaded.model

    return write


def copy_with(plain, file, metadata, tensors):
    """Copy a GGUF file with further metadata below `<architecture>.rope.`, and further tensors."""
    reader = GGUFReader(plain)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(file, architecture)
    for name, field in reader.fields.items():
        ours = name.removeprefix(f"{architecture}.rope.") in metadata
        if name != "general.architecture" and not name.startswith("GGUF.") and not ours:
            kind = field.types[0]
            item = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, item)
    for name, value in metadata.items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(f"{architecture}.rope.{name}", value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, numbers in tensors.items():
        writer.add_tensor(name, np.array(numbers, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def converted(file):
    folder = file.parent / "converted"
    gguf.check_file(file)
    gguf.convert(file, folder, lambda *_: None)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model, length=200):
    with torch.no_grad():
        return model(torch.arange(length)[None] % 300 + 5).logits


def is_same(one, other):
    return bool((one - other).norm() / other.norm() < 1e-3)


def divisors(factor, low, high, before, theta=10000.0, dimensions=16):
    """What llama.cpp's conversion of a Llama 3 writes as `rope_freqs` (`generate_extra_tensors`)."""
    found = []
    for frequency in 1.0 / (theta ** (torch.arange(0, dimensions, 2).float() / dimensions)):
        wave = 2 * math.pi / float(frequency)
        smooth = (before / wave - low) / (high - low)
        long, short = wave > before / low, wave < before / high
        found.append(factor if long else 1.0 if short else 1 / ((1 - smooth) / factor + smooth))
    return found


def llama3(factor, low, high, before):
    rope = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    return {"rope_type": "llama3", "rope_theta": 10000.0, "original_max_position_embeddings": before, **rope}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(
    "rope,metadata",
    [
        ({"rope_type": "linear", "factor": 4.0}, LINEAR),
        ({"rope_type": "linear", "factor": 4.0}, {"scaling.factor": 4.0}),  # llama.cpp's default is linear
        ({"rope_type": "linear", "factor": 4.0}, {"scale_linear": 4.0}),  # as older files have it
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, YARN),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0},
            YARN | {"scaling.yarn_beta_fast": 16.0, "scaling.yarn_ext_factor": 1.0},
        ),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 0.9},
            YARN | {"scaling.attn_factor": 0.9 / (0.1 * math.log(4.0) + 1.0)},
        ),
        ({"rope_type": "default"}, {"scaling.type": "none", "scaling.factor": 4.0}),
    ],
    ids=["linear", "default kind", "old", "yarn", "yarn beta", "yarn attention", "none"],
)
def test_scaled_positions_are_those_of_the_model(written, family, rope, metadata):
    file, model = written(family, {"rope_theta": 10000.0, **rope}, metadata)
    found = converted(file)
    assert is_same(logits(found), logits(model))
    assert found.config.rope_parameters["rope_type"] == rope["rope_type"]
    if rope["rope_type"] != "default":  # and these positions matter
        model.config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
        assert not is_same(logits(found), logits(type(model)(model.config).eval().requires_grad_(False)))


@pytest.mark.parametrize("values", [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (4.0, 1.0, 30.0, 3000)])
def test_llama_3s_divided_frequencies_become_its_settings(written, values):
    file, model = written("llama", llama3(*values), tensors={TENSORS[0]: divisors(*values)}, head_dim=16)
    found = converted(file)
    assert is_same(logits(found), logits(model))
    assert found.config.rope_parameters == llama3(*values)
    rotary = [module.inv_freq for module in (found.model.rotary_emb, model.model.rotary_emb)]
    assert torch.allclose(*rotary, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dimensions", [64, 128])
@pytest.mark.parametrize("values", [(32.0, 1.0, 4.0, 8192), (8.0, 1.0, 4.0, 8192), (16.0, 1.0, 6.0, 4096)])
def test_all_of_llama_3s_sizes_are_found(tmp_path, dimensions, values):
    """Heads of 64 and 128 with Meta's base, whose numbers lie in more places between 1 and the factor."""
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    numbers = divisors(*values, theta=500000.0, dimensions=dimensions)
    writer.add_tensor(TENSORS[0], np.array(numbers, np.float32))
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    config = toys.toy_config("llama", head_dim=dimensions, rope_parameters=rope, max_position_embeddings=131072)
    assert set_rope(tmp_path / "a.gguf", {"general.architecture": "llama"}, config)
    assert config.rope_parameters == llama3(*values) | {"rope_theta": 500000.0}


def test_divided_frequencies_of_any_other_kind_are_kept_as_numbers(written):
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64}
    rope |= {"short_factor": FACTORS["short_factor"], "long_factor": FACTORS["short_factor"], "attention_factor": 1.0}
    file, model = written("llama", rope, tensors={TENSORS[0]: FACTORS["short_factor"]})
    found = converted(file)
    assert is_same(logits(found), logits(model))
    assert found.config.rope_parameters["rope_type"] == "longrope"


def test_frequencies_divided_by_one_are_no_scaling(written):
    file, model = written("llama", None, tensors={TENSORS[0]: [1.0] * 8})
    found = converted(file)
    assert is_same(logits(found), logits(model)) and found.config.rope_parameters["rope_type"] == "default"


def test_phi_3s_two_lists_are_used_for_short_and_for_long_texts(written):
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "attention_factor": 1.19, **FACTORS}
    file, model = written(
        "phi3",
        rope | {"original_max_position_embeddings": 64},
        {"scaling.attn_factor": 1.19, "scaling.original_context_length": 64},
        dict(zip(TENSORS[1:], FACTORS.values())),
        original_max_position_embeddings=64,
    )
    found = converted(file)
    for length in (40, 200):
        assert is_same(logits(found, length), logits(model, length))


def test_a_head_that_is_rotated_in_part_is_read_as_such(written):
    """Phi-4-mini rotates three quarters of each head."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}
    monkey = pytest.MonkeyPatch()
    monkey.setitem(gguf_families.FAMILIES, "phi3", gguf_families.Family("phi3", gguf_families._phi3))
    file, model = written("phi3", rope, {"dimension_count": 12}, partial_rotary_factor=0.75)
    monkey.undo()
    found = converted(file)
    assert found.config.rope_parameters["partial_rotary_factor"] == 0.75
    assert is_same(logits(found), logits(model))


def test_gemma_3s_scaling_is_for_the_layers_that_attend_to_all_tokens(written):
    full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0}
    rope = {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    wide = {"hidden_size": 256, "head_dim": 256, "query_pre_attn_scalar": 256}
    file, model = written(
        "gemma3_text", rope, LINEAR | {"scaling.factor": 8.0}, num_hidden_layers=7, layer_types=None, **wide
    )
    found = converted(file)
    assert is_same(logits(found), logits(model))
    assert found.config.rope_parameters == rope


@pytest.mark.parametrize(
    "metadata,tensors",
    [
        ({"scaling.type": "dynamic", "scaling.factor": 4.0}, {}),
        (YARN | {"scaling.yarn_ext_factor": 0.5}, {}),
        (YARN | {"scaling.yarn_log_multiplier": 0.1}, {}),
        (LINEAR | {"scaling.factor": -4.0}, {}),
        (LINEAR | {"scaling.factor": math.inf}, {}),
        ({}, {TENSORS[0]: [8.0] * 5}),
        ({}, {TENSORS[0]: [8.0] * 7 + [0.0]}),
        (YARN, {TENSORS[0]: [8.0] * 8}),
        ({}, {TENSORS[1]: [8.0] * 8}),
        ({"scaling.type": "longrope"}, {}),
    ],
)
def test_positions_that_cannot_be_carried_over_are_an_error(written, metadata, tensors):
    file, _ = written("llama", None, metadata, tensors)
    with pytest.raises(PlaygroundError) as caught:
        converted(file)
    assert keys(caught) == ["error.gguf_rope"] and "safetensors" in caught.value.text("en")
    assert not (file.parent / "converted").exists()


def test_a_family_that_computes_other_positions_than_its_config_says_is_an_error(written, monkeypatch):
    from playground.model import gguf_rope

    monkeypatch.setattr(gguf_rope.compat, "rope_of_model", lambda *_: [(torch.ones(8), 1.0)])
    file, _ = written("llama", None, LINEAR)
    with pytest.raises(PlaygroundError) as caught:
        converted(file)
    assert keys(caught) == ["error.gguf_rope"] and "linear" in caught.value.text("en")
