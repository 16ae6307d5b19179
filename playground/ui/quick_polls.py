"""Answers polls for a run's news before Gradio, which hands each to two threads, which take time from training.

For a private page without a login: on the others Gradio has to find out who asks.
"""

import json

from gradio.routes import ORJSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from playground.ui.request_guard import replayed, route_of

QUICK = "answer_quickly"  # attribute of a server function: the same function, or None for what takes longer


class QuickPolls:
    """Middleware, inside the guard (request_guard.py): calls of server functions that have a quick form.

    The quick form is called in the event loop, so it must not wait for anything long.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or route_of(scope) != "component_server":
            await self._app(scope, receive, send)
            return
        body = (await receive())["body"]  # whole: the guard has read it
        call = json.loads(body)
        component = scope["app"].get_blocks().blocks[call["component_id"]]
        quick = getattr(getattr(component, call["fn_name"]), QUICK, None)
        reply = quick(call["data"]) if quick else None
        if reply is None:
            await self._app(scope, replayed(body, receive), send)
            return
        await ORJSONResponse(reply)(scope, receive, send)
