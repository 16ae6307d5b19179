"""Contract tests: each private API in playground/compat/ still does what the program relies on.

A failure names the library and the version that changed.
"""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version

import bitsandbytes
import orjson
import pytest
import torch
import toys
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from toys import PROJECT
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from playground import compat


def changed(library: str, what: str) -> str:
    return f"{library} {version(library)} changed {what}: mend it in playground/compat/"


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, device="meta", dtype=dtype)


# torch


def test_storage_id_is_shared_by_views_and_differs_between_meta_tensors():
    one, other = meta(4, 4), meta(4, 4)
    same = compat.storage_id(one) == compat.storage_id(one.T) == compat.storage_id(one[1:])
    assert same and compat.storage_id(one) != compat.storage_id(other), changed("torch", "UntypedStorage._cdata")


def test_viewed_tensor_is_the_original_of_a_view():
    original = torch.ones(4, 4)
    assert compat.viewed_tensor(original.T) is original and compat.viewed_tensor(original) is original, changed(
        "torch", "Tensor._base"
    )


def test_a_backward_pass_and_a_recomputation_in_it_are_noticed():
    seen = []

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            seen.append(("forward", compat.in_backward_pass(), compat.in_recomputation()))
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            ctx.saved_tensors  # noqa: B018  # is computed again now
            seen.append(("backward", compat.in_backward_pass(), compat.in_recomputation()))
            return gradient * 2

    inputs = torch.ones(2, requires_grad=True)
    torch.utils.checkpoint.checkpoint(Probe.apply, inputs, use_reentrant=False).sum().backward()
    assert seen == [("forward", False, False), ("forward", True, True), ("backward", True, False)], changed(
        "torch", "_current_graph_task_id or _top_saved_tensors_default_hooks"
    )


def test_local_shard_of_an_unsharded_tensor_is_itself():
    from torch.distributed.tensor import DTensor

    tensor = torch.ones(2)
    assert compat.local_shard(tensor) is tensor
    assert "_local_tensor" in DTensor.__slots__ or hasattr(DTensor, "_local_tensor"), changed(
        "torch", "DTensor._local_tensor"
    )


def test_shares_of_one_process_are_gathered(tmp_path):
    from torch import distributed

    distributed.init_process_group("gloo", f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        whole, share = torch.zeros(3, dtype=torch.uint8), torch.arange(3, dtype=torch.uint8)
        compat.gather_shares(whole, share)
        assert torch.equal(whole, share), changed("torch", "all_gather_into_tensor or all_gather_single")
    finally:
        distributed.destroy_process_group()


def test_cublas_workspaces_can_be_cleared():
    assert callable(getattr(torch._C, "_cuda_clearCublasWorkspaces", None)) or not torch.backends.cuda.is_built(), (
        changed("torch", "_cuda_clearCublasWorkspaces")
    )


def test_a_dispatch_mode_sees_every_operator_with_its_schema():
    seen = []

    class Recorder(compat.dispatch_mode()):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            seen.append(operator)
            return operator(*args, **(kwargs or {}))

    with Recorder():
        meta(2, 3) @ meta(3, 2)
        meta(2).add_(1.0)
    product = next(op for op in seen if compat.operator_name(op) == "aten::mm")
    written = next(op for op in seen if compat.operator_name(op) == "aten::add_")
    arguments, returns = compat.operator_arguments(product)
    assert not any(part.alias_info for part in (*arguments, *returns)), changed("torch", "operator schemas")
    assert compat.operator_arguments(written)[0][0].alias_info.is_write, changed("torch", "operator schemas")


def test_reading_a_number_is_one_operator():
    seen = []

    class Recorder(compat.dispatch_mode()):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            seen.append(compat.reads_a_number(operator))
            return operator(*args, **(kwargs or {}))

    with Recorder():
        torch.ones(1).item()
    assert any(seen), changed("torch", "aten._local_scalar_dense")


@pytest.mark.parametrize("kernel", ["flash", "efficient"])
def test_attention_kernels_have_their_shapes_on_meta(kernel):
    query, key, value = (meta(1, 4, 8, 16, dtype=torch.bfloat16) for _ in range(3))
    if kernel == "flash":
        output = compat.flash_attention(query, key, value, 0.0, True, scale=None)
    else:
        output = compat.efficient_attention(query, key, value, None, True, 0.0, True, scale=None)
    assert output.shape == query.shape, changed("torch", f"aten._scaled_dot_product_{kernel}_attention")


def test_safe_softmax_gives_zeros_for_a_masked_row():
    scores = torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]])
    assert compat.safe_softmax(scores, -1).tolist() == [[0.5, 0.5], [0.0, 0.0]], changed("torch", "_safe_softmax")


def test_foreach_operators_write_into_their_targets():
    targets, sources = [torch.ones(2), torch.ones(3)], [torch.full((2,), 2.0), torch.full((3,), 3.0)]
    compat.foreach_copy(targets, sources)
    compat.foreach_add(targets, sources)
    assert [t[0].item() for t in targets] == [4.0, 6.0], changed("torch", "_foreach_copy_ or _foreach_add_")
    compat.foreach_zero(targets)
    assert [t.sum().item() for t in targets] == [0.0, 0.0], changed("torch", "_foreach_zero_")


def test_a_fused_step_is_that_of_torchs_optimizer():
    torch.manual_seed(0)
    whole = torch.randn(70, requires_grad=True)
    parameter, moments = whole.detach().clone(), [torch.zeros(70), torch.zeros(70)]
    optimizer = torch.optim.AdamW([whole], lr=1e-2, weight_decay=0.1, fused=True)
    for steps in range(3):
        whole.grad = torch.randn(70)
        compat.fused_adamw(parameter, whole.grad.clone(), moments, steps, optimizer.param_groups[0])
        optimizer.step()
        assert torch.equal(parameter, whole)
    state = optimizer.state[whole]
    assert (
        state["step"] == 3
        and torch.equal(moments[0], state["exp_avg"])
        and torch.equal(moments[1], state["exp_avg_sq"])
    )


def test_own_tensors_are_a_modules_parameters_and_buffers():
    layer = torch.nn.BatchNorm1d(3)
    names = {name for name, _ in compat.own_tensors(layer)}
    assert names == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}, changed(
        "torch", "Module._parameters or _buffers"
    )


def test_varlen_attention_takes_the_arguments_that_packed_rows_pass():
    import inspect

    function, needs_flag = compat.varlen_attention()
    assert function is not None, changed("torch", "torch.nn.attention.varlen")
    names = set(inspect.signature(function).parameters)
    assert {"window_size", "scale"} <= names and isinstance(needs_flag, bool), changed("torch", "varlen_attn")


# transformers


def test_a_models_attention_is_named_and_can_be_set():
    model = toys.make_model("llama")
    model.set_attn_implementation("eager")
    assert compat.attention_implementation(model.config) == "eager" and compat.can_set_attention(model), changed(
        "transformers", "config._attn_implementation"
    )


@pytest.mark.parametrize("bits", [8, 4])
def test_linear_layers_are_replaced_but_those_left_out(bits):
    model = toys.make_model("llama")
    skip = compat.modules_not_to_quantize(model)
    assert "lm_head" in skip, changed("transformers", "get_keys_to_not_convert")
    quantization = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    compat.replace_linear_layers(model, skip, quantization)
    kind = Linear4bit if bits == 4 else Linear8bitLt
    assert isinstance(model.model.layers[0].mlp.up_proj, kind) and type(model.lm_head) is torch.nn.Linear, changed(
        "transformers", "replace_with_bnb_linear"
    )


def test_modules_kept_in_float32_are_left_out():
    assert "wo" in compat.modules_not_to_quantize(toys.make_model("t5")), changed(
        "transformers", "_keep_in_fp32_modules"
    )


def test_falcon_is_built_of_linear_layers_only_within_the_context():
    from transformers.models.falcon import modeling_falcon

    own = modeling_falcon.FalconLinear
    with compat.falcon_as_linear():
        layer = toys.make_model("falcon").transformer.h[0].mlp.dense_h_to_4h
        assert type(layer) is torch.nn.Linear, changed("transformers", "FalconLinear")
    assert modeling_falcon.FalconLinear is own and own is not torch.nn.Linear


def test_progress_bars_of_a_load_are_made_by_the_given_factory(toy):
    from transformers import AutoModelForCausalLM

    made = []

    class Bar:
        def __init__(self, iterable=None, **options):
            self.iterable = iterable
            made.append(options)

        def __iter__(self):
            return iter(self.iterable)

        def __getattr__(self, name):
            return lambda *args, **options: None

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            return None

    with compat.progress_bars(Bar):
        AutoModelForCausalLM.from_pretrained(toy())
    assert made, changed("transformers", "logging.set_tqdm_hook")


def test_matrices_keep_their_files_type_and_vectors_do_not(toy):
    from transformers import AutoModelForCausalLM

    with compat.matrices_as_stored(torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(toy(), dtype=torch.bfloat16)
    dtypes = {p.dtype for p in model.parameters() if p.ndim > 1}, {p.dtype for p in model.parameters() if p.ndim == 1}
    assert dtypes == ({torch.float32}, {torch.bfloat16}), changed("transformers", "_materialize_copy")
    model = AutoModelForCausalLM.from_pretrained(toy(), dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_tensors_of_a_gguf_file_without_a_place_are_named(tmp_path):
    from test_weights import write_gguf

    write_gguf(tmp_path / "a.gguf", further=["blk.0.attn_q.bias"])
    with compat.gguf_tensors_left_out() as left_out:
        AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf")
    assert left_out == ["blk.0.attn_q.bias"], changed("transformers", "get_gguf_hf_weights_map")


def test_scaled_positions_are_those_of_the_network():
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    model = toys.make_model("llama", rope_parameters=rope)
    frequencies, scale = compat.rope_frequencies(model.config)
    [(own, own_scale)] = compat.rope_of_model(model)
    expected = 10000.0 ** -(torch.arange(0, 16, 2) / 16) / 4
    changes = changed("transformers", "ROPE_INIT_FUNCTIONS")
    assert torch.allclose(frequencies, expected) and scale == own_scale == 1, changes
    assert torch.equal(own, frequencies), changed("transformers", "inv_freq")


def test_a_config_tells_whether_later_tokens_are_seen():
    from transformers import BartConfig, BertConfig, LlamaConfig, XLMConfig

    seen = [BertConfig(), XLMConfig(), BertConfig(is_decoder=True), XLMConfig(causal=True), BartConfig(), LlamaConfig()]
    found = [compat.sees_later_tokens(config) for config in seen]
    assert found == [True, True, False, False, False, False], changed("transformers", "is_decoder and causal")


def test_parameters_kept_in_float32_are_named():
    model = toys.make_model("t5")
    kept = compat.kept_in_float32(model, torch.float16)
    assert kept and all(".wo." in name for name in kept), changed("transformers", "_get_dtype_plan")
    assert not compat.kept_in_float32(model, torch.float32)


def test_tensors_are_read_in_order_only_within_the_context(toy, monkeypatch):
    from transformers import AutoModelForCausalLM, core_model_loading

    pools = []
    own = core_model_loading.ThreadPoolExecutor
    monkeypatch.setattr(
        core_model_loading, "ThreadPoolExecutor", lambda **options: pools.append(options) or own(**options)
    )
    with compat.reading_in_order():
        AutoModelForCausalLM.from_pretrained(toy())
    assert not pools, changed("transformers", "HF_DEACTIVATE_ASYNC_LOAD")
    AutoModelForCausalLM.from_pretrained(toy())
    assert pools == [{"max_workers": compat.reading_threads()}], changed("transformers", "ThreadPoolExecutor")


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # gpt2's layers have their matrices the other way round
def test_weights_quantized_where_they_were_read_are_the_same(toy, family, monkeypatch):
    from transformers import AutoModelForCausalLM

    def codes() -> dict:
        quantized = BitsAndBytesConfig(load_in_8bit=True)
        model = AutoModelForCausalLM.from_pretrained(toy(family), quantization_config=quantized)
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear8bitLt)}
        return {name: (layer.weight.data, layer.weight.SCB) for name, layer in layers.items()}

    own = codes()
    monkeypatch.setattr(bitsandbytes.nn.Int8Params, "to", None)  # the way by main memory
    with compat.quantizing_where_read():
        ours = codes()
    same = [all(torch.equal(*pair) for pair in zip(own[name], ours[name], strict=True)) for name in own]
    assert same and all(same) and own.keys() == ours.keys(), changed("transformers", "Bnb8bitQuantize.convert")


PADDING = " " * 2**20  # that makes a file of JSON large


@pytest.fixture
def read_quickly(monkeypatch) -> list[int]:
    """Lengths of the texts that orjson was given."""
    own, lengths = orjson.loads, []
    monkeypatch.setattr(orjson, "loads", lambda text: lengths.append(len(text)) or own(text))
    return lengths


# orjson takes neither NaN nor half of a surrogate pair, and makes floats of large integers
@pytest.mark.parametrize("text", ['{"a": [1, "あ"]}' + PADDING, '[NaN, "\\ud800"]' + PADDING, f"[{10**30}]"])
def test_a_file_that_is_read_quickly_has_the_same_values(tmp_path, text, read_quickly):
    from transformers import tokenization_utils_base, tokenization_utils_tokenizers

    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    for module in (tokenization_utils_base, tokenization_utils_tokenizers):
        with compat.quick_tokenizer_files(), open(tmp_path / "tokenizer.json", encoding="utf-8") as file:
            assert repr(module.json.load(file)) == repr(json.loads(text))
        assert module.json is json
    assert len(read_quickly) == (2 if PADDING in text else 0)


def test_transformers_reads_a_large_tokenizer_quickly(toy, tmp_path, read_quickly):
    from transformers import AutoTokenizer

    shutil.copytree(toy(), tmp_path / "large")
    file = tmp_path / "large" / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8") + PADDING, encoding="utf-8")
    with compat.quick_tokenizer_files():
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "large")
    assert read_quickly, changed("transformers", "how it reads tokenizer.json")
    assert tokenizer.encode("The answer is blue.") == AutoTokenizer.from_pretrained(toy()).encode("The answer is blue.")


def test_a_tokenizer_works_without_its_python_vocabulary(toy):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(toy())
    before = tokenizer.encode("The answer is blue.")
    compat.drop_python_vocabulary(tokenizer)
    assert tokenizer.encode("The answer is blue.") == before and tokenizer.decode(before) == "The answer is blue.", (
        changed("transformers", "PreTrainedTokenizerFast")
    )


# In a separate process: what others leave free or take meanwhile would be counted too.
TOKENIZERS_THAT_ARE_GONE = """
import sys
from pathlib import Path
import psutil
from transformers import LlamaConfig
from playground.model.tokenizer import read_tokenizer

words = " ".join(f"word{number}" for number in range(5000))

def use_one():
    read_tokenizer(Path(sys.argv[1]), LlamaConfig())(words)
    return psutil.Process().memory_info().rss

use_one()
print(-use_one() + [use_one() for _ in range(15)][-1])
"""


def test_the_words_of_tokenizers_that_are_gone_take_no_memory(tmp_path):
    toys.make_tokenizer(True).save_pretrained(tmp_path)
    command = [sys.executable, "-c", TOKENIZERS_THAT_ARE_GONE, str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT).stdout
    growth = int(printed.split()[-1])
    assert growth < 6 * 2**20, changed("tokenizers", "BPE._resize_cache")


# peft


@pytest.mark.parametrize("options,plain", [({}, True), ({"use_dora": True}, False), ({"lora_bias": True}, False)])
def test_plain_lora_is_told_from_its_variants(options, plain):
    model = get_peft_model(toys.make_model("llama"), LoraConfig(r=4, target_modules=["q_proj"], **options))
    layer = next(m for m in model.modules() if isinstance(m, LoraLayer))
    assert compat.is_plain_lora(layer, "default") is plain, changed("peft", "LoraLayer.lora_variant or lora_bias")
    assert not compat.is_plain_lora(layer, "other")


def test_rows_of_a_batch_can_go_without_an_adapter():
    model = get_peft_model(
        toys.make_model("llama"), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    ).eval()
    ids = torch.tensor([[3, 4, 5], [3, 4, 5]])
    with torch.no_grad():
        base, tuned = model(input_ids=ids, adapter_names=[compat.BASE_ROWS, "default"]).logits
        with model.disable_adapter():
            expected = model(input_ids=ids[:1]).logits[0]
    assert torch.allclose(base, expected, atol=1e-5) and not torch.allclose(base, tuned, atol=1e-3), changed(
        "peft", 'adapter_names with "__base__"'
    )


# bitsandbytes


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_are_quantized_onto_meta_with_their_constants(bits):
    if bits == 4:
        weight = bitsandbytes.nn.Params4bit(meta(64, 128), quant_type="nf4", compress_statistics=True)
    else:
        weight = bitsandbytes.nn.Int8Params(meta(64, 128), requires_grad=False, has_fp16_weights=False)
    with compat.separate_code_books():
        quantized = compat.quantize_to(weight, "meta")
        constants = list(compat.quantization_constants(quantized))
    sizes = {4: 64 * 128 // 2, 8: 64 * 128}
    assert quantized.is_meta and quantized.numel() * quantized.element_size() == sizes[bits], changed(
        "bitsandbytes", "Params4bit._quantize or Int8Params._quantize"
    )
    assert len(constants) == (5 if bits == 4 else 1), changed("bitsandbytes", "QuantState")


def test_code_books_made_on_meta_reach_no_real_layer():
    before = set(bitsandbytes.functional.name2qmap)
    with compat.separate_code_books():
        bitsandbytes.functional.name2qmap["made here"] = meta(256)
    assert set(bitsandbytes.functional.name2qmap) == before, changed("bitsandbytes", "functional.name2qmap")


def test_int8_row_scales_are_there_before_and_after_a_forward_pass():
    layer = Linear8bitLt(32, 16, has_fp16_weights=False)
    layer.weight = bitsandbytes.nn.Int8Params(torch.randn(16, 32), requires_grad=False, has_fp16_weights=False).to(
        "cpu"
    )
    layer.weight = compat.quantize_to(layer.weight, "cpu") if layer.weight.SCB is None else layer.weight
    before = compat.int8_row_scales(layer).clone()
    layer(torch.randn(2, 32))
    after = compat.int8_row_scales(layer)
    assert before.numel() == 16 and torch.equal(before, after), changed("bitsandbytes", "Linear8bitLt.state.SCB")


def test_4bit_layers_can_be_kept_from_repacking():
    layer = Linear4bit(32, 16)
    assert hasattr(layer, "support_avx512bf16_for_cpu"), changed(
        "bitsandbytes", "Linear4bit.support_avx512bf16_for_cpu"
    )
    compat.disable_cpu_repacking([layer, torch.nn.Linear(2, 2)])
    assert layer.support_avx512bf16_for_cpu is False


def test_a_4bit_layer_computes_in_the_type_it_was_set_to():
    layer = Linear4bit(64, 32, compute_dtype=torch.float32)
    layer.weight = bitsandbytes.nn.Params4bit(torch.randn(32, 64), quant_type="nf4", module=layer).to("cpu")
    compat.disable_cpu_repacking([layer])
    compat.set_4bit_compute_dtype(layer, torch.bfloat16)
    x = torch.randn(2, 64, requires_grad=True)
    assert layer(x).dtype == x.dtype and layer.compute_dtype == torch.bfloat16, changed(
        "bitsandbytes", "Linear4bit.compute_type_is_set"
    )


@pytest.mark.slow
def test_bitsandbytes_is_imported_without_the_compiler_and_its_kernels_still_work():
    code = (
        "import sys\nimport torch\nfrom playground import compat\ncompiled = []\n"
        "torch.compile = before = lambda function, **_: compiled.append(function) or function\n"
        "compat.import_bitsandbytes()\nprint('torch._inductor' in sys.modules, torch.compile is before, compiled)\n"
        "from bitsandbytes.backends.default.ops import _dequantize_blockwise_compute as kernel\n"
        "zeros, scale = torch.zeros(64, dtype=torch.uint8), 2 * torch.ones(1)\n"
        "print(kernel(zeros, scale, torch.ones(256), 64, torch.float32).sum().item(), len(compiled))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert ended.stdout.split("\n")[:2] == ["False True []", "128.0 1"], (
        changed("bitsandbytes", "backends.default.ops._try_torch_compile") + ended.stderr[-500:]
    )


# datasets


@pytest.mark.slow
def test_datasets_streams_without_importing_torch(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n')
    code = (
        "import sys\nfrom playground import compat\ncompat.keep_torch_out_of_datasets()\nimport datasets\n"
        "rows = datasets.load_dataset(sys.argv[1], streaming=True)['train']\nprint(list(rows), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert ended.stdout.strip() == "[{'a': 1}] False", (
        changed("datasets", "config.TORCH_AVAILABLE") + ended.stderr[-500:]
    )


def test_every_name_that_it_offers_is_there():
    assert [name for name in compat.__all__ if not hasattr(compat, name)] == []


def test_importing_it_imports_no_torch():
    code = "import sys\nimport playground.compat\nprint('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert ended.stdout.strip() == "False", ended.stderr
