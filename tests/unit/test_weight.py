"""What a weight becomes: a layer's figures against the quantizer's own, and its drawing."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from toys import keys

from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES, translate
from playground.lab.formats import parse_format
from playground.lab.quantize import quantize
from playground.planning.weight import BINS, SHOWN, layer_names, weight_picture
from playground.ui.weight_figure import lora_figure, weight_figure
from playground.ui.weight_view import KINDS, format_name


@pytest.fixture
def model(toy):
    return toy("llama", vocab_size=512)


@pytest.mark.parametrize("name", ["int2", "int4:32", "nf4", "float3", "quantile5", "hqq3", "ternary", "fp8", "mxfp4"])
def test_figures_are_those_of_the_layers_own_weights(model, name):
    picture = weight_picture(str(model), "", name)
    weight = load_file(next(model.glob("*.safetensors")))[picture["layer"]].float()
    after = quantize(weight, parse_format(name)).values
    assert picture["shape"] == list(weight.shape) and picture["weights"] == weight.numel()
    assert sum(picture["before"]) == sum(picture["after"]) == weight.numel() and len(picture["before"]) == BINS
    assert picture["error"]["largest"] == pytest.approx(float((after - weight).abs().max()))
    assert picture["error"]["rms"] == pytest.approx(float((after - weight).square().mean().sqrt()))
    block = picture["block"]
    assert block["before"] == pytest.approx(weight.flatten()[:SHOWN].tolist())
    assert all(min(abs(value - point) for point in block["grid"]) < 1e-3 for value in block["after"])
    json.dumps(picture)


def test_layers_come_in_their_order_and_a_chosen_one_is_shown(model):
    names = layer_names(model)
    assert not any("embed" in name or "norm" in name or "lm_head" in name for name in names)
    assert names == sorted(names, key=lambda name: int(name.split(".")[2]))
    assert weight_picture(str(model), names[-1], "int4")["layer"] == names[-1]
    assert weight_picture(str(model), "no.such.layer", "int4")["layer"] == names[0]


@pytest.mark.parametrize(
    ("model_name", "format", "key"),
    [("nobody/nothing", "int4", "error.lab_not_here"), (None, "int99", "error.lab_format")],
)
def test_what_cannot_be_shown_is_refused_in_a_sentence(model, model_name, format, key):
    with pytest.raises(PlaygroundError) as caught:
        weight_picture(model_name or str(model), "", format)
    assert keys(caught) == [key]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_the_list_makes_a_format(kind):
    assert parse_format(format_name(kind, 3, 128)).kind == kind


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_drawing_escapes_names_and_is_to_scale(model, lang):
    word = partial(translate, lang)
    picture = weight_picture(str(model), "", "int3") | {"layer": "<b>"}
    html = weight_figure(word, picture)
    assert "<b>:" not in html and "&lt;b&gt;" in html and html.count('class="way"') == SHOWN
    drawn = lora_figure(word, (400, 800), 40)
    assert 'width="240.0" height="120.0"' in drawn and 'width="240.0" height="12.0"' in drawn
    assert 'width="12.0" height="120.0"' in drawn and "48,000" in drawn and "15.00%" in drawn


def test_a_large_layer_is_read_in_part(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text("{}")
    save_file({"model.layers.0.q.weight": torch.randn(3000, 1024)}, tmp_path / "model.safetensors")
    picture = weight_picture(str(tmp_path), "", "int4")
    assert picture["shape"] == [3000, 1024] and picture["weights"] == 256 * 1024
