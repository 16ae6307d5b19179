"""8-bit products on CUDA: against dequantized weights at real shapes, predicted bytes, and what the check costs."""

import threading
from dataclasses import replace

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs CUDA", allow_module_level=True)

import toys
from bitsandbytes.nn import Linear4bit, Params4bit

from playground.data.batch import Example
from playground.engine import product_check
from playground.engine.workbench import Workbench
from playground.memory.ledger import bytes_by_part
from playground.memory.release import release_memory
from playground.model import float8, int8_fast, nf4_fast
from playground.model.float8_linear import FastInt8Linear, Float8Linear
from playground.model.load import LoadedModel, load_model
from playground.predict import meta_model, phases
from playground.predict.heaviest import predict_heaviest_step
from playground.settings import Data, Load, Lora, Settings, Train
from playground.train import quantized_ops
from playground.train.linear import frozen_weight
from playground.train.loop import fine_tune
from playground.train.parallel import Team
from playground.train.prepare import prepare_trainer
from playground.train.product_check import MIN_COSINE, compare_products

if not float8.has_products("cuda"):
    pytest.skip("needs float8 products: compute capability 8.9", allow_module_level=True)

FP8 = Load(bits=8, quant_type_8bit="fp8", dtype="bfloat16", device="cuda")
LOADS = {
    "fp8": FP8,
    "int8-fast": replace(FP8, quant_type_8bit="int8-fast"),
    "nf4-fast": replace(FP8, bits=4, quant_type="nf4-fast"),
}
# in, out: OpenCALM-7B's and Llama-2-7B's layers, Qwen2.5-7B's narrow keys, and sizes that are no powers of two
SHAPES = [(4096, 12288), (16384, 4096), (4096, 11008), (11008, 4096), (3584, 512), (576, 192), (1536, 576)]
# of a product's norm; normally distributed numbers rounded to three bits on both sides: 3.8 % on an H100
PRODUCT_ERROR = 0.05
INT8_ERROR = 0.02  # 1.3 %
LENGTHS = [58 + 6 * n for n in range(32)]


def layer_of(width: int, out: int, bias: bool) -> Float8Linear:
    torch.manual_seed(0)
    layer = torch.nn.Linear(width, out, bias, dtype=torch.bfloat16, device="cuda")
    return Float8Linear.from_linear(layer, "cuda", multiplies=True)


def int8_layer_of(width: int, out: int, dtype: torch.dtype = torch.bfloat16) -> FastInt8Linear:
    torch.manual_seed(0)
    layer = torch.nn.Linear(width, out, dtype=dtype, device="cuda")
    return FastInt8Linear.from_linear(layer, "cuda", multiplies=True)


def nf4_weight_of(width: int, out: int, twice: bool = True) -> quantized_ops.FrozenWeight:
    torch.manual_seed(0)
    weight = torch.randn(out, width, dtype=torch.bfloat16, device="cuda")
    layer = Linear4bit(width, out, bias=False, compute_dtype=torch.bfloat16, device="meta")
    layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=twice).to("cuda")
    nf4_fast.prepare(layer)
    return frozen_weight(layer)


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found.float() - exact).norm() / exact.norm()).item()


def dense(layer: Float8Linear) -> torch.Tensor:
    return float8.dequantize_rows(layer.weight, layer.scales, torch.float32)


@pytest.mark.parametrize("rows", [1, 2, 7, 5024])
@pytest.mark.parametrize(("width", "out"), SHAPES)
def test_forward_is_the_dequantized_product(width, out, rows):
    layer = layer_of(width, out, bias=True)
    x = torch.randn(rows, width, device="cuda", dtype=torch.bfloat16)
    exact = x.float() @ dense(layer).T + layer.bias.float()
    error = (layer(x).float() - exact).norm() / exact.norm()
    assert 0.001 < error < PRODUCT_ERROR  # 8 bits were multiplied, and well


@pytest.mark.parametrize("rows", [1, 5024])
@pytest.mark.parametrize(("width", "out"), SHAPES)
def test_backward_is_the_dequantized_product(width, out, rows):
    layer = layer_of(width, out, bias=False)
    layer.weight.row_scales *= torch.logspace(-2, 2, out, device="cuda")  # rows of very different sizes
    upstream = torch.randn(rows, out, device="cuda", dtype=torch.bfloat16)
    exact = upstream.float() @ dense(layer)
    gradient = float8.linear_backward(lambda: float8.transposed(layer.weight.data), layer.scales, upstream)
    assert ((gradient.float() - exact).norm() / exact.norm()) < PRODUCT_ERROR


@pytest.mark.parametrize("rows", [1, 7, 100, 5024])
@pytest.mark.parametrize(("width", "out"), SHAPES)
def test_int8_products_are_those_of_the_dequantized_weight(width, out, rows):
    layer = int8_layer_of(width, out)
    weight = int8_fast.dequantize_rows(layer.weight, layer.scales, torch.float32)
    x, upstream = (torch.randn(rows, size, device="cuda", dtype=torch.bfloat16) for size in (width, out))
    error = relative_error(layer(x), x.float() @ weight.T + layer.bias.float())
    assert 0.001 < error < INT8_ERROR
    gradient = int8_fast.linear_backward(layer.weight.data, layer.scales, upstream)
    assert relative_error(gradient, upstream.float() @ weight) < INT8_ERROR


def test_int8_products_of_integers_are_exact_in_float16_too():
    layer = int8_layer_of(256, 128, torch.float16)
    codes = torch.randint(-127, 128, (128, 256), dtype=torch.int8, device="cuda")
    codes[:, 0] = 127
    layer = FastInt8Linear(codes, torch.ones(128, device="cuda") / 1024, layer.bias, multiplies=True)
    x = torch.randint(-127, 128, (300, 256), device="cuda").half()
    x[:, 0] = 127
    exact = x.double() @ codes.double().T / 1024 + layer.bias.double()
    torch.testing.assert_close(layer(x).double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize(("width", "out"), [(4096, 12288), (11008, 4096), (3584, 512), (576, 192)])
def test_nf4_is_dense_in_float8_as_its_numbers_rounded(width, out, twice):
    weight = nf4_weight_of(width, out, twice)
    assert weight.format == "nf4-fast"
    expected = (quantized_ops.dequantize(weight, torch.float32) / weight.constants[-1][:, None]).to(float8.E4M3).float()
    assert (quantized_ops.dense_float8(weight, False).float() != expected).float().mean() < 1e-3  # ties
    assert torch.equal(
        quantized_ops.dense_float8(weight, True).T.float(), quantized_ops.dense_float8(weight, False).float()
    )
    x, upstream = (torch.randn(300, size, device="cuda", dtype=torch.bfloat16) for size in (width, out))
    exact = quantized_ops.dequantize(weight, torch.float32)
    assert 0.001 < relative_error(quantized_ops.frozen_linear(weight, x, None), x.float() @ exact.T) < PRODUCT_ERROR
    assert (
        relative_error(quantized_ops.frozen_linear_backward(weight, upstream), upstream.float() @ exact) < PRODUCT_ERROR
    )


def test_quantizing_on_the_gpu_is_quantizing_on_the_cpu():
    x = torch.randn(300, 4104, device="cuda", dtype=torch.bfloat16) * torch.logspace(-4, 4, 300, device="cuda")[:, None]
    x[7] = 0
    codes, scales = float8.quantize_rows(x)
    expected_codes, expected_scales = float8.quantize_rows(x.cpu())
    torch.testing.assert_close(scales.cpu(), expected_scales)
    one, other = (c.view(float8.E4M3).float() for c in (codes.cpu(), expected_codes))
    assert (one != other).float().mean() < 1e-3  # ties after a division that is rounded otherwise


@pytest.fixture(scope="module")
def seven_b(tmp_path_factory):
    """The folder of a model with four of Llama-2-7B's layers, with random weights."""
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32}
    folder = tmp_path_factory.mktemp("model") / "seven-b"
    model = toys.make_model("llama", **sizes, num_hidden_layers=4, max_position_embeddings=1024, initializer_range=0.02)
    model.to(torch.bfloat16).save_pretrained(folder)
    toys.make_tokenizer(True).save_pretrained(folder)
    return folder


def peaks(loaded: LoadedModel, settings: Settings, rows: list[Example]) -> tuple[int, int]:
    """Peaks of allocated bytes: of the check before a run, and of three steps after it."""
    trainer = prepare_trainer(loaded, settings, rows, [], Team("cuda"))
    torch.cuda.reset_peak_memory_stats()
    check = compare_products(trainer, rows)
    of_check = torch.cuda.max_memory_allocated()
    assert check.passed and check.cosine > MIN_COSINE
    torch.cuda.reset_peak_memory_stats()
    for _ in fine_tune(trainer, rows, settings.train, threading.Event()):
        pass
    return of_check, torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("checkpointing", ["off", "all"])
@pytest.mark.parametrize("kind", LOADS)
def test_load_and_step_take_what_is_predicted_and_the_check_takes_less(seven_b, kind, checkpointing):
    train = Train(batch_size=32, max_steps=3, max_seq_length=256, gradient_checkpointing=checkpointing, compile="off")
    settings = Settings(load=replace(LOADS[kind], model=str(seven_b)), lora=Lora(), train=train)
    rows = [Example([5 + n % 300 for n in range(length)], length // 2) for length in LENGTHS]
    config, target = meta_model.config_of(str(seven_b)), phases.Target("cuda", torch.bfloat16, 70 * 2**30)
    of_load = phases.predict_load(config, settings, target)
    of_step = predict_heaviest_step(config, settings, target, rows)

    release_memory()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loaded = load_model(seven_b, settings.load, lambda *step: None)
    peak, parts = torch.cuda.max_memory_allocated() - before, bytes_by_part(loaded.model)
    check, step = (measured - before for measured in peaks(loaded, settings, rows))
    print(
        f"\nload {of_load['allocated']} predicted, {peak} measured; step {of_step['allocated']}, {step}; check {check}"
    )
    assert sum(parts.values()) <= peak
    assert of_load["allocated"] == pytest.approx(peak, rel=0.03)
    assert of_step["allocated"] == pytest.approx(step, rel=0.05)
    assert check < step


@pytest.mark.parametrize("kind", LOADS)
def test_a_fine_tune_is_checked_and_recorded_before_its_first_step(tmp_path, kind):
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "max_position_embeddings": 1024, "initializer_range": 0.02}
    model = toys.save(tmp_path / "toy", chat=True, **sizes)
    train = Train(max_steps=3, batch_size=8, lr=1e-3)
    settings = Settings(load=replace(LOADS[kind], model=str(model)), data=Data(end_row=32), lora=Lora(r=4), train=train)
    workbench = Workbench(tmp_path / "runs")
    try:
        events = list(workbench.tune(settings))
    finally:
        workbench.free()
    order = [event.get("key") if event["kind"] == "note" else event["kind"] for event in events]
    assert order.index(product_check.NOTES[kind]) < order.index("step")
