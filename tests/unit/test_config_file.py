"""config.json as people have it: read as meant, or refused in one sentence."""

import json

import pytest
import torch
import toys
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from toys import keys

from playground.errors import PlaygroundError
from playground.model import adapt
from playground.model.config_file import read_config
from playground.model.load import load_model
from playground.settings import Load


@pytest.fixture
def folder(tmp_path):
    """Makes a toy's folder with other values in its config.json."""

    def make(changes):
        path = toys.save(tmp_path / "model")
        file = path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return path

    return make


def load(folder, bits=16):
    return load_model(folder, Load(model=str(folder), bits=bits, device="cpu"), lambda *done: None).model


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("written", ["auto", "torch.bfloat16", "bfloat16", "bf17", None, 16])
def test_a_data_type_as_people_write_it_loads(folder, name, written):
    path = folder({"dtype": None, name: written})
    assert load(path).dtype == torch.bfloat16
    dtype = read_config(path / "config.json", "model").dtype
    assert dtype in ((torch.bfloat16, "bfloat16") if "bfloat16" in str(written) else (None,))


@pytest.mark.parametrize("quantization", [None, {}, {"load_in_8bit": False, "load_in_4bit": False}])
def test_a_quantization_that_says_nothing_is_none(folder, quantization):
    assert load(folder({"quantization_config": quantization})).dtype == torch.bfloat16


@pytest.mark.parametrize("bits, layer", [(8, Linear8bitLt), (4, Linear4bit)])
def test_a_quantization_without_its_method_is_that_of_bitsandbytes(folder, bits, layer):
    path = folder({"quantization_config": {f"load_in_{bits}bit": True}})
    assert {type(module) for module in adapt.linear_layers(load(path, bits)).values()} == {layer}
    with pytest.raises(PlaygroundError) as caught:
        load(path, 16)
    assert keys(caught) == ["error.stored_bits"]


@pytest.mark.parametrize(
    "changes, key, shown",
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "error.quant_method", "gptq"),
        ({"quantization_config": "int4"}, "error.config", "quantization_config is str"),
        ({"num_hidden_layers": -1}, "error.config", "num_hidden_layers is -1"),
        ({"num_attention_heads": 0}, "error.config", "zero"),
        ({"hidden_size": "wide"}, "error.config", "hidden_size"),
        ({"model_type": "lla\ud83dma"}, "error.model_type", "lla?ma"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "error.config", "factor"),
    ],
)
def test_a_config_that_means_nothing_is_refused_in_a_sentence(folder, changes, key, shown):
    with pytest.raises(PlaygroundError) as caught:
        load(folder(changes))
    assert keys(caught) == [key]
    text = caught.value.text("en")
    assert shown in text.lower() or shown in text
    text.encode("utf-8")  # no half of a character


def test_halves_of_characters_in_other_values_are_replaced(folder):
    path = folder({"_name_or_path": "half \ud83d", "architectures": ["\ude00"]})
    assert load(path).dtype == torch.bfloat16
    read_config(path / "config.json", "model").to_json_string().encode("utf-8")
