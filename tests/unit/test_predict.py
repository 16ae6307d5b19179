"""Predictions from a config: shapes weigh what real tensors weigh, and the allocator's simulation keeps its books."""

import pytest
import torch
from toys import FAMILIES, keys
from transformers import AutoConfig

from playground.errors import PlaygroundError
from playground.memory import ledger
from playground.memory.ledger import tensors_by_part
from playground.model.load import load_model
from playground.predict import meta_model, phases
from playground.predict.allocator import simulate_reserved
from playground.settings import Load, Settings


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_weigh_what_real_tensors_weigh(toy, family, bits):
    folder, settings = toy(family), Load(bits=bits, dtype="bfloat16", device="cpu")
    model = load_model(folder, settings, lambda *_: None).model
    real, rounded = ledger.bytes_by_part(model), 512 * len(list(tensors_by_part(model)))
    place = phases.Target("cpu", torch.float32 if bits == 32 else torch.bfloat16)
    found = phases.predict_load(AutoConfig.from_pretrained(folder), Settings(load=settings), place)["parts"]
    for part in ("weights", "quant_constants"):
        assert real[part] <= found.get(part, 0) <= real[part] + rounded


def test_a_hole_is_taken_again_and_pages_are_only_added():
    mib = 2**20
    assert simulate_reserved([(1, 10 * mib, "")]) == 20 * mib
    assert simulate_reserved([(1, 10 * mib, ""), (1, -10 * mib, ""), (2, 20 * mib, "")]) == 20 * mib
    assert simulate_reserved([(1, 10 * mib, ""), (2, 10 * mib, ""), (1, -10 * mib, ""), (3, 11 * mib, "")]) == 40 * mib
    assert simulate_reserved([(1, 512, "")]) == 2 * mib


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"model_type": "nosuch", "hidden_size": 4, "num_hidden_layers": 2}', "error.model_type"),
        ('{"model_type": "llama"}', "error.config_sizes"),
        ('{"hidden_size": 3}', "error.config_kind"),
        ("[]", "error.config_kind"),
        ("{", "error.config"),
        ('{"model_type": "llama", "hidden_size": "x", "num_hidden_layers": 2}', "error.config"),
        (
            '{"model_type": "llama", "hidden_size": 100, "num_attention_heads": 7, "num_hidden_layers": 2}',
            "error.config",
        ),
    ],
)
def test_a_config_that_no_model_can_be_made_of_is_told_in_a_sentence(tmp_path, text, key):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(PlaygroundError) as caught:
        meta_model.config_of(str(tmp_path / "config.json"))
    assert keys(caught) == [key] and "\n" not in caught.value.text()
