"""A row token by token, as the model will see it: what is trained on, what is only read, what the cutoff takes away."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from playground.data.source import Row
from playground.data.template import Template, turns
from playground.errors import problem

SHOWN = 4000  # tokens at most that are told one by one
LONGEST_PIECE = 16  # tokens that are tried together until they make whole characters
SKIPPED = 4  # characters, spaces mostly, that a tokenizer may have dropped before them


@dataclass(frozen=True)
class Token:
    """kind: template, content, answer, end or special; state: trained, masked or truncated.

    text: what the tokens of a group stand for together, the group being this token alone, or `parts` neighbours that share
    characters, of which it is the `part`th. was: the same as it was written, where the tokenizer changes it.
    """

    id: int
    kind: str
    text: str
    span: tuple[int, int] = (0, 0)
    part: int = 1
    parts: int = 1
    was: str | None = None
    state: str = "masked"


def xray(row: Row, template: Template, length: int, train_on_prompt: bool = False) -> dict:
    """A row's tokens in order, those within `length` first: exactly what `encode` makes of it, and then what it cuts off.

    JSON types: {"template", "encoder", "length", "tokens": [{"id", "kind", "state", "text", "part", "parts", "was"}], "more"
    (tokens that aren't told), "total", "kept", "trained_from", "left_out" (the prompt alone fills the length), "end"
    ("there" or "cut"), "states" and "kinds" (counts), "rates" (characters a token, by part)}. Raises PlaygroundError as `encode` does.
    """
    if train_on_prompt and template.encoder:
        raise problem("error.prompt_is_read")
    [(prompt, answer)] = template.tokens([row])
    asked = template.parts(turns(row), row.system) if template.asks(row) else []
    found = [*_tokens(template, asked, prompt, template.name != "chat"), *_answered(template, row.output, answer)]
    left_out = len(prompt) >= length
    kept = 0 if left_out else min(len(found), length)
    first = max(0 if train_on_prompt else len(prompt), 1)
    found = [
        replace(token, state="truncated" if at >= kept else "trained" if at >= first else "masked")
        for at, token in enumerate(found)
    ]
    return {
        "template": template.name,
        "encoder": template.encoder,
        "length": length,
        "tokens": [_told(token) for token in found[:SHOWN]],
        "more": max(0, len(found) - SHOWN),
        "total": len(found),
        "kept": kept,
        "trained_from": 0 if train_on_prompt else len(prompt),
        "left_out": left_out,
        "end": "there" if kept == len(found) else "cut",
        "states": {state: sum(token.state == state for token in found) for state in ("trained", "masked", "truncated")},
        "kinds": {
            kind: sum(token.kind == kind for token in found)
            for kind in ("template", "content", "answer", "end", "special")
        },
        "rates": _rates(asked, row.output, found),
    }


def _told(token: Token) -> dict:
    return {
        "id": token.id,
        "kind": token.kind,
        "state": token.state,
        "text": token.text,
        "part": token.part,
        "parts": token.parts,
        "was": token.was,
    }


def _rates(asked: Sequence[tuple[str, str]], answer: str, found: Sequence[Token]) -> dict[str, float]:
    """Characters a token, of what the template brings, of what was asked and of the answer, and of all three."""
    written = {kind: sum(len(text) for part, text in asked if part == kind) for kind in ("template", "content")} | {
        "answer": len(answer)
    }
    tokens = {kind: sum(token.kind == kind for token in found) for kind in written}
    rates = {kind: written[kind] / tokens[kind] for kind in written if tokens[kind]}
    if any(tokens.values()):
        rates["all"] = sum(written[kind] for kind in rates) / sum(tokens.values())
    return {kind: round(rate, 3) for kind, rate in rates.items()}


def _answered(template: Template, text: str, ids: Sequence[int]) -> Iterator[Token]:
    """An answer's tokens and those that close it."""
    closing = len(template.closing)
    yield from _tokens(template, [("answer", text)], ids[:-closing], template.encoder)
    if template.name == "custom":
        yield from _tokens(template, [("end", template.written.closing)], ids[-closing:-1], False)
    yield Token(ids[-1], "end", template.tokenizer.convert_ids_to_tokens(ids[-1]))


def _tokens(template: Template, parts: Sequence[tuple[str, str]], ids: Sequence[int], special: bool) -> Iterator[Token]:
    """The tokens `ids` of a text in parts (kind, text), as it is encoded with or without what the tokenizer adds by itself."""
    tokenizer, text = template.tokenizer, "".join(text for _, text in parts)
    kinds = [kind for kind, text in parts for _ in text]
    named = _special(tokenizer)
    for group in _groups(ids, _spans(tokenizer, text, ids, special)):
        begin, end = group[0][1][0], max(span[1] for _, span in group)
        if end <= begin or group[0][0] in named:
            kind = "special" if group[0][0] in named or not kinds else kinds[min(begin, len(kinds) - 1)]
            yield from (Token(id, kind, tokenizer.convert_ids_to_tokens(id)) for id, _ in group)
            continue
        written, seen = text[begin:end], tokenizer.decode([id for id, _ in group], clean_up_tokenization_spaces=False)
        was = None if seen.strip() == written.strip() or "\ufffd" in seen else written
        for part, (id, span) in enumerate(group, 1):
            yield Token(
                id, kinds[min(end, len(kinds)) - 1], written if was is None else seen, span, part, len(group), was
            )


def _special(tokenizer) -> set[int]:
    """The ids that stand for no text; one for what isn't known does, unless it has another office."""
    named = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
        tokenizer.all_special_ids
    )
    return named - {tokenizer.unk_token_id} | (
        {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    )


def _spans(tokenizer, text: str, ids: Sequence[int], special: bool) -> list[tuple[int, int]]:
    """Where in the text each token's characters begin and end; (0, 0) for one that stands for none.

    Tokenizers that are written in Python can't tell: there, tokens are read back until they make characters that come next.
    """
    if tokenizer.is_fast:
        return tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ][: len(ids)]
    spans, at, named = [], 0, _special(tokenizer)
    while len(spans) < len(ids):
        begin = len(spans)
        if ids[begin] in named:
            spans.append((at, at))
            continue
        for size in range(1, min(LONGEST_PIECE, len(ids) - begin) + 1):
            said = tokenizer.decode(ids[begin : begin + size])
            place = text.find(said, at, at + len(said) + SKIPPED) if said else -1
            if place >= 0:
                break
        else:
            size, place, said = 1, at, ""
        spans += [(at, place + len(said))] * size
        at = place + len(said)
    return spans


def _groups(ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, tuple[int, int]]]]:
    """Tokens that share characters together: the bytes of one, or of several that are written as bytes."""
    group: list[tuple[int, tuple[int, int]]] = []
    for id, span in zip(ids, spans):
        if group and not (span[0] < max(end for _, (_, end) in group) and span[0] < span[1]):
            yield group
            group = []
        group.append((id, tuple(span)))
    if group:
        yield group
