"""Configs that no model can be built from."""

import pytest
from toys import keys

from playground.errors import PlaygroundError
from playground.predict import meta_model


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
def test_a_config_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, text, key):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(PlaygroundError) as caught:
        meta_model.config_of(str(tmp_path / "config.json"))
    assert keys(caught) == [key] and "\n" not in caught.value.text()
