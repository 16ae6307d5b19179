"""Render a model's answer, which is Markdown, as HTML that can do no harm.

Tags in an answer are shown as text. Images are not loaded: their address could carry the conversation to a stranger.
LaTeX is left as it is written.
"""

from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from playground.ui.learned_words import split_at_units


def answer_html(text: str, units: frozenset[str] = frozenset()) -> str:
    """The HTML of an answer; what consists of `units` (learned_words.py) is marked, outside of code."""
    return _parser().render(text, {"units": units})


@cache
def _parser() -> MarkdownIt:
    """CommonMark with tables and line breaks, without HTML and images; it lets no `javascript:` link through."""
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table").disable("image")
    parser.core.ruler.push("headings", _headings_as_paragraphs)
    parser.core.ruler.push("learned", _mark_units)
    parser.add_render_rule("link_open", _external_link)
    return parser


def _headings_as_paragraphs(state: StateCore) -> None:
    """An answer's headings are none of the page's outline."""
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "p"
        if token.type == "heading_open":
            token.attrSet("class", "heading")


def _mark_units(state: StateCore) -> None:
    units = state.env.get("units")
    for token in state.tokens:
        if units and token.type == "inline":
            token.children = [piece for child in token.children or [] for piece in _marked(child, units)]


def _marked(token: Token, units: frozenset[str]) -> list[Token]:
    if token.type != "text":
        return [token]
    tokens = []
    for piece, is_learned in split_at_units(token.content, units):
        text = Token("text", "", 0, content=piece)
        tokens += [Token("mark_open", "mark", 1), text, Token("mark_close", "mark", -1)] if is_learned else [text]
    return tokens


def _external_link(renderer: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    tokens[index].attrSet("target", "_blank")
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    return str(renderer.renderToken(tokens, index, options, env))
