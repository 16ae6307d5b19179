"""Check what a browser or a program sends for a listener, before Gradio takes it: how many values, and of which types.

Gradio (6.31) answers wrong ones with status 500 and a traceback in the log.
"""

import json
from collections.abc import Sequence
from typing import Any

from gradio.utils import get_upload_folder, is_in_or_equal

from playground.errors import problem
from playground.json_values import MAX_INT

MAX_SESSION_CHARACTERS = 64  # of the name that a browser gives its session
MAX_EVENT_CHARACTERS = 64
SCALARS = (str, int, float, bool, type(None))
TEXTS = (str, int, float, type(None))  # a number in a text field is read as its digits
ONE_TEXT = ("Textbox", "Markdown", "HTML", "Button", "Code")
ONE_NUMBER = ("Number", "Slider")
ONE_CHOICE = ("Radio",)
FILES = ("File", "UploadButton", "DownloadButton")
MAX_CHOICES = 1000  # in one list
SHOWN = 60  # characters of a value in a sentence


def check_session(body: dict[str, Any]) -> None:
    """Raise PlaygroundError where the fields that name a session, an event or a trigger aren't what they should be."""
    for name, most in (("session_hash", MAX_SESSION_CHARACTERS), ("event_id", MAX_EVENT_CHARACTERS)):
        value = body.get(name)
        if value is not None and not (isinstance(value, str) and len(value) <= most and value.isprintable()):
            raise problem("request.value", field=name, value=shown(value))
    for name in ("fn_index", "trigger_id"):
        value = body.get(name)
        if value is not None and not (type(value) is int and 0 <= value < 2**31):
            raise problem("request.value", field=name, value=shown(value))
    if body.get("batched") not in (None, False):
        raise problem("request.value", field="batched", value=shown(body["batched"]))


def checked_data(inputs: Sequence[Any], data: Any, may_lack_hidden: bool = False) -> list[Any]:
    """The values for these components. may_lack_hidden: those that programs don't see (states) may be left out.

    Raises PlaygroundError: no list, too many or too few values, one of a wrong type.
    """
    if not isinstance(data, list):
        raise problem("request.value", field="data", value=shown(data))
    expected = list(inputs)
    if may_lack_hidden and len(data) != len(inputs):
        expected = [component for component in inputs if not component.skip_api]
    if len(data) != len(expected):
        raise problem("request.count", count=len(data), expected=len(inputs))
    for number, (component, value) in enumerate(zip(expected, data), 1):
        if not (component.stateful or _is_possible(component, value)):
            label = getattr(component, "label", None) or f"data[{number - 1}]"
            raise problem("request.value", field=str(label)[:SHOWN], value=shown(value))
    # What a page keeps in a state, as a conversation, is the server's; Gradio doesn't take it from a browser either.
    return [None if component.stateful else _as_text(component, value) for component, value in zip(expected, data)]


def without_files(value: Any) -> Any:
    """A value with None for everything that Gradio would take for a file: no event of this page names one."""
    if isinstance(value, list):
        return [without_files(item) for item in value]
    if not isinstance(value, dict):
        return value
    return None if "path" in value else {name: without_files(item) for name, item in value.items()}


def shown(value: Any) -> str:
    """A value in a sentence, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _is_possible(component: Any, value: Any) -> bool:
    """Whether a component could have sent the value. Of a type that isn't listed here, any."""
    kinds = _kinds(component)
    if isinstance(value, int) and not -MAX_INT <= value < MAX_INT and "Api" not in kinds:
        return False
    if kinds & {*ONE_TEXT}:
        return isinstance(value, TEXTS) and not isinstance(value, bool)
    if kinds & {*ONE_NUMBER}:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number or (value is None and "Slider" not in kinds)
    if "Checkbox" in kinds:
        return value is None or isinstance(value, bool)
    if kinds & {*FILES}:
        return _is_upload(component, value, may_lack="UploadButton" not in kinds)
    if kinds & {"Dropdown", "CheckboxGroup"}:
        is_list = "CheckboxGroup" in kinds or bool(getattr(component, "multiselect", False))
        if is_list:
            listed = isinstance(value, list) and len(value) <= MAX_CHOICES
            return value is None or (listed and all(isinstance(item, SCALARS) for item in value))
        return isinstance(value, SCALARS) and not isinstance(value, bool)
    return not kinds & {*ONE_CHOICE} or isinstance(value, SCALARS)


def _as_text(component: Any, value: Any) -> Any:
    """A component's value; a number becomes its digits where text belongs: Gradio does so for a Textbox alone."""
    kinds = _kinds(component)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    own_text = (
        "Dropdown" in kinds
        and component.allow_custom_value
        and all(isinstance(choice, str) for _, choice in component.choices)
    )
    return str(value) if own_text or kinds & {*ONE_TEXT} else value


def _kinds(component: Any) -> set[str]:
    return {kind.__name__ for kind in type(component).__mro__}


def _is_upload(component: Any, value: Any, may_lack: bool) -> bool:
    """Whether a value is what a component for files has: one or several files, or none where it may lack them."""
    if value is None:
        return may_lack
    if getattr(component, "file_count", "single") == "single":
        return _is_file(value)
    return isinstance(value, list) and len(value) <= MAX_CHOICES and all(map(_is_file, value))


def _is_file(value: Any) -> bool:
    """Whether a value is a file as Gradio's clients name it after its upload."""
    if not isinstance(value, dict) or not isinstance(value.get("path"), str) or "\0" in value["path"]:
        return False
    if not is_in_or_equal(value["path"], get_upload_folder()):
        return False
    size, meta = value.get("size"), value.get("meta", {})
    texts = all(isinstance(value.get(name), (str, type(None))) for name in ("url", "orig_name", "mime_type"))
    return texts and isinstance(meta, dict) and (size is None or type(size) is int)
