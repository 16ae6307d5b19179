"""The formulas for a prediction agree with the trace, or say that they don't."""

import re

import pytest
import torch
from toys import FAMILIES
from transformers import AutoConfig

from playground.planning import forecast
from playground.predict import meta_model
from playground.predict.formulas import explain
from playground.settings import Load, Settings


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_formulas_agree_with_the_trace(bits, toy):
    settings = Settings().with_values(
        {"load": {"model": str(toy()), "bits": bits}, "train": {"batch_size": 2, "max_seq_length": 64}}
    )
    lines = {line["part"]: line for line in forecast.forecast(settings, context=64)["explained"]}
    assert set(lines) == {"weights", "adapters", "optimizer", "kv_cache"}
    assert all(lines[part]["agrees"] for part in ("adapters", "optimizer", "kv_cache"))
    assert lines["weights"]["bytes"] <= lines["weights"]["traced"]  # a toy's many small tensors are rounded up
    assert lines["weights"]["agrees"] or bits < 16
    for line in lines.values():  # B is bytes, never billions
        assert not re.search(r"\d [BM] ×", line["arithmetic"]) and line["arithmetic"].endswith(" B")


def test_a_formula_that_is_off_does_not_agree():
    kind, values = FAMILIES["llama"]
    config = AutoConfig.for_model(kind, **values)
    facts = meta_model.model_facts(config, Load(bits=16), torch.bfloat16, "cuda")
    predictions = {
        "load": {"parts": {"weights": 1}},
        "chat": {"parts": {}},
        "tune": {"parts": {"adapters": 10**9}, "trainable": 5},
    }
    lines = explain(config, facts, Settings(load=Load(bits=16)), predictions, 64)
    assert not any(line["agrees"] for line in lines)
    assert "optimizer" not in {line["part"] for line in lines}  # which a peak of start values doesn't have
