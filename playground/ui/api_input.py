"""What programs send to the endpoints of `playground/ui/api.py`, checked: types, limits, all problems at once."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.errors import PlaygroundError, Problem, as_playground_error, problem
from playground.i18n import LANGUAGES
from playground.settings import MOST_PROCESSES, Generation, merge_group, parse_generation, raise_all

MAX_PROMPT = 1_000_000  # characters; far beyond what any model takes
MAX_CONTEXT = 2**20  # tokens
MAX_GPU_GIB = 2**20
MAX_RUNS = 1000  # in one reply


@dataclass(frozen=True)
class PlanQuestion:
    """What a plan asks besides the settings.

    context: tokens of a chat. gpu_gib: GiB of the GPU that `auto` plans for (0: any). gpus: that fine-tune together.
    """

    context: int = 1024
    gpu_gib: float = 0.0
    gpus: int = 1

    @classmethod
    def parse(cls, context: Any, gpu_gib: Any, gpus: Any) -> tuple["PlanQuestion", list[Problem]]:
        """The question, and everything that is wrong with it."""
        question, problems = merge_group(cls(), {"context": context, "gpu_gib": gpu_gib, "gpus": gpus}, "plan")
        problems += _outside("context", question.context, 1, MAX_CONTEXT)
        problems += _outside("gpu_gib", question.gpu_gib, 0, MAX_GPU_GIB)
        return question, problems + _outside("gpus", question.gpus, 1, MOST_PROCESSES)


@dataclass(frozen=True)
class RunsQuestion:
    """Which runs are listed."""

    filter: str = ""
    limit: int = 50

    @classmethod
    def parse(cls, filter: Any, limit: Any) -> "RunsQuestion":
        """The question. Raises PlaygroundError with everything that is wrong with it."""
        question, problems = merge_group(cls(), {"filter": filter, "limit": limit}, "runs")
        raise_all(problems + _outside("limit", question.limit, 1, MAX_RUNS))
        return question

    def matches(self, texts: Iterable[str]) -> bool:
        """Whether one of the texts contains the filter, whatever its case."""
        return any(self.filter.casefold() in text.casefold() for text in texts)


@contextmanager
def readable_errors(lang: str) -> Iterator[None]:
    """Turn what is raised within into gr.Error with its text in that language, without a traceback."""
    known = lang if lang in LANGUAGES else LANGUAGES[0]
    try:
        if lang != known:
            raise problem("problem.choice", field="lang", value=str(lang)[:80], choices=list(LANGUAGES))
        yield
    except Exception as error:
        raise gr.Error(as_playground_error(error).text(known), print_exception=False) from None


def merged_settings(given: Any, named: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Settings as {group: {field: value}}, with the named ones that aren't None over them."""
    groups = dict(as_group("settings", given))
    for group, values in named.items():
        own, set_here = groups.get(group, {}), {name: value for name, value in values.items() if value is not None}
        if isinstance(own, dict) and set_here:  # anything else is reported with the rest
            groups[group] = own | set_here
    return groups


def as_group(name: str, values: Any) -> dict[str, Any]:
    """What was given as an object; {} for None. Raises PlaygroundError for anything else."""
    if values is not None and not isinstance(values, dict):
        raise problem("problem.group_kind", group=name, value=str(values)[:80])
    return values or {}


def text_value(name: str, value: Any) -> str:
    """A text. Raises PlaygroundError for anything else."""
    if not isinstance(value, str):
        raise problem("problem.kind", field=name, value=str(value)[:80], kind="str")
    return value


def check_prompt(prompt: Any) -> None:
    """Raise PlaygroundError for a prompt that isn't a text, is empty or is too long."""
    length = len(text_value("prompt", prompt))
    if not prompt.strip():
        raise problem("chat.empty_question")
    if length > MAX_PROMPT:
        raise problem("api.prompt_length", characters=length, most=MAX_PROMPT)


def _outside(name: str, value: float, least: int, most: int) -> list[Problem]:
    """A Problem where a number is not within its limits."""
    if least <= value <= most:
        return []
    return [Problem("api.range", {"field": name, "value": value, "least": least, "most": most})]


def all_problems(*checks: Callable[[], Any]) -> list[Problem]:
    """The problems of all checks that raise PlaygroundError."""
    problems: list[Problem] = []
    for check in checks:
        try:
            check()
        except PlaygroundError as error:
            problems += error.problems
    return problems


def parse_answers(generation: Any) -> Generation:
    """Generation settings from {field: value} or None. Raises PlaygroundError with all problems."""
    return parse_generation(as_group("generation", generation))
