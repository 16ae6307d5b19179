"""Time, memory and size are bounded by what is asked: files that claim, or unpack to, more than they hold."""

import contextlib
import json
import struct
import sys
import threading
import time
import zipfile

import pytest

from playground import catalog
from playground.background import time_limit
from playground.data.csv_reader import column_names
from playground.data.records import MAX_COLUMNS
from playground.data.source import preview
from playground.errors import PlaygroundError
from playground.json_values import is_too_deep, valid_text, valid_value
from playground.jsonl_process import Connection
from playground.model.plausible import implausible_sizes
from playground.settings import Data, Settings, parse, parse_generation

LONE = "\ud83d"


def _keys(error) -> list[str]:
    return [problem.key for problem in error.value.problems]


def test_halves_of_characters_are_replaced_and_pairs_joined():
    assert valid_text("a\ud83d\ude00b") == "a😀b" and valid_text(f"a{LONE}b") == "a\ufffdb"
    value = valid_value({LONE: [LONE, 2**64, -(2**70), 10**400, float("nan"), float("inf"), True, None, 3]})
    assert value == {"\ufffd": ["\ufffd", 2.0**64, -(2.0**70), None, None, None, True, None, 3]}


def test_nesting_is_bounded():
    deep: list = []
    for _ in range(200):
        deep = [deep]
    assert is_too_deep(deep) and not is_too_deep([[[]]])
    assert not is_too_deep(valid_value(deep), 101)


@pytest.mark.parametrize(
    "group,name,value",
    [
        ("train", "seed", 2**60),
        ("data", "seed", -(2**60)),
        ("train", "batch_size", 10**9),
        ("train", "max_steps", 10**9),
        ("train", "max_seq_length", 2**30),
        ("train", "epochs", 1e12),
        ("lora", "layers", 10**6),
        ("data", "end_row", 10**12),
        ("load", "simulate_gpu_gib", 1e9),
    ],
)
def test_settings_have_limits(group, name, value):
    with pytest.raises(PlaygroundError) as error:
        parse({group: {name: value}})
    assert "problem.most" in _keys(error) and f"{group}.{name}" in str(error.value)


def test_a_step_has_a_limit_of_tokens():
    with pytest.raises(PlaygroundError) as error:
        parse({"train": {"batch_size": 10**5, "max_seq_length": 2**20}})
    assert _keys(error) == ["problem.batch_tokens"]


def test_texts_of_settings_have_limits_and_are_valid():
    with pytest.raises(PlaygroundError) as error:
        parse({"load": {"model": "x" * 5000}, "data": {"custom_format": "x" * 200_000}})
    assert _keys(error).count("problem.text_length") == 2
    assert parse({"load": {"model": f"a{LONE}"}}).load.model == "a\ufffd"
    with pytest.raises(PlaygroundError, match="generation"):
        parse_generation({"seed": 2**60})
    assert parse({"train": {"sample_every": "50"}}).train.sample_every == "50"
    for text in ("9" * 5000, "९" * 20):
        with pytest.raises(PlaygroundError):
            parse({"train": {"sample_every": text}})


def test_a_request_that_cannot_be_sent_is_refused_and_the_next_is_answered(tmp_path):
    echo = (
        "import sys, json\nfor line in sys.stdin: r = json.loads(line); print(json.dumps({'id': r['id'], 'result': r}))"
    )
    connection = Connection((sys.executable, "-u", "-c", echo), tmp_path / "log")
    answers, arrived = [], threading.Event()

    def take(message):
        answers.append(message)
        arrived.set()

    with pytest.raises(TypeError):
        connection.send("x", {"value": object()}, take)
    connection.send("x", {"value": LONE}, take)
    assert arrived.wait(20) and answers[0]["result"]["arguments"]["value"] == "\ufffd"
    connection.close(0)


def test_a_job_that_cannot_be_sent_leaves_the_engine_ready(tmp_path):
    from playground.engine.client import Engine
    from playground.settings import Generation

    engine = Engine(tmp_path, (sys.executable, "-c", "import sys; sys.stdin.read()"))
    with pytest.raises(TypeError):
        engine.chat(Settings(), None, {"base": [object()]}, Generation())
    assert engine.state != "busy" and engine.job is None and engine.last.ended
    engine.close(seconds=0.1)  # it reads its requests and takes none


SIZES = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 9}


@pytest.mark.parametrize(
    "name,value",
    [
        ("num_hidden_layers", 10**6),
        ("hidden_size", 2**30),
        ("vocab_size", 10**9),
        ("num_attention_heads", 10**7),
        ("intermediate_size", 10**12),
        ("layer_types", ["full_attention"] * 100_000),
        ("sliding_window", 10**400),
        ("text_config", {"num_hidden_layers": 10**6}),
        ("num_experts", 4096 * 100),
        ("num_labels", 10**8),
        ("num_mtp_layers", 10**8),
        ("first_k_dense_replace", 10**9),
        ("attention_types", [[["global", "local"], 10**8]]),
        ("intermediate_size", [10**12, 10**12]),
    ],
)
def test_a_config_of_absurd_sizes_is_refused_before_anything_is_built(tmp_path, name, value):
    from playground.model.config_file import config_of

    (tmp_path / "config.json").write_text(json.dumps(SIZES | {name: value}))
    begun = time.monotonic()
    with pytest.raises(PlaygroundError) as error:
        config_of(str(tmp_path))
    assert "error.config_large" in _keys(error) and time.monotonic() - begun < 20


def test_many_layers_of_many_experts_are_refused():
    assert list(implausible_sizes({"num_hidden_layers": 1000, "num_experts": 512}))
    assert not list(implausible_sizes({"num_hidden_layers": 61, "n_routed_experts": 384}))


def test_every_shape_of_the_catalog_is_plausible():
    shapes = [catalog.shape_of(model) for model in catalog.models()]
    assert sum(bool(shape) for shape in shapes) > 10
    for shape in shapes:
        assert list(implausible_sizes(shape["config"] if shape else {})) == []


def _gguf(path, tensors=0, entries=(), claimed=None):
    body = b""
    for name, kind, value in entries:
        body += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, tensors, len(entries) if claimed is None else claimed) + body)
    return path


@pytest.mark.parametrize("case", ["tensors", "entries", "array", "numbers", "text", "texts", "nested"])
def test_a_gguf_file_that_claims_more_than_it_holds_is_refused(tmp_path, case):
    from playground.model.gguf import check_file

    path = tmp_path / "x.gguf"
    array = struct.pack("<IQ", 8, 2**60)
    entries = {
        "array": [("a", 9, array)],
        "numbers": [("a", 9, struct.pack("<IQ", 0, 2**62))],
        "text": [("a", 8, struct.pack("<Q", 2**63))],
        "texts": [("a", 9, struct.pack("<IQ", 8, 3 * 2**20) + bytes(8 * 3 * 2**20))],
        "nested": [("a", 9, struct.pack("<IQ", 9, 2) * 40)],
    }.get(case, [])
    _gguf(path, 10**15 if case == "tensors" else 0, entries, 10**15 if case == "entries" else None)
    begun = time.monotonic()
    with pytest.raises(PlaygroundError) as error:
        check_file(path)
    assert _keys(error) == ["error.gguf_damaged"] and time.monotonic() - begun < 20


@pytest.mark.parametrize("dimensions,offset", [(10**9, 0), (1, 2**63)])
def test_a_gguf_file_with_an_impossible_tensor_is_refused_as_a_config_too(tmp_path, dimensions, offset):
    from playground.model.config_file import config_of

    described = struct.pack("<Q1sIQIQ", 1, b"a", dimensions, 32, 0, offset) + bytes(200)
    path = _gguf(tmp_path / "x.gguf", tensors=1)
    path.write_bytes(path.read_bytes() + described)
    with pytest.raises(PlaygroundError) as error:
        config_of(str(path))
    assert _keys(error) == ["error.gguf_damaged"]


def test_a_gguf_file_of_a_million_layers_is_refused(tmp_path):
    from playground.model.config_file import config_of

    entries = [("llama.block_count", 4, struct.pack("<I", 10**6))]
    with pytest.raises(PlaygroundError) as error:
        config_of(str(_gguf(tmp_path / "x.gguf", entries=entries)))
    assert _keys(error) == ["error.config_large"]


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    from playground.model.weights import file_problems, unpacking_problems

    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 20_000_000)
    assert path.stat().st_size < 100_000
    assert [p.key for p in file_problems(path)] == [p.key for p in unpacking_problems(path)] == ["error.unpacked"]


def test_what_torch_saves_is_no_bomb(tmp_path):
    import torch

    from playground.model.weights import unpacking_problems

    torch.save({"a": torch.zeros(1000), "b": torch.zeros(0)}, tmp_path / "x.pt")
    assert list(unpacking_problems(tmp_path / "x.pt")) == []


def test_a_huge_header_is_refused_unread(tmp_path):
    from playground.model.weights import MAX_HEADER, file_problems

    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 81 * 2**20))
        file.truncate(82 * 2**20)
    [problem] = file_problems(path)
    assert problem.key == "error.header_large" and problem.values["header_bytes"] > MAX_HEADER


def test_an_endless_loop_of_python_code_is_interrupted_once():
    begun = time.monotonic()
    with pytest.raises(TimeoutError), time_limit(0.3):
        while True:
            pass
    assert time.monotonic() - begun < 20
    with time_limit(0.3):
        pass
    time.sleep(0.6)  # nothing comes later


def test_equal_csv_headers_take_no_quadratic_time(tmp_path):
    taken = [f"a ({n})" for n in range(1, 100_001)]
    begun = time.monotonic()
    names = column_names([*taken, *["a"] * 100_000])
    assert len(set(names)) == 200_000 and time.monotonic() - begun < 20
    assert column_names(["a", "a", "", "a (2)"]) == ["a", "a (2)", "column 3", "a (2) (4)"]
    path = tmp_path / "x.csv"
    path.write_text(",".join("a" * (MAX_COLUMNS + 1)) + "\n1,2\n")
    with pytest.raises(PlaygroundError) as error:
        preview(Data(source=str(path)))
    assert _keys(error) == ["error.csv_columns"]


@pytest.mark.parametrize("group,name", [("load", "model"), ("data", "source"), ("lora", "start_from")])
def test_a_name_that_no_file_can_have_is_a_problem(group, name):
    for value, wrong in (("a/" * 500, False), ("あ" * 85, False), ("あ" * 86, True), ("folder/" + "9" * 400, True)):
        with pytest.raises(PlaygroundError) if wrong else contextlib.nullcontext() as error:
            parse({group: {name: value}})
        assert not wrong or _keys(error) == ["problem.name_length"]
