"""Loading at each bit width: the memory ledger matches the tensors, and freeing a model releases its memory."""

import contextlib
import gc
import json
import platform
import shutil
import subprocess
import sys
import threading

import psutil
import pytest
import torch
import transformers
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt
from safetensors.torch import load_file, save_file
from toys import PROJECT, keys
from transformers.models.falcon import modeling_falcon

from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory import ledger
from playground.memory.release import move_storage
from playground.model import adapt
from playground.model.load import load_model, model_from_config, quantizable_linear_layers
from playground.predict.meta_model import config_of
from playground.settings import Load, Lora
from playground.train.optimizer import Optimizer

LAYERS = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3)  # weights of the linear layers of the toy llama
OTHERS = 336 * 64 * 2 + 64 * 5  # embedding, head, norms


def ignore_progress(*_):
    pass


def load(folder, **values):
    return load_model(folder, Load(model=str(folder), device="cpu", **values), ignore_progress)


def _buffers(model) -> int:
    return sum({b.data_ptr(): b.nbytes for b in model.buffers()}.values())


@pytest.mark.parametrize("bits,dtype,size", [(32, "auto", 4), (16, "bfloat16", 2), (16, "float16", 2)])
def test_unquantized_weights_are_parameters_times_dtype_size(toy, bits, dtype, size):
    loaded = load(toy(), bits=bits, dtype=dtype)
    assert loaded.model.dtype == loaded.dtype and loaded.dtype.itemsize == size
    parts = ledger.bytes_by_part(loaded.model)
    assert parts["weights"] == (LAYERS + OTHERS) * size + _buffers(loaded.model)
    assert all(parts[name] == 0 for name in parts if name != "weights")


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [True, False])
def test_four_bit_weights_take_half_a_byte_and_constants_are_counted_separately(toy, quant_type, double_quant):
    loaded = load(toy(), bits=4, quant_type=quant_type, double_quant=double_quant, dtype="bfloat16")
    layers = [m for m in loaded.model.modules() if isinstance(m, Linear4bit)]
    assert len(layers) == 14 and {m.weight.quant_type for m in layers} == {quant_type}
    blocks = [m.in_features * m.out_features // m.weight.quant_state.blocksize for m in layers]
    parts = ledger.bytes_by_part(loaded.model)
    assert parts["weights"] == LAYERS // 2 + OTHERS * 2 + _buffers(loaded.model)
    code_books, scales = {}, 0
    for layer, count in zip(layers, blocks):
        state = layer.weight.quant_state
        code_books[state.code.data_ptr()] = state.code.nbytes
        if double_quant:
            code_books[state.state2.code.data_ptr()] = state.state2.code.nbytes
            scales += (
                count + 4 * -(-count // state.state2.blocksize) + 4
            )  # a byte per block, a float per block of blocks, the offset
        else:
            scales += 4 * count
    offsets = {m.weight.quant_state.offset.untyped_storage().data_ptr() for m in layers} if double_quant else layers
    assert len(offsets) == len(layers)
    assert parts["quant_constants"] == scales + sum(code_books.values())


def test_eight_bit_weights_take_a_byte_before_and_after_a_forward_pass(toy):
    loaded = load(toy(), bits=8, dtype="bfloat16")
    layers = [m for m in loaded.model.modules() if isinstance(m, Linear8bitLt)]
    assert len(layers) == 14
    expected = {
        "weights": LAYERS + OTHERS * 2 + _buffers(loaded.model),
        "quant_constants": 4 * sum(m.out_features for m in layers),
    }
    for _ in range(2):
        parts = ledger.bytes_by_part(loaded.model)
        assert {name: parts[name] for name in expected} == expected
        with torch.no_grad():
            loaded.model(input_ids=torch.tensor([[5, 6, 7]]))


def test_tied_weights_count_once(toy):
    loaded = load(toy("llama-tied"), bits=32)
    assert ledger.bytes_by_part(loaded.model)["weights"] == (LAYERS + OTHERS - 336 * 64) * 4 + _buffers(loaded.model)


@pytest.mark.parametrize("bits,size", [(32, 4), (16, 2), (4, 2)])
def test_adapters_gradients_and_optimizer_are_counted_as_they_are_allocated(toy, bits, size):
    loaded = load(toy(), bits=bits, dtype="bfloat16")
    tuned = adapt.add_lora(loaded.model, Lora(r=4), loaded.dtype, 0)
    trained = 2 * 4 * ((64 + 64) * 2 + (64 + 32) * 2 + (64 + 128) * 3)
    optimizer = Optimizer([(n, p) for n, p in tuned.named_parameters() if p.requires_grad])
    parts = ledger.bytes_by_part(tuned, optimizer.inner)
    copies = 0 if size == 4 else trained * 4  # what is float32 already is its own copy
    assert (parts["adapters"], parts["gradients"], parts["optimizer"]) == (trained * size, 0, copies)
    optimizer.backward(tuned(input_ids=torch.tensor([[5, 6, 7]])).logits.sum())
    assert ledger.bytes_by_part(tuned, optimizer.inner)["gradients"] == trained * 4
    optimizer.step(1e-3)
    parts = ledger.bytes_by_part(tuned, optimizer.inner)
    steps = sum(v.nbytes for s in optimizer.inner.state.values() for k, v in s.items() if k == "step")
    assert parts["optimizer"] == copies + 2 * trained * 4 + steps and parts["gradients"] == 0


def test_the_reason_for_the_dtype_is_reported(toy):
    assert load(toy(), bits=32).reason == "dtype.float32"
    assert (load(toy(), bits=16, dtype="float16").dtype, load(toy(), bits=16, dtype="float16").reason) == (
        torch.float16,
        "dtype.chosen",
    )
    loaded = load(toy(), bits=16)
    assert loaded.dtype == torch.bfloat16 and loaded.reason in ("dtype.cpu_bf16", "dtype.cpu_slow_bf16")


def test_requesting_cuda_without_a_gpu_is_an_error(toy):
    with pytest.raises(PlaygroundError) as caught:
        load_model(toy(), Load(model=str(toy()), bits=16, device="cuda"), ignore_progress)
    assert keys(caught) == ["error.no_cuda"]


def _load_error(chosen, tmp_path, folder) -> str:
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path / "runs").load(chosen(load={"model": str(folder)})))
    assert caught.value.text("ja")
    return keys(caught)[0]


def test_a_folder_without_a_config_is_an_error(chosen, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("")
    assert _load_error(chosen, tmp_path, tmp_path / "m") == "error.no_model"


def test_a_folder_without_weights_is_an_error(chosen, tmp_path, toy):
    shutil.copytree(toy(), tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    assert _load_error(chosen, tmp_path, tmp_path / "m") == "error.no_weights"


def test_truncated_weights_are_an_error(chosen, tmp_path, toy):
    shutil.copytree(toy(), tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert _load_error(chosen, tmp_path, tmp_path / "m") == "error.cut_off"


def test_a_folder_without_a_tokenizer_is_an_error(chosen, tmp_path, toy):
    shutil.copytree(toy(), tmp_path / "m", ignore=shutil.ignore_patterns("token*"))
    assert _load_error(chosen, tmp_path, tmp_path / "m") == "error.tokenizer"


@pytest.mark.slow
def test_a_tokenizer_is_read_before_the_weights(tmp_path, toy):
    """Its memory peak comes before theirs, and a tokenizer that can't be read is an error before they are read."""
    folder, tensors = shutil.copytree(toy(), tmp_path / "model"), []
    (folder / "tokenizer.json").write_text("{")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(PlaygroundError) as caught:
        load_model(folder, Load(model=str(folder), device="cpu", bits=32), lambda *step: tensors.append(step))
    assert keys(caught) == ["error.tokenizer"] and tensors == []
    load_model(toy(), Load(model=str(toy()), device="cpu", bits=32), lambda *step: tensors.append(step))
    assert tensors


def test_a_config_of_no_language_model_is_an_error(chosen, tmp_path, toy):
    shutil.copytree(toy(), tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "vit", "hidden_size": 64, "num_hidden_layers": 2}')
    assert _load_error(chosen, tmp_path, tmp_path / "m") == "error.not_language_model"


def test_code_in_a_model_folder_is_never_run(chosen, tmp_path, toy):
    shutil.copytree(toy(), tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(
        '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}'
    )
    (tmp_path / "m" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert _load_error(chosen, tmp_path, tmp_path / "m") == "error.model_type"
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_freeing_a_model_releases_its_memory(chosen, tmp_path, toy):
    big = toy("llama", vocab_size=400_000)  # two tables of 49 MiB at 16 bits
    resident = psutil.Process().memory_info
    bench = Workbench(tmp_path / "runs")
    list(bench.load(chosen(load={"model": str(toy())})))  # a first load's one-time costs aren't the model's
    bench.free()  # as is memory that earlier tests left to be used again
    gc.collect()
    before = resident().rss
    list(bench.load(chosen(load={"model": str(big), "bits": 16, "dtype": "bfloat16"})))
    during = resident().rss
    assert during - before > 40 * 2**20  # one table may take what earlier tests have freed
    bench.free()
    assert resident().rss - before < 30 * 2**20
    assert sum(bench.parts().values()) == 0


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in platform.libc_ver(), reason="only GNU's C library has these settings"
)
def test_large_blocks_are_returned_as_they_are_freed_while_loading():
    script = """if True:
        import psutil, torch
        from playground.model.load import mmap_large_blocks

        def unreturned():
            before, large, small = psutil.Process().memory_info().rss, [], []
            for _ in range(64):
                large.append(torch.ones(2**19))  # 2 MiB
                small.append(bytearray(10_000))  # behind each, so that the heap can't shrink at its end
            large.clear()
            return (psutil.Process().memory_info().rss - before) / 2**20

        with mmap_large_blocks():
            within = unreturned()
        print(within, unreturned())"""
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT, timeout=120
    )
    within, afterwards = map(float, process.stdout.split())
    assert within < 10 and afterwards > 60


def test_a_load_quantizes_to_int8_where_it_read(toy, monkeypatch):
    monkeypatch.setattr(Int8Params, "to", None)  # the way by main memory
    layers = [module for module in load(toy(), bits=8).model.modules() if isinstance(module, Linear8bitLt)]
    assert layers and all(layer.weight.dtype == torch.int8 for layer in layers)


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("is_full", [False, True])
def test_moved_tensors_keep_their_values_and_identity(toy, bits, is_full):
    model = load(toy("llama-tied"), bits=bits).model
    ids, before = torch.arange(5, 15)[None], ledger.bytes_by_part(model)
    with torch.no_grad():
        logits = model(ids).logits
        for storage in {tensor.untyped_storage() for _, tensor in ledger.tensors_by_part(model)}:
            if storage.nbytes():
                with pytest.raises(torch.OutOfMemoryError) if is_full else contextlib.nullcontext():
                    move_storage(storage, full_memory() if is_full else contextlib.nullcontext())
        assert torch.equal(model(ids).logits, logits)
    assert ledger.bytes_by_part(model) == before


@contextlib.contextmanager
def full_memory():
    """A context to allocate in, where nothing is left."""
    raise torch.OutOfMemoryError
    yield


def test_attention_isnt_planned_for_every_length(toy):
    torch.backends.cuda.enable_cudnn_sdp(True)
    load(toy("llama-tied"))
    assert not torch.backends.cuda.cudnn_sdp_enabled(), "as torch has it, on Hopper each token takes 50 ms more"


def test_falcon_is_quantized_and_the_library_s_linear_class_is_restored(toy):
    folder = toy("falcon")
    assert modeling_falcon.FalconLinear.__name__ == "FalconLinear"
    for bits, layer_class in ((32, torch.nn.Linear), (8, Linear8bitLt), (4, Linear4bit)):
        layers = adapt.linear_layers(load(folder, bits=bits).model)
        assert len(layers) == 8 and {type(layer) for layer in layers.values()} == {layer_class}
        assert modeling_falcon.FalconLinear.__name__ == "FalconLinear"
    config = transformers.AutoConfig.from_pretrained(folder)
    layers = adapt.linear_layers(model_from_config(config, torch.float32))
    assert {type(layer) for layer in layers.values()} == {torch.nn.Linear}
    assert modeling_falcon.FalconLinear.__name__ == "FalconLinear"


def test_falcon_s_linear_class_is_restored_after_errors_and_nested_use(toy):
    config = transformers.AutoConfig.from_pretrained(toy("falcon"))
    with pytest.raises(KeyError), quantizable_linear_layers(config):
        with quantizable_linear_layers(config):
            assert modeling_falcon.FalconLinear is torch.nn.Linear
        assert modeling_falcon.FalconLinear is torch.nn.Linear
        raise KeyError
    assert modeling_falcon.FalconLinear.__name__ == "FalconLinear"


def test_falcon_s_linear_class_is_patched_by_one_thread_at_a_time(toy):
    config = transformers.AutoConfig.from_pretrained(toy("falcon"))
    entered, release, seen = threading.Event(), threading.Event(), []

    def other():
        with quantizable_linear_layers(config):
            seen.append(modeling_falcon.FalconLinear)
            entered.set()
            release.wait(60)

    with quantizable_linear_layers(config):
        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.5)  # it waits until this block has ended
    assert entered.wait(60)
    release.set()
    thread.join()
    assert seen == [torch.nn.Linear] and modeling_falcon.FalconLinear.__name__ == "FalconLinear"


def test_progress_bars_of_transformers_are_reported_and_the_hook_is_restored(toy):
    from transformers.utils import logging as transformers_logging

    calls = []
    load_model(toy(), Load(model=str(toy()), bits=32, device="cpu"), lambda *progress: calls.append(progress))
    assert calls and {unit for _, _, unit in calls} == {"tensors"}
    assert calls[-1][0] == calls[-1][1] and [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert transformers_logging.set_tqdm_hook(None) is None


def test_an_attention_that_is_not_installed_gives_way_to_torchs(toy, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(toy(), folder)
    config = json.loads((folder / "config.json").read_text())
    for key in ("attn_implementation", "_attn_implementation"):
        (folder / "config.json").write_text(json.dumps(config | {key: "flash_attention_2"}))
        loaded = load(folder, bits=32)
        assert loaded.model.config._attn_implementation == "sdpa"
        config_of(str(folder))
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": "flash_attention_2"}))
    notes = {note["key"]: note["values"] for note in load(folder, bits=32).notes}
    assert notes["note.attention"] == {"name": "flash_attention_2"}
    assert load(toy(), bits=32).notes == []


@pytest.mark.parametrize(
    "name", ["model.layers.9.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.lora_A.default.weight"]
)
def test_tensors_that_the_network_has_no_place_for_are_named(toy, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(toy(), folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: torch.zeros(4, 4)}, folder / "model.safetensors", {"format": "pt"})
    [note] = load(folder, bits=32).notes
    assert note["key"] == "note.unused_tensors" and note["values"] == {"path": "model", "count": 1, "names": [name]}
