"""How the page is served: styles, limits, and what every request passes."""

from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from playground import ASSETS
from playground.data.source import MAX_FILE_BYTES
from playground.ui import api, kept_state
from playground.ui.live_view import HEAD
from playground.ui.opening import OpeningPicture
from playground.ui.request_guard import RequestGuard
from playground.ui.theme import theme

STYLES = (
    "style.css",
    "figures.css",
    "plan_tab.css",
    "tokens.css",
    "data.css",
    "compare.css",
    "lab.css",
    "talk.css",
    "overlay.css",
)
MAX_SESSIONS = 256  # whose state Gradio keeps, 1.1 MiB each; the one that was used least recently goes first
# Gradio's row of links to all pages; hidden before the stylesheets are here, or everything would move up then.
NO_NAVIGATION = "<style>.nav-holder { display: none !important; }</style>"


def launch_options(lang: str = "en", private: bool = False) -> dict[str, Any]:
    """Arguments of `Blocks.launch`, except the address. lang: of the first page, and private, as for `build_app`."""
    return {
        "theme": theme(),
        "css_paths": [ASSETS / name for name in STYLES],
        "head": NO_NAVIGATION + HEAD + kept_state.HEAD,
        "max_file_size": MAX_FILE_BYTES,
        "run_history": False,
        "mcp_server": private and api.has_mcp(),
        "state_session_capacity": MAX_SESSIONS,
        "app_kwargs": {"middleware": _middleware(lang, private)},
        "footer_links": ["gradio", "settings"],
    }


def _middleware(lang: str, private: bool) -> list[Middleware]:
    """What requests pass, outermost first.

    What others load over a network is compressed: the page's document shrinks from 1,057,674 bytes to 161,848.
    """
    compressed = [] if private else [Middleware(GZipMiddleware, minimum_size=2000, compresslevel=5)]
    guard = Middleware(RequestGuard, lang=lang, most_upload=MAX_FILE_BYTES)
    return [*compressed, guard, Middleware(OpeningPicture, first=lang)]
