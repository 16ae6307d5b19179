"""Layers that stay at 16 bits in a quantizing load, because their family's own code reads their weights as numbers.

Quantized, a weight is packed bytes: read as numbers, it makes the code raise (Mamba) or compute nonsense (LongT5).
"""

from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from playground.model.float8_linear import Float8Linear

# By model type, the last parts of the layers' names.
READ_AS_NUMBERS: dict[str, tuple[str, ...]] = {
    "deepseek_v32": ("weights_proj",),
    "dots3_note_text": ("weights_proj",),
    "falcon_mamba": ("x_proj", "dt_proj", "out_proj"),
    "gemma3n_text": ("prediction_coefs", "correction_coefs"),
    "glm_moe_dsa": ("weights_proj",),
    "hunyuan_v1_moe": ("wg",),
    "hy_v4": ("weights_proj",),
    "jamba": ("dt_proj",),
    "longcat_flash": ("classifier",),
    "longt5": ("wo",),
    "mamba": ("x_proj", "dt_proj", "out_proj"),
    "switch_transformers": ("wo",),
}


def layers_left_unquantized(config: PreTrainedConfig) -> tuple[str, ...]:
    """The last parts of the names of layers that this model's code reads as numbers."""
    return READ_AS_NUMBERS.get(config.get_text_config().model_type, ())


def unquantized_share(model: PreTrainedModel) -> float:
    """Return the share, 0 to 1, of the weights between embedding and head that a quantizing load left unquantized.

    bitsandbytes quantizes only linear layers: experts stored together are one parameter and stay. T5's `wo` stays
    because it needs the range of a wider dtype.
    """
    quantized = [m for m in model.modules() if isinstance(m, (Linear4bit, Linear8bitLt, Float8Linear))]
    embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    excluded_modules = [*quantized, *embeddings, model.get_output_embeddings()]
    excluded = {id(p) for module in excluded_modules if module is not None for p in module.parameters()}
    unquantized = sum(p.numel() for p in model.parameters() if p.ndim > 1 and id(p) not in excluded)
    return unquantized / max(1, unquantized + sum(m.in_features * m.out_features for m in quantized))
