"""Tokens that a model's embedding has no row for, and growing the embedding so that it has."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from playground.model.adapter_file import WEIGHTS, tensor_shapes
from playground.model.load import LoadedModel


class UnknownToken(NamedTuple):
    """A token without a row in the model's embedding, and the embedding's rows."""

    token: str
    id: int
    rows: int


def first_unknown_token(loaded: LoadedModel, ids: Iterable[int]) -> UnknownToken | None:
    """The first token without a row in the model's embedding, or None.

    Such tokens were added to a tokenizer and never to its model.
    """
    rows = embedding_rows(loaded.model)
    id = next((id for id in ids if id >= rows), None)
    return None if id is None else UnknownToken(str(loaded.tokenizer.convert_ids_to_tokens(id)), id, rows)


def embedding_rows(model: PreTrainedModel) -> int:
    """How many tokens a model's embedding has a row for."""
    embedding: Any = model.get_input_embeddings()  # with an adapter, no nn.Embedding
    return embedding.weight.shape[0]


def embedding_name(model: PreTrainedModel) -> str:
    """The full name of a model's token embedding among its modules."""
    embedding = model.get_input_embeddings()
    return next(name for name, module in model.named_modules() if module is embedding)


def resize_embedding(model: PreTrainedModel, rows: int) -> None:
    """Give the embedding, and the head, so many rows; new ones are drawn around the mean of the others, the last go.

    Hewitt 2021, "Initializing new word embeddings for pretrained language models".
    """
    model.resize_token_embeddings(rows)
    model.requires_grad_(False)


def rows_in_adapter(model: PreTrainedModel, adapter: Path) -> int:
    """The rows of the token embedding that is saved in an adapter's folder; 0 where it has none."""
    return rows_among(tensor_shapes(adapter), model) if any((adapter / name).is_file() for name in WEIGHTS) else 0


def rows_among(shapes: Mapping[str, tuple[int, ...]], model: PreTrainedModel) -> int:
    """The rows of a model's token embedding among an adapter's tensors by name; 0 where it isn't there."""
    name = embedding_name(model)
    ends = (f"{name}.weight", f"{name}.base_layer.weight")
    return next((shape[0] for tensor, shape in shapes.items() if tensor.endswith(ends)), 0)
