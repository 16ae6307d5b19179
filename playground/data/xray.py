"""Show a row token by token: which tokens are trained on, which are masked, and which the cutoff truncates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from playground.data.conversation import turns
from playground.data.row import Row
from playground.data.template import Template
from playground.errors import problem

SHOWN = 4000  # tokens at most that are listed one by one
MAX_GROUP = 16  # tokens that are decoded together until they make whole characters
MAX_SKIPPED = 4  # characters, mostly spaces, that a tokenizer may have dropped before a token

Span = tuple[int, int]  # begin and end of a token's characters in the text
Part = tuple[str, str]  # kind and text


@dataclass(frozen=True)
class Token:
    """kind: template, content, answer, end or special; state: trained, masked or truncated.

    text: the characters of the token's group, which is the token alone, or `parts` neighbours that share characters, of
    which it is the `part`th. was: the text as it was written, where the tokenizer changes it.
    """

    id: int
    kind: str
    text: str
    span: Span = (0, 0)
    part: int = 1
    parts: int = 1
    was: str | None = None
    state: str = "masked"

    def to_dict(self) -> dict:
        """JSON types, for the page."""
        names = ("id", "kind", "state", "text", "part", "parts", "was")
        return {name: getattr(self, name) for name in names}


def xray(row: Row, template: Template, length: int, train_on_prompt: bool = False) -> dict:
    """A row's tokens in order: those that `encode` makes of it within `length`, then the truncated ones.

    JSON types: {"template", "encoder", "length", "tokens": [{"id", "kind", "state", "text", "part", "parts", "was"}],
    "more" (number of tokens that aren't listed), "total", "kept", "trained_from", "left_out" (whether the prompt alone
    fills the length), "end" ("there" or "cut"), "states" and "kinds" (counts), "rates" (characters a token, by part)}.
    Raises PlaygroundError as `encode` does.
    """
    if train_on_prompt and template.encoder:
        raise problem("error.prompt_is_read")
    [(prompt_ids, answer_ids)] = template.tokens([row])
    prompt_parts = template.parts(turns(row), row.system) if template.has_prompt(row) else []
    tokens = [
        *_tokens(template, prompt_parts, prompt_ids, template.name != "chat"),
        *_answer_tokens(template, row.output, answer_ids),
    ]
    left_out = len(prompt_ids) >= length
    kept = 0 if left_out else min(len(tokens), length)
    trained_from = 0 if train_on_prompt else len(prompt_ids)
    first_label = max(trained_from, 1)
    tokens = [
        replace(token, state="truncated" if i >= kept else "trained" if i >= first_label else "masked")
        for i, token in enumerate(tokens)
    ]
    return {
        "template": template.name,
        "encoder": template.encoder,
        "length": length,
        "tokens": [token.to_dict() for token in tokens[:SHOWN]],
        "more": max(0, len(tokens) - SHOWN),
        "total": len(tokens),
        "kept": kept,
        "trained_from": trained_from,
        "left_out": left_out,
        "end": "there" if kept == len(tokens) else "cut",
        "states": _counts([token.state for token in tokens], ("trained", "masked", "truncated")),
        "kinds": _counts([token.kind for token in tokens], ("template", "content", "answer", "end", "special")),
        "rates": _rates(prompt_parts, row.output, tokens),
    }


def _counts(values: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    return {name: values.count(name) for name in names}


def _rates(prompt_parts: Sequence[Part], answer: str, tokens: Sequence[Token]) -> dict[str, float]:
    """Characters a token: of the template's text, the row's content and the answer."""
    chars = {kind: sum(len(text) for part, text in prompt_parts if part == kind) for kind in ("template", "content")}
    chars["answer"] = len(answer)
    counts = {kind: sum(token.kind == kind for token in tokens) for kind in chars}
    rates = {kind: chars[kind] / counts[kind] for kind in chars if counts[kind]}
    return {kind: round(rate, 3) for kind, rate in rates.items()}


def _answer_tokens(template: Template, text: str, ids: Sequence[int]) -> Iterator[Token]:
    """An answer's tokens, and those that close it."""
    closing = len(template.closing_ids)
    yield from _tokens(template, [("answer", text)], ids[:-closing], template.encoder)
    if template.name == "custom":
        yield from _tokens(template, [("end", template.parsed_format.closing)], ids[-closing:-1], False)
    yield Token(ids[-1], "end", _name(template.tokenizer, ids[-1]))


def _tokens(template: Template, parts: Sequence[Part], ids: Sequence[int], special: bool) -> Iterator[Token]:
    """The tokens `ids` of a text given in parts; special: whether it was encoded with special tokens added."""
    tokenizer, text = template.tokenizer, "".join(text for _, text in parts)
    kind_of_char = [kind for kind, text in parts for _ in text]
    special_ids = _special_ids(tokenizer)
    for group in _groups(ids, _spans(tokenizer, text, ids, special)):
        begin, end = group[0][1][0], max(span[1] for _, span in group)
        is_special = group[0][0] in special_ids
        if end <= begin or is_special:
            kind = "special" if is_special or not kind_of_char else kind_of_char[min(begin, len(kind_of_char) - 1)]
            yield from (Token(id, kind, _name(tokenizer, id)) for id, _ in group)
            continue
        written = text[begin:end]
        decoded = str(tokenizer.decode([id for id, _ in group], clean_up_tokenization_spaces=False))
        is_unchanged = decoded.strip() == written.strip() or "\ufffd" in decoded
        shown, was = (written, None) if is_unchanged else (decoded, written)
        for part, (id, span) in enumerate(group, 1):
            kind = kind_of_char[min(end, len(kind_of_char)) - 1]
            yield Token(id, kind, shown, span, part, len(group), was)


def _name(tokenizer: PreTrainedTokenizerBase, id: int) -> str:
    """The vocabulary's name of a token."""
    return str(tokenizer.convert_ids_to_tokens(id))


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of tokens that represent no text. The unknown token does represent some, unless it also has another role."""
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    with_role = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    return (special - {tokenizer.unk_token_id}) | with_role


def _spans(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int], special: bool) -> list[Span]:
    """Where in the text each token's characters begin and end; an empty span for a token without characters.

    Tokenizers written in Python have no offsets: for them tokens are decoded until they make characters that come next.
    """
    if tokenizer.is_fast:
        encoding = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        return encoding["offset_mapping"][: len(ids)]
    spans: list[Span] = []
    position, special_ids = 0, _special_ids(tokenizer)
    while len(spans) < len(ids):
        begin = len(spans)
        if ids[begin] in special_ids:
            spans.append((position, position))
            continue
        for size in range(1, min(MAX_GROUP, len(ids) - begin) + 1):
            decoded = str(tokenizer.decode(list(ids[begin : begin + size])))
            start = text.find(decoded, position, position + len(decoded) + MAX_SKIPPED) if decoded else -1
            if start >= 0:
                break
        else:
            size, start, decoded = 1, position, ""
        spans += [(position, start + len(decoded))] * size
        position = start + len(decoded)
    return spans


def _groups(ids: Sequence[int], spans: Sequence[Span]) -> Iterator[list[tuple[int, Span]]]:
    """Group neighbouring tokens that share characters: the bytes of one, or of several that are written as bytes."""
    group: list[tuple[int, Span]] = []
    for id, (begin, end) in zip(ids, spans):
        overlaps = begin < end and any(begin < other_end for _, (_, other_end) in group)
        if group and not overlaps:
            yield group
            group = []
        group.append((id, (begin, end)))
    if group:
        yield group
