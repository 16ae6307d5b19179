"""The same jobs without a page: `python -m playground plan | tune | rows | compare | fetch | models`.

Progress goes to standard error; the last line of standard output is one JSON object, {"error": text} after an error.
Exit status: 0 done, 1 an error, 2 wrong usage, 128 and its number after a signal (Ctrl-C: 130).
"""

import sys

from playground.cli.output import print_result
from playground.cli.parser import parse_arguments
from playground.ending import ENDING
from playground.errors import as_playground_error
from playground.i18n import translate


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Raises SystemExit(2) for wrong usage."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    status = 0
    try:
        with ENDING.signals():
            result = options.run_command(options)
        status = ENDING.status or int("error" in result)
    except KeyboardInterrupt:
        result, status = {"error": translate(options.lang, "cli.interrupted")}, ENDING.status or 1
    except Exception as error:
        shown = as_playground_error(error)
        if {problem.key for problem in shown.problems} & {"error.unexpected", "error.model_code"}:
            import traceback

            traceback.print_exc()
        text = shown.text(options.lang)
        print(text, file=sys.stderr)
        result, status = {"error": text}, 1
    print_result(result)
    return status


if __name__ == "__main__":
    sys.exit(main())
