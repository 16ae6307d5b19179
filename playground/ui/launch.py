"""How the page is served: styles, limits, and what every request passes."""

import os
from collections.abc import Sequence
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from playground import ASSETS
from playground.data.source import MAX_FILE_BYTES
from playground.ui import api, kept_state
from playground.ui.host_check import HostCheck
from playground.ui.live_view import HEAD
from playground.ui.login_first import LoginFirst
from playground.ui.open_streams import OpenStreams
from playground.ui.opening import OpeningPicture
from playground.ui.quick_polls import QuickPolls
from playground.ui.quick_scripts import QuickScripts
from playground.ui.request_guard import RequestGuard
from playground.ui.shared_page import SharedPage
from playground.ui.theme import theme
from playground.ui.unfinished_uploads import UnfinishedUploads

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
# Each handler under way has one: with Gradio's 40, forty who follow an answer would keep everybody else waiting. They
# are started as they are needed; one that waits costs 0.02 MB (160 in a bare process, Linux).
MAX_THREADS = 200
MAX_SESSIONS = 256  # whose state Gradio keeps, 1.1 MiB each; the one that was used least recently goes first
# Gradio's row of links to all pages; hidden before the stylesheets are here, or everything would move up then.
NO_NAVIGATION = "<style>.nav-holder { display: none !important; }</style>"


def has_public_link(flag: bool) -> bool:
    """Whether the page gets a public link: by the flag --share, or by Gradio's variable GRADIO_SHARE.

    Gradio gets a bool: with None it would open a link by itself on Colab or Kaggle, to a page that was built for its
    owner alone.
    """
    return flag or os.environ.get("GRADIO_SHARE", "").strip().lower() == "true"


def launch_options(
    lang: str, shared: SharedPage | None, names: Sequence[str] = (), has_login: bool = False
) -> dict[str, Any]:
    """Arguments of `Blocks.launch`, except the address. lang: of the first page, as for `build_app`.

    shared: as of the app that `build_app` returned; None for a private page. names: under which that is opened, besides
    this machine's. has_login: whether the page asks for a name and a password. Gradio's MCP server doesn't: it lists
    its tools to anyone, and has no way to log in for their calls.
    """
    return {
        "theme": theme(),
        "css_paths": [ASSETS / name for name in STYLES],
        "head": NO_NAVIGATION + HEAD + kept_state.HEAD,
        "max_file_size": MAX_FILE_BYTES,
        "run_history": False,
        "max_threads": MAX_THREADS,
        "mcp_server": shared is None and not has_login and api.has_mcp(),
        "state_session_capacity": MAX_SESSIONS,
        "app_kwargs": {"middleware": _middleware(lang, shared, names, has_login)},
        "footer_links": ["gradio", "settings"],
    }


def _middleware(lang: str, shared: SharedPage | None, names: Sequence[str], has_login: bool) -> list[Middleware]:
    """What requests pass, outermost first: from what page, who asks, whether they have logged in, whether the request
    is well-formed, uploads that don't end, the opening picture, the quickened scripts, the streams of answers, polls.

    What others load over a network is compressed: the page is 1 MB and Gradio's scripts are several, which shrink to a
    fifth.
    """
    compressed = [Middleware(GZipMiddleware, minimum_size=2000, compresslevel=5)] if shared else []
    visitor = [shared.middleware()] if shared else []
    host = Middleware(HostCheck, names=None if shared else names)
    guard = Middleware(RequestGuard, lang=lang, most_upload=MAX_FILE_BYTES)
    served = [
        Middleware(UnfinishedUploads),
        Middleware(OpeningPicture, first=lang),
        Middleware(QuickScripts),
        Middleware(OpenStreams),
        *([] if shared or has_login else [Middleware(QuickPolls)]),
    ]
    login = [Middleware(LoginFirst, lang=lang)] if has_login else []
    return [*compressed, host, *visitor, *login, guard, *served]
