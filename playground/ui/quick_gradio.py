"""Imports Gradio in 2.2 s instead of 3.9 (two cores): without its writing of type stubs.

At each import Gradio (6.31) parses the source of every component and compares its .pyi file with what it would write;
it leaves a component alone whose source file it can't find.
"""

import inspect
import sys
from typing import Any

_find_file = inspect.getfile


def _hide_from_gradio(object: Any) -> str:
    if sys._getframe(1).f_globals.get("__name__") == "gradio.component_meta":
        raise OSError("no type stubs are wanted")
    return _find_file(object)


inspect.getfile = _hide_from_gradio
try:
    import gradio  # noqa: F401
finally:
    inspect.getfile = _find_file
