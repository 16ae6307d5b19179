"""Write assets/catalog/answers.json: the answers of the planning process that the Plan tab opens with.

    python -m playground.planning.build_answers

Importing torch and predicting take longer than a person waits for a first picture, and the largest model for every card
takes a minute, so these answers are written down. Run it again after a change of the catalog, of the settings or of
the predictions; tests/unit/test_stored_answers.py says when.
"""

import json
import sys
from typing import Any

from playground import catalog
from playground.catalog.cards import cards
from playground.planning.client import STORED_ANSWERS, plan_questions
from playground.planning.process import answer
from playground.settings import Settings


def questions() -> dict[str, dict[str, Any]]:
    """What the Plan tab shows when it opens, as {function: arguments}."""
    plan = catalog.first_plan()
    settings = Settings().with_values(plan["settings"]).to_dict()
    capacity = next(card["bytes"] for card in cards() if card["id"] == plan["card"])
    asked = plan_questions(settings, plan["context"], capacity, "cuda")
    return {do: asked[do] for do in ("forecast", "waterfall", "largest_models", "largest_for_setups")}


def main() -> None:
    """Write the file, with progress on standard error."""
    entries = []
    for do, arguments in questions().items():
        entries.append({"id": do, "arguments": arguments, "answer": answer(do, arguments, _print_progress)})
    lines = ",\n".join("  " + json.dumps(entry) for entry in entries)
    STORED_ANSWERS.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def _print_progress(event: dict) -> None:
    print(f"{event['done']} of {event['total']} {event['unit']}", file=sys.stderr)


if __name__ == "__main__":
    main()
