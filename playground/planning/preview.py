"""The preview process: reads the beginning of a data set for the page, so that no file can take the page's memory.

A small file can unpack to gigabytes within one value; the client (client.py) stops the process at its limit. It imports
no torch, so it is ready within a second.
"""

from typing import Any

from playground.data.allowed_names import checked_settings
from playground.data.preview_limits import raise_if_large
from playground.data.preview_values import to_dict
from playground.data.source import preview, short_name
from playground.jsonl_server import Emit, Server
from playground.settings import parse


def main() -> None:
    """Serve requests until the page's process is gone."""
    Server().serve(answer)


def answer(do: str, arguments: dict, emit: Emit) -> dict[str, Any]:
    """The preview of {"settings", "rows"} as JSON. Raises PlaygroundError as `source.preview` does, and
    for one that is too large for a page.
    """
    data = checked_settings(parse(arguments["settings"])).data
    found = to_dict(preview(data, arguments["rows"]))
    raise_if_large(found, short_name(data.source))
    return found


if __name__ == "__main__":
    main()
