"""Push a folder to a Hugging Face hub, in one commit: stopped before its end, it leaves no file there.

The token is an argument and goes to the hub alone: it is in no event, no settings, no log and no error's text.
"""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playground.background import Stopped
from playground.errors import PlaygroundError, problem

TOKEN_VARIABLE = "HF_TOKEN"


def machine_token() -> str:
    """The token that this machine's environment has; "" if there is none."""
    return os.environ.get(TOKEN_VARIABLE, "").strip()


def push_folder(
    folder: Path, repo: str, token: str, private: bool, message: str, on_progress: Callable[..., None]
) -> dict[str, str]:
    """Upload every file of a folder into a model repo, which is made if it doesn't exist; return {"url", "commit"}.

    on_progress: called with (done, total) bytes; Stopped, raised by it, ends the upload.
    Raises PlaygroundError where the hub refuses or can't be reached, and if there is no token.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if not token:
        raise problem("error.export_token", variable=TOKEN_VARIABLE)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    progress = _Progress(on_progress, 2 * sum(path.stat().st_size for path in files))
    api = HfApi(token=token)
    with contextlib.ExitStack() as opened:
        try:
            url = api.create_repo(repo, private=private, exist_ok=True)
            operations: list[Any] = []
            for path in files:
                stream = opened.enter_context(_CountedFile(path, progress))
                operations.append(CommitOperationAdd(str(path.relative_to(folder).as_posix()), stream))
            commit = api.create_commit(url.repo_id, operations, commit_message=message)
        except Exception as error:  # each HTTP client that huggingface_hub has used raises its own kinds
            raise _cause(error, repo, token) from None  # the chain would show the request, with its headers
    return {"url": str(url), "commit": str(getattr(commit, "oid", ""))}


class _Progress:
    """Bytes read so far, of `total`: each file is read once for its checksum and once for the upload."""

    def __init__(self, on_progress: Callable[..., None], total: int):
        self._on_progress, self._total, self._done = on_progress, total, 0

    def add(self, count: int) -> None:
        self._done += count
        self._on_progress(min(self._done, self._total), self._total)


class _CountedFile(io.BufferedReader):
    """A file that reports what is read of it."""

    def __init__(self, path: Path, progress: _Progress):
        super().__init__(io.FileIO(path))
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        block = super().read(size)
        self._progress.add(len(block))
        return block


def _cause(error: Exception, repo: str, token: str) -> Exception:
    """What an error of the upload is due to; huggingface_hub wraps what happens to a large file in RuntimeErrors."""
    from huggingface_hub.errors import HfHubHTTPError

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    stopped = next((link for link in chain if isinstance(link, Stopped)), None)
    refused = next((link for link in chain if isinstance(link, HfHubHTTPError)), None)
    return stopped or _hub_error(refused or chain[-1], repo, token)


def _hub_error(error: BaseException, repo: str, token: str) -> PlaygroundError:
    """What the hub or the network said, without the token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    detail = (getattr(error, "server_message", None) or str(error)).replace(token, "…").strip().split("\n")[0][:200]
    if status in (401, 403):
        return problem("error.export_hub_refused", repo=repo, status=status)
    return problem("error.export_hub", repo=repo, detail=f"{status}: {detail}" if status else detail)
