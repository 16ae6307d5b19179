"""Models of real shapes with random weights, and rows for them: speed and memory don't depend on the values."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from playground.data.batch import Example

PAD, RANK, BATCH = 2, 8, 32
LONG_ROWS, LONG_RANK = [4096, 4096], 16  # the rows and the rank with which NVIDIA publishes NeMo's speed
LENGTHS = [round(58 + 198 * n / (BATCH - 1)) for n in range(BATCH)]  # tokens of a step's rows, 5,024 in all
LABELLED = 0.6  # share of a row's tokens
SPECIAL_TOKENS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": PAD, "tie_word_embeddings": False}
WIDE = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "calm": (
        "gpt_neox",
        {
            "intermediate_size": 16384,
            "vocab_size": 52224,
            "rotary_pct": 1.0,
            "use_parallel_residual": False,
            "max_position_embeddings": 2048,
        },
    ),
    "llama": (
        "llama",
        {"intermediate_size": 11008, "vocab_size": 32000, "num_key_value_heads": 32, "max_position_embeddings": 4096},
    ),
    "llama3": (  # Llama-3-8B
        "llama",
        {"intermediate_size": 14336, "vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 8192},
    ),
    "qwen": (  # Qwen2.5-7B
        "qwen2",
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "vocab_size": 152064,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
        },
    ),
}
# Shapes as config.json has them, with the sizes of the published models: two that also see, one mixture of experts.
SHAPE_FILES = {file.stem: file for file in sorted((Path(__file__).parent / "shapes").glob("*.json"))}
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 512,
    "num_key_value_heads": 4,
}


def meta_model(shape: str, toy: bool) -> Any:
    """A model of that shape without weights, all its code imported: everything that can be done without the GPU."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, values = SHAPES[shape]
    config = AutoConfig.for_model(model_type, **SPECIAL_TOKENS | WIDE | values | (TINY if toy else {}))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def with_random_weights(model: Any, bits: int, device: str, kind: str = "") -> Any:
    """Fill a model from `meta_model` with random weights on `device`, in `bits`, as playground's `load` leaves it.

    kind: "fp8" or "int8-fast" at 8 bits, "nf4-fast" at 4 bits; else LLM.int8() and plain nf4.
    """
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from playground import compat
    from playground.memory.release import defragment_after_load
    from playground.model import float8, nf4_fast
    from playground.model.float8_linear import FastInt8Linear, Float8Linear

    compat.leave_out_cudnn_attention()
    torch.manual_seed(0)
    own = FastInt8Linear if kind == "int8-fast" else Float8Linear
    unquantized = _unquantized_modules(model) if bits < 16 else []
    by_meta_tensor: dict[int, nn.Parameter] = {}  # tied weights stay tied
    for name, module in list(model.named_modules()):
        _fill_parameters(name, module, device, by_meta_tensor)
        _fill_buffers(module, model.config, device)
        excluded = any(name == one or name.endswith("." + one) for one in unquantized)
        if bits < 16 and type(module) in (nn.Linear, Conv1D) and not excluded:
            model.set_submodule(
                name,
                own.from_linear(module, device, own.products.has_products(device))
                if kind in ("fp8", "int8-fast")
                else _quantized(module, bits),
            )
    by_meta_tensor.clear()  # frees the weights that were quantized
    if kind == "nf4-fast" and float8.has_products(device):
        nf4_fast.prepare(model)
    if bits < 16 and kind not in ("fp8", "int8-fast"):
        setattr(model, f"is_loaded_in_{bits}bit", True)  # the flag by which PEFT recognizes a quantized model
        if device == "cuda":
            defragment_after_load(model)
    compat.disable_cpu_repacking(model.modules())
    return model.eval()


def _unquantized_modules(model: Any) -> list[str]:
    """Names of modules that transformers leaves unquantized."""
    from transformers.quantizers.base import get_keys_to_not_convert

    return [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]


def _fill_parameters(name: str, module: "nn.Module", device: str, by_meta_tensor: dict[int, "nn.Parameter"]) -> None:
    from torch import nn

    for leaf, tensor in list(module.named_parameters(recurse=False)):
        if id(tensor) not in by_meta_tensor:
            values = _random_tensor(f"{name}.{leaf}", tensor, device)
            by_meta_tensor[id(tensor)] = nn.Parameter(values, requires_grad=False)
        setattr(module, leaf, by_meta_tensor[id(tensor)])


def _fill_buffers(module: "nn.Module", config: Any, device: str) -> None:
    import torch

    if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
        with torch.device(device):  # a rotary embedding's, which follow from the config
            module._buffers.update(type(module)(config=config)._buffers)
    for leaf, tensor in module.named_buffers(recurse=False):
        module._buffers[leaf] = tensor.to(device)


def _random_tensor(name: str, tensor: "torch.Tensor", device: str) -> "torch.Tensor":
    """Normal values for matrices; ones for the weights of norms, zeros for other vectors."""
    import torch

    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    if tensor.ndim > 1:
        return empty.normal_(0, 0.02)
    return empty.fill_(float("norm" in name and name.endswith("weight")))


def _quantized(layer: Any, bits: int) -> Any:
    """The layer as bitsandbytes' quantized one."""
    from bitsandbytes import nn as bnb

    transposed = not hasattr(layer, "in_features")  # GPT-2's Conv1D
    weight = layer.weight.data.T.contiguous() if transposed else layer.weight.data
    sizes, device = (weight.shape[1], weight.shape[0], layer.bias is not None), weight.device
    if bits == 4:
        quantized = bnb.Linear4bit(*sizes, compute_dtype=weight.dtype, quant_type="nf4", device="meta")
        quantized.weight = bnb.Params4bit(weight, quant_type="nf4", module=quantized).to(device)
    else:
        quantized = bnb.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0, device="meta")
        parameter = bnb.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        quantized.weight = parameter._quantize(device)  # .to() quantizes only tensors from the CPU
    quantized.bias = layer.bias
    return quantized


def example_rows(labelled: float = LABELLED, lengths: Sequence[int] = LENGTHS) -> "list[Example]":
    """One step's examples, of so many tokens each; labelled: share of a row's tokens."""
    import random

    from playground.data.batch import Example

    draw = random.Random(0)
    return [
        Example([draw.randrange(5, 500) for _ in range(length)], round(length * (1 - labelled))) for length in lengths
    ]


def operations_per_token(model: Any, lengths: Sequence[int], rank: int) -> tuple[float, float]:
    """Floating-point operations that training needs a token at least, and those of recomputing every layer.

    Two a weight for the forward pass, two for the gradient of a layer's input, two more where the weight itself learns;
    attention over half of its own row. 29,400 and 19,800 tokens/s for the OpenCALM shape at 790 TFLOP/s.
    """
    from playground.model import adapt

    layers, head = adapt.linear_layers(model).values(), model.get_output_embeddings()
    frozen = sum(m.in_features * m.out_features for m in layers)
    learned = sum(rank * (m.in_features + m.out_features) for m in layers)
    attended = sum(n * n for n in lengths) / 2 / sum(lengths)
    attention = 4 * attended * model.config.hidden_size * model.config.num_hidden_layers
    training = 4 * (frozen + head.in_features * head.out_features) + 6 * learned + 3 * attention
    return training, 2 * (frozen + learned) + attention
