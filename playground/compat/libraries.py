"""Import the libraries that work with models, without what this program never calls of them."""

import gc
import sys
from pathlib import Path

from playground.compat.bytecode import keep_bytecode
from playground.compat.of_bitsandbytes import import_bitsandbytes
from playground.compat.of_transformers import import_transformers


def import_libraries(cache: Path) -> None:
    """Import torch, transformers, PEFT and bitsandbytes, for a process that works with models.

    cache: the folder for their bytecode where Python keeps none (bytecode.py).
    For the start of a process, while no other thread imports anything: meanwhile functions of torch and transformers
    are replaced (of_bitsandbytes.py, of_transformers.py).

    Python doesn't look for garbage during the imports, nor at what they made afterwards: modules stay until the process
    ends, yet their million objects would be looked at each time that they are a quarter more, in all for about a fifth
    of the time of these imports.
    """
    collects, starting = gc.isenabled(), "torch" not in sys.modules
    if starting:
        keep_bytecode(cache / "bytecode")
    gc.disable()
    try:
        import_bitsandbytes()
        import_transformers()
        import peft  # noqa: F401
    finally:
        if starting:
            gc.freeze()
        if collects:
            gc.enable()
