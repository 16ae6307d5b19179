"""Check whether a Hugging Face hub offers a repo, with an answer in seconds even on a dead network."""

import threading

TIMEOUT = 6.0  # seconds


def access_problem(repo: str, repo_type: str = "model", file: str = "") -> str | None:
    """Why the hub doesn't give access to a repo: "unreachable", "absent" or "gated"; None if nothing is in the way.

    repo_type: "model" or "dataset"; file: a file that is needed, if not one that such a repo usually has.

    The request runs in a thread with one time limit over all of it: a name lookup on a dead network can hang for
    minutes, and no client's own timeout covers it.
    """
    import huggingface_hub  # before the clock starts: on a busy machine importing it takes seconds
    from huggingface_hub.errors import HFValidationError

    if huggingface_hub.is_offline_mode():
        return "unreachable"
    usual_file = "README.md" if repo_type == "dataset" else "config.json"
    try:
        url = huggingface_hub.hf_hub_url(repo, file or usual_file, repo_type=repo_type)
    except HFValidationError:
        return "absent"
    result: list[str | None] = ["unreachable"]

    def request() -> None:
        result[0] = _request_access(url, bool(file))

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(TIMEOUT + 2)
    return result[0]


def _request_access(url: str, needs_file: bool) -> str | None:
    """Request a file's metadata, with the person's token if they are logged in."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        get_hf_file_metadata(url, timeout=TIMEOUT)
    except EntryNotFoundError:  # the repo exists and lacks this one file
        return "absent" if needs_file else None
    except GatedRepoError:
        return "gated"
    except RepositoryNotFoundError:
        return "absent"
    except HfHubHTTPError as error:  # a mirror that doesn't send the Hugging Face hub's error codes
        return {401: "absent", 403: "gated", 404: "absent"}.get(error.response.status_code, "unreachable")
    except Exception:  # each HTTP client that huggingface_hub has used raises its own kinds
        return "unreachable"
    return None


def is_connection_error(error: Exception) -> bool:
    """Whether this is what huggingface_hub raises where a connection breaks.

    Some errors of its HTTP client pass through it: httpx's, or httpx2's, which are no OSErrors.
    """
    return isinstance(error, (OSError, ValueError)) or type(error).__module__.partition(".")[0].startswith("httpx")
