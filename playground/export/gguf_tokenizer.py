"""A tokenizer as GGUF metadata: tokens, their types, merges or scores, special tokens, chat template.

llama.cpp has two kinds that fit tokenizers of today's models: byte-level BPE ("gpt2"), which also needs to know how
text is split into words ("pre"), and BPE over pieces of text with bytes to fall back on ("llama"), as sentencepiece
makes it, where a token's score is its merge's place.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from playground.errors import problem

WORD_START = "▁"
# How text is split before merging, by llama.cpp's name for it: the expression in a tokenizer's file.
SPLITS = {
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "tekken": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


@dataclass(frozen=True)
class GgufVocabulary:
    """What `write_tokenizer` writes: a token, type and score an id. kind: "gpt2" or "llama"; pre: how text is split."""

    kind: str
    pre: str
    tokens: list[str]
    types: list[TokenType]
    scores: list[float]
    merges: list[str]


def vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int) -> GgufVocabulary:
    """The vocabulary of a tokenizer, filled up to the rows of the model's embedding.

    Raises PlaygroundError for a tokenizer of another kind.
    """
    if not tokenizer.is_fast:
        raise problem("error.export_tokenizer", kind=type(tokenizer).__name__)
    backend: Any = tokenizer
    data = json.loads(backend.backend_tokenizer.to_str())
    kind = _kind(data)
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in data["model"]["merges"]]
    added = {entry["id"]: entry for entry in data["added_tokens"]}
    known = data["model"]["vocab"] | {entry["content"]: id for id, entry in added.items()}
    by_id = {id: token for token, id in known.items()}
    tokens = [by_id.get(id, f"[PAD{id}]") for id in range(rows)]
    types = [_type(kind, token, added.get(id), id in by_id, tokenizer) for id, token in enumerate(tokens)]
    if kind == "llama":
        tokens = [t.replace(WORD_START, " ") if types[n] == TokenType.USER_DEFINED else t for n, t in enumerate(tokens)]
    pre = _pre(data) if kind == "gpt2" else "default"
    merges = [" ".join(part.replace(" ", chr(ord(" ") + 256)) for part in pair) for pair in pairs]
    return GgufVocabulary(kind, pre, tokens, types, _scores(tokens, pairs), merges if kind == "gpt2" else [])


def write_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Add a tokenizer to a file's metadata. Raises PlaygroundError as `vocabulary` does."""
    words = vocabulary(tokenizer, rows)
    writer.add_tokenizer_model(words.kind)
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    if words.kind == "gpt2":
        writer.add_token_merges(words.merges)
    else:
        writer.add_token_scores(words.scores)
    ids = tokenizer("a").input_ids
    plain: Sequence[int] = tokenizer("a", add_special_tokens=False).input_ids
    writer.add_add_bos_token(len(ids) > len(plain) and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(ids) > len(plain) and ids[-1] == tokenizer.eos_token_id)
    if words.kind == "llama":
        writer.add_add_space_prefix(str(tokenizer.convert_ids_to_tokens(plain[0])).startswith(WORD_START))
    for add, id in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if id is not None and id < rows:
            add(id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _kind(data: dict) -> str:
    """llama.cpp's name for a tokenizer's kind, from its file."""
    model, parts = data["model"], json.dumps([data.get("pre_tokenizer"), data.get("decoder")])
    if model["type"] == "BPE" and '"ByteLevel"' in parts:
        return "gpt2"
    if model["type"] == "BPE" and model.get("byte_fallback"):
        return "llama"
    raise problem("error.export_tokenizer", kind=model["type"])


def _pre(data: dict) -> str:
    """llama.cpp's name for how text is split into words. Raises PlaygroundError for another way."""
    parts = data["pre_tokenizer"].get("pretokenizers", [data["pre_tokenizer"]])
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        expression = parts[0]["pattern"].get("Regex")
        for name, known in SPLITS.items():
            if expression == known:
                return name
    raise problem("error.export_tokenizer", kind=" + ".join(kinds))


def _type(kind: str, token: str, added: dict | None, known: bool, tokenizer: PreTrainedTokenizerBase) -> TokenType:
    if not known:
        return TokenType.UNUSED
    if kind == "llama" and token == tokenizer.unk_token:
        return TokenType.UNKNOWN
    if added is not None:
        return TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if kind == "llama" and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return TokenType.BYTE
    return TokenType.NORMAL


def _scores(tokens: list[str], pairs: list[list[str]]) -> list[float]:
    """A score for each token: the earlier its merge, the higher; llama.cpp merges what has the highest score first."""
    places: dict[str, int] = {}
    for place, pair in enumerate(pairs):
        places.setdefault("".join(pair), place)
    return [-float(places[token]) if token in places else -float(len(pairs)) for token in tokens]
