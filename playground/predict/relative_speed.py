"""The time of a trained token by the type of the frozen weights, relative to 16 bits, where no GPU's speed is known."""

from playground.settings import Load

# Time of a trained token relative to 16 bits, by bit width: OpenCALM-7B on an H100 (tests/bench/README.md).
RELATIVE_TOKEN_SECONDS = {16: 1.0, 8: 1.14, 4: 1.05}
RELATIVE_FAST_SECONDS = {"fp8": 0.78, "int8-fast": 0.85, "nf4-fast": 0.9}  # multiplied in 8 bits; Llama-2-7B


def relative_token_seconds(load: Load) -> float:
    """Time of a trained token relative to 16 bits, at a width of RELATIVE_TOKEN_SECONDS."""
    kind = {8: load.quant_type_8bit, 4: load.quant_type}.get(load.bits, "")
    return RELATIVE_FAST_SECONDS.get(kind, RELATIVE_TOKEN_SECONDS[load.bits])
