"""Open the playground: `python app.py`. See README.md for the flags."""

import argparse
import os
from pathlib import Path
from typing import Any

import playground.ui.quick_gradio  # noqa: F401, first of all: before another module imports Gradio
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES, translate
from playground.talk.steps import STEPS, read_steps
from playground.ui.build import build_app, launch_options


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Load a language model at a chosen bit width, fine-tune it, watch the memory."
    )
    parser.add_argument("--host", help="address to listen on (GRADIO_SERVER_NAME, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (GRADIO_SERVER_PORT, else 7860)")
    parser.add_argument("--share", action="store_true", default=None, help="also open a public link through Gradio")
    parser.add_argument("--auth", action="append", metavar="NAME:PASSWORD", help="let in only who logs in (repeatable)")
    parser.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="name under which the page is opened too, such as a proxy's",
    )
    parser.add_argument("--lang", choices=LANGUAGES, help="language of the first page; each page links to the other")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (runs)")
    parser.add_argument(
        "--talk", type=Path, metavar="FILE", default=STEPS, help="steps of the Talk tab (the bundled ones)"
    )
    arguments = parser.parse_args()
    private = not arguments.share and "SPACE_ID" not in os.environ  # a shared link and a Space are open to anyone
    lang = arguments.lang or "en"
    users = [tuple(user.partition(":")[::2]) for user in arguments.auth or []]
    if not all(name and password for name, password in users):
        parser.error(translate(lang, "auth.form"))
    try:
        steps = read_steps(arguments.talk)
        app: Any = build_app(arguments.runs, lang, private, steps)
    except PlaygroundError as error:
        parser.error(error.text(lang))
    names = [arguments.host or os.environ.get("GRADIO_SERVER_NAME", ""), *(arguments.allow_host or [])]
    options = launch_options(lang, app.shared, names)
    if private and not options["mcp_server"]:
        print(translate(lang, "api.no_mcp"))
    address = {"server_name": arguments.host, "server_port": arguments.port, "share": arguments.share}
    app.launch(**address, auth=users or None, **options)


if __name__ == "__main__":
    main()
