"""How much of an adapter's rank was used: against the singular values of the whole product, and its drawing."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import keys

from playground import runs
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES, translate
from playground.planning.adapter_spectrum import SHARE, adapter_spectrum
from playground.settings import Settings
from playground.ui.spectrum_view import spectrum_figure


def _run(root, **tensors):
    run = runs.create(root, "tune", Settings())
    run.adapter.mkdir()
    named = {f"base.layers.{name}.weight": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(
        {name.replace("_A.", ".lora_A.").replace("_B.", ".lora_B."): t for name, t in named.items()},
        run.adapter / "adapter_model.safetensors",
    )
    return run.id


def test_shares_are_those_of_a_real_adapters_whole_product(chosen, tmp_path):
    workbench = Workbench(tmp_path)
    list(workbench.tune(chosen(lora={"r": 4})))
    spectrum = adapter_spectrum(str(tmp_path), workbench.run.id)
    tensors = load_file(workbench.run.adapter / "adapter_model.safetensors")
    shares, needed = [], []
    for name, a in tensors.items():
        if ".lora_A." in name:
            squared = torch.linalg.svdvals(tensors[name.replace(".lora_A.", ".lora_B.")].double() @ a.double())[:4] ** 2
            shares.append(squared / squared.sum())
            needed.append(int((shares[-1].cumsum(0) < SHARE).sum()) + 1)
    assert spectrum["r"] == 4 and spectrum["layers"] == len(shares) > 3
    assert spectrum["shares"] == pytest.approx(torch.stack(shares).mean(0).tolist(), abs=1e-4)
    assert spectrum["needed"] == [min(needed), sorted(needed)[len(needed) // 2], max(needed)]
    numbers = spectrum["numbers"]
    for part in ("a", "b"):
        whole = tensors[f"base_model.model.{numbers['layer']}.lora_{part.upper()}.weight"].flatten()
        assert numbers[part] == whole[:32].tolist() and any(numbers[part])


def test_one_direction_of_many_is_seen(tmp_path):
    a, b = torch.randn(8, 32), torch.zeros(16, 8)
    b[:, 3] = torch.randn(16)
    spectrum = adapter_spectrum(str(tmp_path), _run(tmp_path, q_A=a, q_B=b))
    assert spectrum["needed"] == [1, 1, 1] and spectrum["shares"][0] == pytest.approx(1.0, abs=1e-5)


def test_layers_of_different_ranks_and_layers_that_learned_nothing(tmp_path):
    torch.manual_seed(0)
    run = _run(
        tmp_path,
        q_A=torch.randn(2, 8),
        q_B=torch.randn(8, 2),
        k_A=torch.randn(4, 8),
        k_B=torch.randn(8, 4),
        v_A=torch.randn(4, 8),
        v_B=torch.zeros(8, 4),
    )
    spectrum = adapter_spectrum(str(tmp_path), run)
    assert (spectrum["r"], spectrum["layers"]) == (4, 2) and sum(spectrum["shares"]) == pytest.approx(1.0)


@pytest.mark.parametrize("tensors", [{}, {"q_A": torch.randn(4, 8), "q_B": torch.zeros(8, 4)}])
def test_an_adapter_without_anything_learned_is_an_error(tmp_path, tensors):
    with pytest.raises(PlaygroundError) as caught:
        adapter_spectrum(str(tmp_path), _run(tmp_path, **tensors))
    assert keys(caught) == ["error.no_lora"]
    with pytest.raises(PlaygroundError) as caught:
        adapter_spectrum(str(tmp_path), "../elsewhere")
    assert keys(caught) == ["error.no_run"]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_figure_names_the_directions(lang):
    spectrum = {"r": 8, "layers": 30, "shares": [0.6, 0.2, 0.1, 0.05, 0.03, 0.01, 0.005, 0.005], "needed": [1, 3, 5]}
    spectrum["numbers"] = {"layer": "q_proj", "a": [0.25, -0.5], "b": [0.125]}
    html = spectrum_figure(partial(translate, lang), spectrum)
    assert html.count("<rect") == 8 + 3 and html.count('class="a"') == 3 and "60.0%" in html
    assert "<title>-0.50000</title>" in html and "q_proj" in html
