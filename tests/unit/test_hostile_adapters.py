"""Adapters whose files were made to hang, fill or break what reads them: each is a sentence, soon."""

import json
import struct
import time

import pytest
import torch
from safetensors.torch import save_file

from playground.errors import PlaygroundError
from playground.model.adapter_file import read_adapter
from playground.model.adapter_folder import base_model
from playground.model.name_patterns import check_patterns
from playground.model.tensor_names import natural_order

NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
SLOW = r"(.*)*(.*)*(.*)*(.*)*(.*)*!"
# As Unsloth and PEFT's documents write them.
USUAL = (
    r"^(?!.*vision).*(?:q_proj|k_proj|v_proj|o_proj)$",
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:k_proj|v_proj|q_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|k_proj)))",
    r".*\.layers\.\d+\.(self_attn|mlp)\..*_proj",
)


def _adapter(folder, config=None, entry=None):
    """An adapter's folder. entry: puts values into the first tensor's entry in the header, None for a key without."""
    matrices = {"A": torch.zeros(2, 8), "B": torch.zeros(8, 2)}
    save_file({NAME.format(part): matrix for part, matrix in matrices.items()}, folder / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "a/b"}
    (folder / "adapter_config.json").write_text(json.dumps(values | (config or {})))
    if entry is not None:
        data = (folder / "adapter_model.safetensors").read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        changed = {**header[NAME.format("A")], **entry}
        header[NAME.format("A")] = {key: value for key, value in changed.items() if value != "absent"}
        text = json.dumps(header).encode()
        (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return folder


def _keys(error) -> list[str]:
    return [problem.key for problem in error.value.problems]


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": SLOW},
        {"exclude_modules": SLOW},
        {"rank_pattern": {SLOW: 4}},
        {"alpha_pattern": {r"(a+)+!": 4}},
        {"target_modules": r"(\w|\w\w)+!"},
    ],
)
def test_a_pattern_that_takes_years_to_match_is_refused_within_seconds(tmp_path, config):
    begun = time.monotonic()
    with pytest.raises(PlaygroundError) as error:
        read_adapter(_adapter(tmp_path, config))
    assert _keys(error) == ["error.adapter_pattern"] and time.monotonic() - begun < 30


def test_patterns_as_people_write_them_pass_and_names_alone_start_no_process(tmp_path, monkeypatch):
    for pattern in USUAL:
        check_patterns({"target_modules": pattern, "rank_pattern": {r"layers\.\d+\.q_proj": 4}}, "x")
    assert read_adapter(_adapter(tmp_path, {"target_modules": USUAL[0]})).config.r == 2
    check_patterns({"target_modules": "((("}, "x")  # PEFT says what is wrong with it
    monkeypatch.setattr("subprocess.run", None)
    check_patterns({"target_modules": ["q_proj"], "exclude_modules": "lm_head", "rank_pattern": {"q_proj": 4}}, "x")


def test_patterns_have_a_length_and_a_number():
    for values in ({"target_modules": "x*" * 20_000}, {"rank_pattern": {f"x{n}*": 1 for n in range(6_000)}}):
        with pytest.raises(PlaygroundError) as error:
            check_patterns(values, "x")
        assert _keys(error) == ["error.adapter_pattern_large"]


@pytest.mark.parametrize(
    "entry",
    [
        *({"shape": shape} for shape in ("absent", None, 3, "abc", [-2, 8], [1.5, 2], [2**70], [[2], 8], {"a": 1})),
        *({"data_offsets": offsets} for offsets in ("absent", None, [3], [-8, 8], [0, "x"], [0.0, 64.0])),
        *({"dtype": dtype} for dtype in ("absent", None, 3)),
    ],
)
def test_a_header_that_describes_no_tensor_is_a_sentence(tmp_path, entry):
    with pytest.raises(PlaygroundError) as error:
        read_adapter(_adapter(tmp_path, entry=entry))
    assert _keys(error) == ["error.not_safetensors"]


@pytest.mark.parametrize("name", ["x" * 100_000, "~nobody-7351/x", "a/" * 3_000])
def test_a_base_model_that_no_file_can_be_named_like_is_a_sentence(tmp_path, name):
    try:
        named = base_model(_adapter(tmp_path, {"base_model_name_or_path": name}))
        assert named == name and not name.startswith("x")
    except PlaygroundError as error:
        assert [problem.key for problem in error.problems] == ["error.adapter_base"] and len(str(error)) < 1_000


def test_layers_of_any_number_have_an_order():
    names = ["a.10.b", "a.9.b", "a." + "9" * 10_000 + ".b", "a.².b"]
    assert sorted(names, key=natural_order)[-2:] == ["a.9.b", "a.10.b"]
