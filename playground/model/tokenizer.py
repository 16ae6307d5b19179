"""A model's tokenizer and its troubles: read, completed where its makers left something out, and tried on real text."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from playground.errors import problem

TRIED = 200  # texts
AROUND = 4  # characters shown on either side of what came back changed
BLOCK = 8192  # rows of an embedding at once
ALIKE = 0.98  # cosine beyond which a row can't be told from another
SEVERAL = 3


def load_tokenizer(folder: Path, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, with tokens for padding and the end as far as the model's own files name any.

    Raises PlaygroundError where there is none, or its files can't be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # tokenizers, sentencepiece and tiktoken each raise their own kinds
        found = sorted(
            p.name
            for p in Path(folder).iterdir()
            if "token" in p.name or p.suffix in (".model", ".tiktoken") or p.name in ("vocab.json", "merges.txt")
        )
        raise problem(
            "error.tokenizer", path=Path(folder).name, found=found or ["–"], detail=str(error).split("\n")[0][:160]
        ) from error
    tokenizer.clean_up_tokenization_spaces = False  # it takes spaces away that the model wrote
    _lighten(tokenizer)
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.eos_token_id is None:
        ends = model_eos_ids(model)
        if ends:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:  # added to a tokenizer, never to its model
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    beyond = [
        name
        for name, token in (("bos", tokenizer.bos_token_id), ("eos", tokenizer.eos_token_id))
        if token is not None and token >= rows
    ]
    if beyond:
        raise problem("error.tokenizer_rows", path=Path(folder).name, tokens=len(tokenizer), rows=rows)
    return tokenizer


def _lighten(tokenizer: PreTrainedTokenizerBase) -> None:
    """Drop the vocabulary and merges that transformers' own classes keep as Python's objects, beside those that the tokenizers library works with.

    They are read when a tokenizer is made and never again; Gemma 3's are 147 of 258 MiB.
    """
    for name in ("_vocab", "_merges"):
        if tokenizer.is_fast and isinstance(getattr(tokenizer, name, None), (dict, list)):
            setattr(tokenizer, name, None)


def model_eos_ids(model: PreTrainedModel) -> list[int]:
    """The tokens that end an answer by the model's own files."""
    for config in (getattr(model, "generation_config", None), model.config):
        ends = getattr(config, "eos_token_id", None)
        if ends is not None:
            return list(ends) if isinstance(ends, (list, tuple)) else [ends]
    return []


@torch.no_grad()
def is_trained_token(model: PreTrainedModel, token: int) -> bool:
    """Whether a model was ever taught this token. Not: its own files don't end an answer with it, and its row of the head
    points where those of several others do, as rows do that no text has moved apart (Land and Bartolo 2024, arXiv 2405.05417).
    """
    head = model.get_output_embeddings()
    if token in model_eos_ids(model) or head is None or isinstance(head.weight, DTensor) or head.weight.is_meta:
        return True
    weight = head.weight
    middle = weight.mean(0, dtype=torch.float32)
    row = torch.nn.functional.normalize(weight[token].float() - middle, dim=0)
    alike = sum(
        int((torch.nn.functional.normalize(block.float() - middle) @ row > ALIKE).sum())
        for block in weight.split(BLOCK)
    )
    return alike - 1 < SEVERAL


def round_trip_notes(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[dict]:
    """What becomes of texts in this tokenizer, as `note` events: none where all of them come back as they were.

    Some tokenizers know no Japanese at all; some write full-width characters as narrow ones, or drop spaces.
    """
    texts = [text for text, _ in zip(filter(None, texts), range(TRIED))]
    changed, unknown, total, example = 0, 0, 0, None
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        total += len(ids)
        unknown += ids.count(tokenizer.unk_token_id) if tokenizer.unk_token_id is not None else 0
        back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if back.strip() != text.strip():
            changed += 1
            example = example or _difference(text.strip(), back.strip())
    notes = []
    if unknown:
        percent = max(1, round(100 * unknown / total))
        notes.append(
            {
                "kind": "note",
                "key": "note.tokenizer_unknown",
                "values": {
                    "percent": percent,
                    "before": example[0] if example else "",
                    "after": example[1] if example else "",
                },
            }
        )
    elif changed:
        notes.append(
            {
                "kind": "note",
                "key": "note.tokenizer_changes",
                "values": {"changed": changed, "rows": len(texts), "before": example[0], "after": example[1]},
            }
        )
    return notes


def _difference(text: str, back: str) -> tuple[str, str]:
    """The first place where two texts part, with what is around it."""
    at = next((n for n, (one, other) in enumerate(zip(text, back)) if one != other), min(len(text), len(back)))
    return text[max(0, at - AROUND) : at + AROUND + 1], back[max(0, at - AROUND) : at + AROUND + 1]
