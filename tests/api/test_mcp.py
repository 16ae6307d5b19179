"""An MCP client lists the page's tools and calls them; a page with a login answers no program without one."""

import asyncio
import json

import httpx
import pytest
from served_app import ServedApp

from playground.i18n import translate

TOOLS = {"plan", "tune", "compare", "runs", "run", "follow", "stop"}


@pytest.fixture
def served(tmp_path):
    """`served(*flags)`: the address of a page that was opened with these flags."""
    opened = []

    def open_page(*flags):
        folder = tmp_path / str(len(opened))
        folder.mkdir()
        opened.append(ServedApp(folder, flags=flags))
        opened[-1].wait_until_served()
        return opened[-1].url

    yield open_page
    for app in opened:
        app.close()


async def _talk(streams, calls):
    """The names of the tools, and for each (tool, arguments) whether it failed and its text."""
    from mcp import ClientSession

    async with streams as (read, write, *_), ClientSession(read, write) as session:
        await session.initialize()
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        results = [await session.call_tool(name, arguments) for name, arguments in calls]
        return tools, [(result.isError, result.content[0].text) for result in results]


@pytest.mark.slow
def test_an_mcp_client_lists_the_tools_and_calls_them_over_both_transports(served):
    pytest.importorskip("mcp")
    from mcp.client.sse import sse_client
    from mcp.client.streamable_http import streamablehttp_client

    url = served() + "/gradio_api/mcp/"
    calls = [("runs", {"limit": 1}), ("run", {"run_id": "none", "lang": "ja"}), ("plan", {"bits": 5})]
    for streams in (streamablehttp_client(url), sse_client(url + "sse")):
        tools, [runs, run, plan] = asyncio.run(_talk(streams, calls))
        assert set(tools) == TOOLS and "Bits per weight" in json.dumps(tools["plan"].inputSchema)
        assert runs == (False, "[]")
        assert run == (True, translate("ja", "error.no_run", run="none"))
        assert plan[0] and "5" in plan[1]


@pytest.mark.slow
def test_a_page_with_a_login_answers_no_program_without_it(served):
    from gradio_client import Client

    url = served("--auth", "me:secret")
    body = {"data": ["", 1, "en"]}
    for path in ("run/runs", "call/runs"):
        assert httpx.post(f"{url}/gradio_api/{path}", json=body, timeout=60).status_code == 401
    assert httpx.get(f"{url}/gradio_api/info", timeout=60).status_code == 401
    for path in ("mcp/", "mcp/schema", "mcp/sse"):
        assert httpx.get(f"{url}/gradio_api/{path}", timeout=60).status_code in (401, 404)
    assert Client(url, auth=("me", "secret"), verbose=False).predict(limit=1, api_name="/runs") == []
