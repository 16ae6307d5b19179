"""Run a coroutine in a test, also in a process whose own event loop is the one of a browser test."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def run_async(coroutine: Coroutine) -> Any:
    """The coroutine's result. It gets a thread of its own: after a browser test, Playwright's event loop stays the
    running one of the tests' thread, and `asyncio.run` refuses to work there."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
