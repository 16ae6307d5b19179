"""What a weight becomes: a layer's figures against the quantizer's own, and its drawing."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
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


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("int3", 7), ("ternary", 3), ("quantile3", 8), ("hqq3", 8)),
        *(("nf4", 16), ("fp4", 15), ("nvfp4", 15), ("mxfp4", 15), ("fp8", 253)),
    ],
)
def test_the_grid_has_every_value_of_the_format_not_those_alone_that_occur(model, name, count):
    block = weight_picture(str(model), "", name)["block"]
    assert len(set(block["grid"])) == count
    largest = max(map(abs, block["grid"]))
    assert all(min(abs(value - point) for point in block["grid"]) < 1e-6 * largest for value in block["after"])


def _saved(folder, tensors, **config):
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


def test_weights_that_are_stored_as_codes_are_not_drawn(tmp_path):
    codes = torch.zeros(64, 1, dtype=torch.uint8)
    folder = _saved(tmp_path, {"layers.0.q.weight": codes, "layers.1.q.weight": torch.randn(8, 64)})
    assert weight_picture(folder, "", "int4")["layers"] == ["layers.1.q.weight"]
    for number, (tensors, config) in enumerate(
        [({"q.weight": codes}, {}), ({"q.qweight": codes}, {"quantization_config": {"quant_method": "gptq"}})]
    ):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(PlaygroundError) as caught:
            weight_picture(_saved(tmp_path / str(number), tensors, **config), "", "int4")
        assert keys(caught) == ["error.lab_quantized"]


def test_a_model_in_torchs_own_files_is_drawn_like_one_in_safetensors(model, tmp_path):
    expected = weight_picture(str(model), "", "int4")
    tensors = load_file(next(model.glob("*.safetensors")))
    halves = [dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])]
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    for number, half in enumerate(halves, 1):
        torch.save(half, tmp_path / f"pytorch_model-0000{number}-of-00002.bin")
    torch.save({"step": 3}, tmp_path / "training_args.bin")
    assert weight_picture(str(tmp_path), "", "int4") == expected


class _Harmful:
    def __reduce__(self):
        return open, ("harmed", "w")


@pytest.mark.parametrize("content", [_Harmful(), {"layer.weight": _Harmful()}, "legacy", "cut"])
def test_nothing_in_torchs_files_is_run_and_what_cannot_be_mapped_is_named(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "pytorch_model.bin"
    tensors = {"layer.weight": torch.ones(8, 8)}
    legacy = {"_use_new_zipfile_serialization": content != "legacy"}
    torch.save(tensors if isinstance(content, str) else content, file, **legacy)
    if content == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(PlaygroundError) as caught:
        weight_picture(str(tmp_path), "", "int4")
    assert keys(caught) == ["error.weight_files"] and not (tmp_path / "harmed").exists()


def test_a_model_without_safetensors_or_without_layers_says_so(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(PlaygroundError) as caught:
        weight_picture(str(tmp_path), "", "int4")
    assert keys(caught) == ["error.weight_files"]
    (tmp_path / "a").mkdir()
    with pytest.raises(PlaygroundError) as caught:
        weight_picture(_saved(tmp_path / "a", {"norm.weight": torch.ones(8)}), "", "int4")
    assert keys(caught) == ["error.lab_no_linear"]


def test_a_layer_of_gpt2_is_drawn_as_its_products_have_it(tmp_path):
    stored = torch.randn(2048, 512)  # (in, out)
    folder = _saved(tmp_path, {"h.0.mlp.c_proj.weight": stored}, model_type="gpt2")
    picture = weight_picture(folder, "", "int4")
    assert picture["shape"] == [512, 2048] and picture["weights"] == 128 * 2048
    assert picture["block"]["before"] == pytest.approx(stored[:SHOWN, 0].tolist())


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
    thin = lora_figure(word, (4096, 4096), 8)
    assert word("weight.lora_thicker", times=3.2) in thin and word("weight.lora_thicker", times=1.0) not in drawn
    assert thin.count("<p") == drawn.count("<p") + 1


def test_a_model_that_is_written_again_into_its_folder_is_drawn_anew(tmp_path):
    before = weight_picture(_saved(tmp_path, {"layers.0.q.weight": torch.randn(8, 64)}), "", "int4")
    tensors = {"layers.0.q.weight": torch.randn(8, 64), "layers.1.k.weight": torch.randn(8, 64)}
    after = weight_picture(_saved(tmp_path, tensors), "", "int4")
    assert after["layers"] == list(tensors) and after["layer"] == before["layer"]
    assert after["block"]["before"] == pytest.approx(tensors["layers.0.q.weight"].flatten()[:SHOWN].tolist())


def test_layers_of_another_librarys_files_are_not_listed(tmp_path):
    folder = _saved(tmp_path, {"model.layers.0.self_attn.q_proj.weight": torch.randn(8, 64)})
    save_file({"layers.0.attention.wq.weight": torch.randn(8, 64)}, tmp_path / "consolidated.safetensors")
    assert weight_picture(folder, "", "int4")["layers"] == ["model.layers.0.self_attn.q_proj.weight"]


def test_a_large_layer_is_read_in_part(tmp_path):
    folder = _saved(tmp_path, {"model.layers.0.q.weight": torch.randn(3000, 1024)})
    picture = weight_picture(folder, "", "int4")
    assert picture["shape"] == [3000, 1024] and picture["weights"] == 256 * 1024
