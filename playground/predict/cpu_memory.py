"""Predict main memory outside tensors: the program, its kernels, the tokenizer."""

from playground.memory import constants
from playground.predict.traced_model import Target, TracedModel


def memory_outside_tensors(traced: TracedModel, target: Target, phase: str) -> int:
    """Bytes of main memory that no tensor accounts for.

    Pages of the weights' files are none of it: those that hold weights are these tensors, and the others are given back
    while the files are read (memory/file_pages.py).

    phase: "load", "loaded" (once loading is over), "chat" or "tune".
    """
    vocabulary: int = traced.loaded.model.config.get_text_config().vocab_size
    kernels = constants.CPU_KERNELS[target.dtype] if phase in ("chat", "tune") else 0
    tokenizer = constants.TOKENIZER_BYTES_PER_TOKEN * vocabulary
    return constants.PROGRAM_RSS + tokenizer + kernels
