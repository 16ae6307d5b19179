"""transformers' private and fragile APIs: how it reads tokenizers, and what it keeps of them."""

import contextlib
import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, TextIO

LARGE = 2**20  # bytes of a file that takes a noticeable time to read

_lock = threading.RLock()


@contextlib.contextmanager
def quick_tokenizer_files() -> Iterator[None]:
    """Within it, transformers reads a tokenizer's large files with orjson instead of Python's own reader.

    Many classes, Gemma's among them, read tokenizer.json in Python, and twice.
    """
    from transformers import tokenization_utils_base, tokenization_utils_tokenizers

    modules: tuple[Any, ...] = (tokenization_utils_base, tokenization_utils_tokenizers)
    with _lock:
        own = [module.json for module in modules]
        for module in modules:
            module.json = SimpleNamespace(**vars(json) | {"load": _load})
        try:
            yield
        finally:
            for module, before in zip(modules, own, strict=True):
                module.json = before


def _load(file: TextIO) -> Any:
    """What json.load returns. Small files are left to it: orjson takes integers of more than 64 bits as floats."""
    import orjson

    content = file.buffer.read()  # UTF-8
    if len(content) >= LARGE:
        with contextlib.suppress(orjson.JSONDecodeError):  # NaN, half of a surrogate pair: Python's reader takes these
            return orjson.loads(content)
    return json.loads(content.decode("utf-8"))


def drop_python_vocabulary(tokenizer: Any) -> None:
    """Drop the vocabulary and merges that transformers keeps as Python objects next to the tokenizers library's own.

    They are read when a tokenizer is made and never again; Gemma 3's are 147 of 258 MiB.
    """
    for name in ("_vocab", "_merges"):
        if tokenizer.is_fast and isinstance(getattr(tokenizer, name, None), (dict, list)):
            setattr(tokenizer, name, None)


def drop_word_cache(tokenizer: Any) -> None:
    """Have a tokenizer remember no words that it has split: the tokenizers library (0.23) never frees them.

    Each thread keeps up to 10,000 words of each BPE tokenizer that it has used, also once that tokenizer is gone.
    Without them English takes about a fifth longer to encode, Japanese no longer than before.
    """
    resize = getattr(tokenizer.backend_tokenizer.model, "_resize_cache", None) if tokenizer.is_fast else None
    if resize:
        resize(0)
