"""Report the progress bars that transformers draws while it loads a model."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from playground import compat


@contextlib.contextmanager
def loading_progress(on_progress: Callable[..., None]) -> Iterator[None]:
    """Report transformers' own progress bars to `on_progress` instead of drawing them."""
    with compat.progress_bars(functools.partial(_ProgressBar, on_progress)):
        yield


class _ProgressBar:
    """A stand-in for a tqdm bar: calls `on_progress(done, total, "tensors")` and draws nothing."""

    def __init__(
        self, on_progress: Callable[..., None], iterable: Any = (), total: float | None = None, **options: Any
    ) -> None:
        self._on_progress = on_progress
        self.iterable, self.n = iterable, 0
        self.total = total if total is not None else len(iterable) if hasattr(iterable, "__len__") else 0

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable:
            yield item
            self.update()

    def update(self, n: int = 1) -> None:
        self.n += n
        self._on_progress(self.n, max(self.total, self.n), "tensors")

    def __getattr__(self, name: str) -> Callable[..., None]:  # set_description, close, ...
        return lambda *args, **kwargs: None

    def __enter__(self) -> "_ProgressBar":
        return self

    def __exit__(self, *exception: object) -> None:
        return None
