"""Open the playground: `python app.py`. See README.md for the flags."""

import argparse
import os
from pathlib import Path
from typing import Any

import playground.ui.quick_gradio  # noqa: F401, first of all: before another module imports Gradio
from playground.ending import ENDING
from playground.errors import PlaygroundError, as_playground_error
from playground.i18n import LANGUAGES, translate
from playground.talk.steps import STEPS, read_steps
from playground.ui.build import build_app
from playground.ui.ending import ending_in_order
from playground.ui.launch import has_public_link, launch_options
from playground.ui.static_space import write_static_space
from playground.ui.talk_figures import check_figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Load a language model at a chosen bit width, fine-tune it, watch the memory."
    )
    parser.add_argument("--host", help="address to listen on (GRADIO_SERVER_NAME, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (GRADIO_SERVER_PORT, else 7860)")
    parser.add_argument("--share", action="store_true", help="also open a public link through Gradio")
    parser.add_argument("--auth", action="append", metavar="NAME:PASSWORD", help="let in only who logs in (repeatable)")
    parser.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="name under which the page is opened too, such as a proxy's",
    )
    parser.add_argument("--lang", choices=LANGUAGES, help="language of the first page; each page links to the other")
    runs = Path(os.environ.get("PLAYGROUND_RUNS") or "runs")
    parser.add_argument("--runs", type=Path, default=runs, help="folder of the runs (PLAYGROUND_RUNS, else runs)")
    parser.add_argument(
        "--talk", type=Path, metavar="FILE", default=STEPS, help="steps of the Talk tab (the bundled ones)"
    )
    parser.add_argument(
        "--static-space", type=Path, metavar="DIR", help="write recordings and predictions as plain web pages, and end"
    )
    arguments = parser.parse_args()
    share = has_public_link(arguments.share)
    private = not share and "SPACE_ID" not in os.environ  # a shared link and a Space are open to anyone
    lang = arguments.lang or "en"
    users = [tuple(user.partition(":")[::2]) for user in arguments.auth or []]
    if not all(name and password for name, password in users):
        parser.error(translate(lang, "auth.form"))
    if arguments.static_space:
        write_static_space(arguments.static_space, lang)
        print(translate(lang, "static.written", path=arguments.static_space / "index.html"))
        return
    try:
        steps = read_steps(arguments.talk)
        check_figures(steps)
    except PlaygroundError as error:
        parser.error(error.text(lang))
    names = [arguments.host or os.environ.get("GRADIO_SERVER_NAME", ""), *(arguments.allow_host or [])]
    with ENDING.signals():
        try:
            app: Any = build_app(arguments.runs, lang, private, steps)
        except OSError as error:
            parser.error(as_playground_error(error).text(lang))
        options = launch_options(lang, app.shared, names, bool(users))
        if private and not users and not options["mcp_server"]:
            print(translate(lang, "api.no_mcp"))
        with ending_in_order(app) as ended:
            address = {"server_name": arguments.host, "server_port": arguments.port, "share": share}
            app.launch(**address, auth=users or None, **options, prevent_thread_lock=True)
            ended.wait()


if __name__ == "__main__":
    main()
