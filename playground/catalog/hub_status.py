"""Asking a hub whether it has something, with an answer in seconds even on a dead network."""

import os
import threading

TIMEOUT = 6.0  # seconds


def access_problem(repo: str, kind: str = "", file: str = "") -> str | None:
    """Why the hub won't give this repo: "unreachable", "absent", "gated", or None where nothing is in the way.

    `kind`: "" for models, "datasets/" for data sets; `file`: the one that is wanted, where it isn't the repo's usual one. Asked in a thread of its own with one time limit over all,
    because a name lookup on a dead network can hang for minutes and no client's own time limit covers it.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return "unreachable"
    answer: list[str | None] = ["unreachable"]

    def ask() -> None:
        import httpx
        from huggingface_hub import constants, get_token

        token = get_token()
        headers = {"authorization": f"Bearer {token}"} if token else {}
        asked = file or ("README.md" if kind else "config.json")
        try:
            found = httpx.head(
                f"{constants.ENDPOINT}/{kind}{repo}/resolve/main/{asked}",
                headers=headers,
                timeout=TIMEOUT,
                follow_redirects=True,
            )
        except httpx.HTTPError:
            return
        # A repo that exists but lacks this one file says so in a header of its own.
        missing_file = found.headers.get("x-error-code") == "EntryNotFound"
        known = {401: "absent", 403: "gated", 404: None if missing_file and not file else "absent"}
        answer[0] = known.get(found.status_code, None if found.status_code < 400 else "unreachable")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT + 2)
    return answer[0]
