"""Compare a model as it was trained with the one that was exported: their logits on the same prompts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from playground.errors import problem
from playground.memory.main_memory import unused_main_memory
from playground.model.load import load_model
from playground.model.load_progress import loading_progress
from playground.settings import Load

PROMPT_TOKENS = 256  # of a prompt, its last ones
POSITIONS = 16  # of a prompt whose logits are compared, its last ones
MEMORY_SHARE = 1.2  # of the weights' bytes that must be free to read an export back


@dataclass(frozen=True)
class Difference:
    """Absolute differences in logits over all prompts, and for how many the likeliest next token is the same."""

    prompts: int
    same_next_token: int
    largest: float
    mean: float

    def to_json(self) -> dict:
        return {key: round(value, 5) if isinstance(value, float) else value for key, value in asdict(self).items()}


@torch.no_grad()
def logits_of(model: Any, prompts: Sequence[list[int]], on_progress: Callable[..., None]) -> list[Tensor]:
    """The logits (POSITIONS or fewer, vocabulary) at the end of each prompt, float32 in main memory.

    on_progress: called with (done, total, "prompts") before each; what it raises ends it.
    """
    model.eval()
    found = []
    for number, prompt in enumerate(prompts):
        on_progress(number, len(prompts), "prompts")
        ids = torch.tensor([prompt[-PROMPT_TOKENS:]], device=model.device)
        if model.config.is_encoder_decoder:
            start = model.config.decoder_start_token_id
            logits = model(input_ids=ids, decoder_input_ids=torch.full((1, 1), start or 0, device=model.device)).logits
        else:
            logits = model(input_ids=ids, use_cache=False).logits
        found.append(logits[0, -POSITIONS:].float().cpu())
    return found


def difference(trained: Sequence[Tensor], exported: Sequence[Tensor]) -> Difference:
    """How far the logits of an exported model are from those of the trained one; over the vocabulary that both have."""
    width = min(trained[0].shape[1], exported[0].shape[1])
    gaps = torch.cat([(a[:, :width] - b[:, :width]).abs().flatten() for a, b in zip(trained, exported, strict=True)])
    same = sum(int(a[-1].argmax() == b[-1].argmax()) for a, b in zip(trained, exported))
    return Difference(len(trained), same, float(gaps.max()), float(gaps.mean()))


def read_back_bytes(parameters: int, dtype: torch.dtype, is_gguf: bool) -> int:
    """The main memory that reading an export back takes, to compute in `dtype`.

    transformers makes float32 numbers of all of a GGUF file's tensors before it fills the model with them.
    """
    dequantized = torch.float32.itemsize if is_gguf else 0
    return round(MEMORY_SHARE * parameters * (dtype.itemsize + dequantized))


def fits_main_memory(nbytes: int) -> bool:
    """Whether so many bytes are free beside what is in memory now."""
    return nbytes < unused_main_memory()


def read_back_folder(folder: Path, dtype: torch.dtype, on_progress: Callable[..., None]) -> Any:
    """The model of an exported folder, computing in `dtype` on the CPU."""
    whole = dtype == torch.float32
    name = "auto" if whole else str(dtype).removeprefix("torch.")
    load = Load(model=str(folder), bits=32 if whole else 16, device="cpu", dtype=name)
    return load_model(folder, load, on_progress).model


def read_back_gguf(file: Path, dtype: torch.dtype, on_progress: Callable[..., None]) -> Any:
    """The model of a GGUF file, as transformers reads it, on the CPU."""
    with loading_progress(on_progress):
        return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype).eval()


def check_tokenizer(file: Path, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Raise PlaygroundError, with the text, if a GGUF file's tokenizer encodes a text otherwise than the model's."""
    stored = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in _differing(tokenizer, stored, texts):
        raise problem("error.export_tokenizer_differs", text=text[:60])


def _differing(one: Any, other: Any, texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        if one(text).input_ids != other(text).input_ids:
            yield text
