"""Loading at each bit width: the ledger says what is really there, and giving back gives all of it back."""

import gc
import platform
import shutil
import subprocess
import sys

import psutil
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from toys import PROJECT, keys

from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory import ledger
from playground.memory.release import defragment
from playground.model import adapt
from playground.model.load import load_model
from playground.settings import Load, Lora
from playground.train.optimizer import Optimizer

LAYERS = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3)  # weights of the linear layers of the toy llama
OTHERS = 336 * 64 * 2 + 64 * 5  # embedding, head, norms


def SILENT(*_):  # progress that nobody hears
    pass


def loaded(folder, **values):
    return load_model(folder, Load(model=str(folder), device="cpu", **values), SILENT)


def _buffers(model) -> int:
    return sum({b.data_ptr(): b.nbytes for b in model.buffers()}.values())


@pytest.mark.parametrize("bits,dtype,size", [(32, "auto", 4), (16, "bfloat16", 2), (16, "float16", 2)])
def test_unquantized_weights_are_parameters_times_their_size(toy, bits, dtype, size):
    found = loaded(toy(), bits=bits, dtype=dtype)
    assert found.model.dtype == found.dtype and found.dtype.itemsize == size
    parts = ledger.bytes_by_part(found.model)
    assert parts["weights"] == (LAYERS + OTHERS) * size + _buffers(found.model)
    assert all(parts[name] == 0 for name in parts if name != "weights")


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [True, False])
def test_four_bit_weights_are_half_a_byte_each_and_their_constants_are_counted_apart(toy, quant_type, double_quant):
    found = loaded(toy(), bits=4, quant_type=quant_type, double_quant=double_quant, dtype="bfloat16")
    layers = [m for m in found.model.modules() if isinstance(m, Linear4bit)]
    assert len(layers) == 14 and {m.weight.quant_type for m in layers} == {quant_type}
    blocks = [m.in_features * m.out_features // m.weight.quant_state.blocksize for m in layers]
    parts = ledger.bytes_by_part(found.model)
    assert parts["weights"] == LAYERS // 2 + OTHERS * 2 + _buffers(found.model)
    books, scales = {}, 0
    for layer, count in zip(layers, blocks):
        state = layer.weight.quant_state
        books[state.code.data_ptr()] = state.code.nbytes
        if double_quant:
            books[state.state2.code.data_ptr()] = state.state2.code.nbytes
            scales += (
                count + 4 * -(-count // state.state2.blocksize) + 4
            )  # a byte a block, a float a block of them, the offset
        else:
            scales += 4 * count
    offsets = {m.weight.quant_state.offset.untyped_storage().data_ptr() for m in layers} if double_quant else layers
    assert len(offsets) == len(layers)
    assert parts["quant_constants"] == scales + sum(books.values())


def test_eight_bit_weights_are_a_byte_each_before_and_after_they_are_used(toy):
    found = loaded(toy(), bits=8, dtype="bfloat16")
    layers = [m for m in found.model.modules() if isinstance(m, Linear8bitLt)]
    assert len(layers) == 14
    wanted = {
        "weights": LAYERS + OTHERS * 2 + _buffers(found.model),
        "quant_constants": 4 * sum(m.out_features for m in layers),
    }
    for _ in range(2):
        parts = ledger.bytes_by_part(found.model)
        assert {name: parts[name] for name in wanted} == wanted
        with torch.no_grad():
            found.model(input_ids=torch.tensor([[5, 6, 7]]))


def test_tied_weights_count_once(toy):
    found = loaded(toy("llama-tied"), bits=32)
    assert ledger.bytes_by_part(found.model)["weights"] == (LAYERS + OTHERS - 336 * 64) * 4 + _buffers(found.model)


@pytest.mark.parametrize("bits,size", [(32, 4), (16, 2), (4, 2)])
def test_adapters_gradients_and_optimizer_are_counted_as_they_come(toy, bits, size):
    found = loaded(toy(), bits=bits, dtype="bfloat16")
    tuned = adapt.add_lora(found.model, Lora(r=4), found.dtype, 0)
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


def test_the_reason_for_the_type_is_told(toy):
    assert loaded(toy(), bits=32).reason == "dtype.float32"
    assert (loaded(toy(), bits=16, dtype="float16").dtype, loaded(toy(), bits=16, dtype="float16").reason) == (
        torch.float16,
        "dtype.chosen",
    )
    found = loaded(toy(), bits=16)
    assert found.dtype == torch.bfloat16 and found.reason in ("dtype.cpu_bf16", "dtype.cpu_slow_bf16")


def test_cuda_asked_for_where_there_is_none_is_said(toy):
    with pytest.raises(PlaygroundError) as caught:
        load_model(toy(), Load(model=str(toy()), bits=16, device="cuda"), SILENT)
    assert keys(caught) == ["error.no_cuda"]


def _fails(chosen, tmp_path, folder) -> str:
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path / "runs").load(chosen(load={"model": str(folder)})))
    assert caught.value.text("ja")
    return keys(caught)[0]


def test_a_folder_without_a_model_is_told_with_what_it_holds(chosen, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("")
    assert _fails(chosen, tmp_path, tmp_path / "m") == "error.no_model"


def test_a_model_without_weights_is_told(chosen, tmp_path, toy):
    shutil.copytree(toy(), tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    assert _fails(chosen, tmp_path, tmp_path / "m") == "error.no_weights"


def test_torn_weights_are_told(chosen, tmp_path, toy):
    shutil.copytree(toy(), tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert _fails(chosen, tmp_path, tmp_path / "m") == "error.cut_off"


def test_a_model_without_a_tokenizer_is_told(chosen, tmp_path, toy):
    shutil.copytree(toy(), tmp_path / "m", ignore=shutil.ignore_patterns("token*"))
    assert _fails(chosen, tmp_path, tmp_path / "m") == "error.tokenizer"


def test_a_config_that_is_no_causal_model_is_told(chosen, tmp_path, toy):
    shutil.copytree(toy(), tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "vit", "hidden_size": 64, "num_hidden_layers": 2}')
    assert _fails(chosen, tmp_path, tmp_path / "m") == "error.load"


def test_code_that_comes_with_a_model_is_never_run(chosen, tmp_path, toy):
    shutil.copytree(toy(), tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(
        '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}'
    )
    (tmp_path / "m" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert _fails(chosen, tmp_path, tmp_path / "m") == "error.model_type"
    assert not (tmp_path / "ran").exists()


def test_giving_back_a_model_gives_its_memory_back(chosen, tmp_path, toy):
    big = toy("llama", vocab_size=400_000)  # two tables of 49 MiB at 16 bits
    resident = psutil.Process().memory_info
    bench = Workbench(tmp_path / "runs")
    list(bench.load(chosen(load={"model": str(toy())})))  # what only a first load costs isn't the model's
    gc.collect()
    before = resident().rss
    list(bench.load(chosen(load={"model": str(big), "bits": 16, "dtype": "bfloat16"})))
    during = resident().rss
    assert during - before > 60 * 2**20
    bench.free()
    assert resident().rss - before < 30 * 2**20
    assert sum(bench.parts().values()) == 0


@pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in platform.libc_ver(), reason="GNU's C library alone is asked"
)
def test_while_a_model_is_loaded_large_blocks_go_back_as_they_are_freed():
    script = """if True:
        import psutil, torch
        from playground.model.load import mmap_large_blocks

        def kept():
            before, large, small = psutil.Process().memory_info().rss, [], []
            for _ in range(64):
                large.append(torch.ones(2**19))  # 2 MiB
                small.append(bytearray(10_000))  # behind each, so that no end of the heap can be given back
            large.clear()
            return (psutil.Process().memory_info().rss - before) / 2**20

        with mmap_large_blocks():
            within = kept()
        print(within, kept())"""
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT, timeout=120
    )
    within, afterwards = map(float, told.stdout.split())
    assert within < 10 and afterwards > 60


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_weights_that_were_laid_side_by_side_are_what_they_were(toy, bits):
    model = loaded(toy("llama-tied"), bits=bits).model
    ids, before = torch.arange(5, 15)[None], ledger.bytes_by_part(model)
    with torch.no_grad():
        answered = model(ids).logits
        defragment(model)
        assert torch.equal(model(ids).logits, answered)
    assert ledger.bytes_by_part(model) == before
