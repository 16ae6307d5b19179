"""Tokenizers: load, fill in missing special tokens, and check them on real text."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from playground import compat
from playground.errors import problem
from playground.model.tokenizer_growth import check_growth

MAX_TEXTS = 200  # checked by a round trip
PROCESSOR_TEMPLATE = "chat_template.json"  # where older models that also see images have their chat template
CONTEXT = 4  # characters shown on either side of a difference
BLOCK_ROWS = 8192  # of an output head compared at once
SAME_DIRECTION = 0.98  # cosine similarity above which two rows of the head count as alike
MIN_ALIKE = 3  # other rows alike for a token to count as untrained


def load_tokenizer(folder: Path, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a folder and fit it to the model. Raises PlaygroundError as the two functions below do."""
    return fit_tokenizer(read_tokenizer(Path(folder), model.config), model, Path(folder).name)


def read_tokenizer(folder: Path, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, as its files have it. config: of its model, so that its file isn't read again.

    Raises PlaygroundError if there is none or its files can't be read.
    """
    check_growth(folder)
    try:
        with compat.quick_tokenizer_files():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, config=config, trust_remote_code=False, local_files_only=True
            )
        compat.drop_word_cache(tokenizer)
        compat.drop_python_vocabulary(tokenizer)
        if not tokenizer.chat_template and (folder / PROCESSOR_TEMPLATE).is_file():
            tokenizer.chat_template = json.loads((folder / PROCESSOR_TEMPLATE).read_text("utf-8"))["chat_template"]
        return tokenizer
    except Exception as error:  # tokenizers, sentencepiece and tiktoken each raise their own kinds
        files = sorted(
            file.name
            for file in folder.iterdir()
            if "token" in file.name
            or file.suffix in (".model", ".tiktoken")
            or file.name in ("vocab.json", "merges.txt")
        )
        raise problem(
            "error.tokenizer", path=folder.name, found=files or ["–"], detail=str(error).split("\n")[0][:160]
        ) from error


def fit_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> PreTrainedTokenizerBase:
    """Give a tokenizer padding and end tokens as far as the model's own files name any; return it.

    name: of the folder, for errors. Raises PlaygroundError if its special tokens lie outside the model's embedding.
    """
    tokenizer.clean_up_tokenization_spaces = False  # it would remove spaces that the model wrote
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.eos_token_id is None:
        end_ids = model_eos_ids(model)
        if end_ids:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end_ids[0])
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:  # added to a tokenizer, never to its model
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    if any(token is not None and token >= rows for token in (tokenizer.bos_token_id, tokenizer.eos_token_id)):
        raise problem("error.tokenizer_rows", path=name, tokens=len(tokenizer), rows=rows)
    return tokenizer


def model_eos_ids(model: torch.nn.Module) -> list[int]:
    """Return the tokens that end an answer by the model's own files: its generation config, else its config."""
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            return list(ids) if isinstance(ids, (list, tuple)) else [ids]
    return []


@torch.no_grad()
def is_trained_token(model: PreTrainedModel, token: int) -> bool:
    """Whether a model was trained to write this token.

    A token counts as untrained if the model's files don't end an answer with it, and its row of the output head points
    in the same direction as those of several others: rows do that if no text has moved them apart (Land and Bartolo
    2024, arXiv 2405.05417).
    """
    head = model.get_output_embeddings()
    if token in model_eos_ids(model) or head is None or isinstance(head.weight, DTensor) or head.weight.is_meta:
        return True
    weight = head.weight
    assert isinstance(weight, torch.Tensor)
    mean = weight.mean(0, dtype=torch.float32)
    row = torch.nn.functional.normalize(weight[token].float() - mean, dim=0)
    alike = sum(
        int((torch.nn.functional.normalize(block.float() - mean) @ row > SAME_DIRECTION).sum())
        for block in weight.split(BLOCK_ROWS)
    )
    return alike - 1 < MIN_ALIKE  # the row itself is one of them


def round_trip_notes(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[dict]:
    """Encode and decode texts; return a `note` event if some come back changed or with unknown tokens, else nothing.

    Some tokenizers don't know any Japanese; some write full-width characters as half-width ones, or drop spaces.
    """
    texts = list(islice(filter(None, texts), MAX_TEXTS))
    changed, unknown, total, example = 0, 0, 0, ("", "")
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        total += len(ids)
        unknown += ids.count(tokenizer.unk_token_id) if tokenizer.unk_token_id is not None else 0
        decoded = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        if decoded.strip() != text.strip():
            changed += 1
            if changed == 1:
                example = _first_difference(text.strip(), decoded.strip())
    before, after = example
    if unknown:
        percent = max(1, round(100 * unknown / total))
        values = {"percent": percent, "before": before, "after": after}
        return [{"kind": "note", "key": "note.tokenizer_unknown", "values": values}]
    if changed:
        values = {"changed": changed, "rows": len(texts), "before": before, "after": after}
        return [{"kind": "note", "key": "note.tokenizer_changes", "values": values}]
    return []


def _first_difference(before: str, after: str) -> tuple[str, str]:
    """The first position where two texts differ, in each of them, with some characters around it."""
    shorter = min(len(before), len(after))
    at = next((n for n, (one, other) in enumerate(zip(before, after)) if one != other), shorter)
    around = slice(max(0, at - CONTEXT), at + CONTEXT + 1)
    return before[around], after[around]
