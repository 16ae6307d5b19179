"""transformers' private and fragile APIs for GGUF files: where their tensors go, how rotary positions are scaled."""

import contextlib
from collections.abc import Iterator
from typing import Any

from playground.compat.of_transformers import _build_lock


@contextlib.contextmanager
def gguf_tensors_left_out() -> Iterator[list[str]]:
    """Within it, a list of the tensors that transformers reads from a GGUF file and has no place for.

    It passes over them without a word: they are no "unexpected keys" of its loading report.
    """
    from transformers import modeling_gguf_pytorch_utils

    library: Any = modeling_gguf_pytorch_utils
    left_out: list[str] = []

    class Places(dict):
        def __contains__(self, name: object) -> bool:
            found = super().__contains__(name)
            if not found and isinstance(name, str):
                left_out.append(name)
            return found

    with _build_lock:
        own = library.get_gguf_hf_weights_map
        library.get_gguf_hf_weights_map = lambda *arguments, **options: Places(own(*arguments, **options))
        try:
            yield left_out
        finally:
            library.get_gguf_hf_weights_map = own


def rope_frequencies(config: Any, layers: str = "") -> tuple[Any, float]:
    """(inverse frequencies, scale of the rotation) that transformers computes from a config with scaled positions.

    layers: the kind of layers, where their settings differ.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = config.rope_parameters[layers] if layers else config.rope_parameters
    options = {"layer_type": layers} if layers else {}
    frequencies, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, device="cpu", **options)
    return frequencies, scale


def rope_of_model(model: Any, layers: str = "") -> list[tuple[Any, float]]:
    """What `rope_frequencies` returns, of each rotary embedding in a network."""
    prefix = f"{layers}_" if layers else ""
    found = [(module, getattr(module, f"{prefix}inv_freq", None)) for module in model.modules()]
    return [(value, getattr(module, f"{prefix}attention_scaling", 1.0)) for module, value in found if value is not None]
