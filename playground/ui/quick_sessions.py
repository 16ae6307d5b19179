"""A session of Gradio (6.31) begins in a millisecond instead of 0.25 s, and keeps little: without a copy of the page.

For links to a page in some state (`gr.DeepLinkButton`) Gradio describes every component of the page for each session,
as its first call arrives, which takes a second of a processor for four visitors. Here a component is described as it
is asked for.
"""

from collections.abc import Iterator, MutableMapping
from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio.state_holder import SessionState

_begin = SessionState.__init__


class ComponentConfigs(MutableMapping):
    """By its number, what Gradio tells a browser of each component of a page: described as it is first asked for."""

    def __init__(self, session: SessionState, page: gr.Blocks) -> None:
        self._blocks_config, self._page = session.blocks_config, page
        self._described: dict[int, dict] = {}

    def __getitem__(self, number: int) -> dict:
        if number not in self._described:
            if number not in self._page.blocks:
                raise KeyError(number)
            component = self._blocks_config.blocks[number]
            self._described[number] = self._blocks_config.config_for_block(number, [], component)
        return self._described[number]

    def __setitem__(self, number: int, config: dict) -> None:
        self._described[number] = config

    def __delitem__(self, number: int) -> None:
        del self._described[number]

    def __contains__(self, number: object) -> bool:
        return number in self._described or number in self._page.blocks

    def __iter__(self) -> Iterator[int]:
        yield from self._page.blocks
        yield from (number for number in self._described if number not in self._page.blocks)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _begin_quickly(session: SessionState, blocks: gr.Blocks) -> None:
    no_components: Any = SimpleNamespace(default_config=blocks.default_config, blocks=())
    _begin(session, no_components)
    session.config_values = ComponentConfigs(session, blocks)  # type: ignore[assignment]


def quicken_sessions() -> None:
    """Let all sessions that begin from now on describe nothing beforehand."""
    SessionState.__init__ = _begin_quickly  # type: ignore[method-assign, assignment]
