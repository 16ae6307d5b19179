"""Layers that stay at 16 bits in a quantizing load, because their family's own code reads their weights as numbers.

Quantized, a weight is packed bytes: read as numbers, it makes the code raise (Mamba) or compute nonsense (LongT5).
"""

from transformers import PreTrainedConfig

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
