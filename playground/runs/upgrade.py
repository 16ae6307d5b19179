"""Read events of earlier schema versions as events of today's, so that old runs open, chart and compare as new ones do.

Schema 1 had other names for five kinds, for the whole GPU's memory (`device`), for settings fields and for the words
keys of problems about them.
"""

from typing import Any

from playground.settings.aliases import OLD_FIELDS, rename_fields

SCHEMA = 2  # of the events that today's version writes

OLD_KINDS = {
    "run": "run_started",
    "prediction": "memory_predicted",
    "measured": "memory_measured",
    "score": "eval",
    "failure": "error",
}
OLD_HARDWARE_KEYS = {"pretended": "simulated"}
OLD_PREDICTION_KEYS = {"feed": "batching"}
OLD_NAMES = {old: new for names in OLD_FIELDS.values() for old, new in names.items()}  # of fields, in problems
OLD_FORMAT_PROBLEMS = "form_"  # began the words keys of problems with a custom format, as in problem.form_empty


def upgraded(event: dict) -> dict:
    """An event of any schema version up to SCHEMA, under today's names; unknown kinds and fields are kept unchanged."""
    kind = OLD_KINDS.get(event["kind"], event["kind"])
    event = event | {"kind": kind}
    if kind in ("memory", "memory_predicted") and isinstance(event.get("device"), int):
        event = _renamed(event, {"device": "device_used"})
    if isinstance(event.get("peak"), dict):
        event["peak"] = _renamed(event["peak"], {"device": "device_used"})
    if kind == "run_started":
        if isinstance(event.get("settings"), dict):
            event["settings"] = rename_fields(event["settings"])
        if isinstance(event.get("hardware"), dict):
            event["hardware"] = _renamed(event["hardware"], OLD_HARDWARE_KEYS)
    elif kind == "memory_predicted":
        event = _renamed(event, OLD_PREDICTION_KEYS)
    elif kind == "done" and isinstance(event.get("result"), dict):
        event["result"] = _upgraded_result(event["result"])
    elif kind == "error" and isinstance(event.get("problems"), list):
        event["problems"] = [_upgraded_problem(problem) for problem in event["problems"]]
    return event


def _upgraded_result(result: dict) -> dict:
    if isinstance(result.get("peak"), dict):
        result = result | {"peak": _renamed(result["peak"], {"device": "device_used"})}
    if result.get("template") == "own":
        result = result | {"template": "custom"}
    return result


def _upgraded_problem(problem: Any) -> Any:
    """A problem about a settings field has the field's name in its words key, and in the names of its values.

    That columns couldn't be detected came without examples of their values and without a proposal.
    """
    if isinstance(problem, dict) and problem.get("key") == "error.columns" and isinstance(problem.get("values"), dict):
        added = {"examples": [], "proposal": "instruction=Question, output=Reply"}
        return problem | {"values": added | problem["values"]}
    if not isinstance(problem, dict) or not str(problem.get("key", "")).startswith("problem."):
        return problem
    name = str(problem["key"]).removeprefix("problem.")
    if name.startswith(OLD_FORMAT_PROBLEMS):
        name = "custom_format_" + name.removeprefix(OLD_FORMAT_PROBLEMS)
    values = problem.get("values", {})
    return problem | {
        "key": f"problem.{OLD_NAMES.get(name, name)}",
        "values": _renamed(values, OLD_NAMES) if isinstance(values, dict) else values,
    }


def _renamed(values: dict, names: dict[str, str]) -> dict:
    return {names.get(key, key): value for key, value in values.items()}
