"""Types of what programs send to `playground/ui/api.py` and get back, from which Gradio makes JSON schemas.

Of settings every field is optional: one that isn't given keeps its default.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from playground import settings

Language = Literal["en", "ja"]


def _optional_fields(name: str, types: dict[str, Any]) -> Any:
    """A TypedDict of these fields, none of them required."""
    return TypedDict(name, types, total=False)  # type: ignore[operator]


def _of_group(group: type) -> Any:
    return _optional_fields(f"{group.__name__}Values", {field.name: field.type for field in fields(group)})


if TYPE_CHECKING:
    SettingsValues = dict[str, Any]
    GenerationValues = dict[str, Any]
else:
    GROUPS = {"load": settings.Load, "data": settings.Data, "lora": settings.Lora, "train": settings.Train}
    SettingsValues = _optional_fields("SettingsValues", {name: _of_group(group) for name, group in GROUPS.items()})
    GenerationValues = _of_group(settings.Generation)


class PhaseMemory(TypedDict):
    """Predicted bytes of a phase: what has to fit, what tensors take, and that by part."""

    need: int
    allocated: int
    parts: dict[str, int]


class CardVerdicts(TypedDict):
    """Whether each phase fits a GPU: "fits", "tight" or "no"."""

    card: str
    gib: float
    load: str
    chat: str
    tune: str


class Several(TypedDict):
    """GPUs that fine-tune together.

    parallel: the way that `phases` is of. rows: of a batch of `batch`, that each computes. main_memory: bytes that the
    programs take of it at least. ways: bytes of each GPU ("need") for one alone, with the whole model on each (ddp),
    and with the weights split (fsdp2); or why that can't be trained or predicted ("trouble").
    """

    count: int
    parallel: str
    rows: int
    batch: int
    main_memory: int
    ways: dict[str, dict[str, Any]]


class Streamed(TypedDict):
    """Layers that a fine-tune streams from main memory, since it only fits so, and bytes that it takes there."""

    layers: int
    main_memory: int


class PlanOfOne(TypedDict):
    """A prediction of memory; parameters, trainable: counts of weights."""

    model: str
    bits: int
    method: str
    parameters: int
    trainable: int
    context: int
    phases: dict[str, PhaseMemory]
    cards: list[CardVerdicts]


class Plan(PlanOfOne, total=False):
    """The same with `several` where it is for more than one GPU, and `streamed` where layers are."""

    several: Several
    streamed: Streamed


class RunRow(TypedDict):
    """A run at a glance.

    began: Unix time. loss, recall: of a fine-tune, before and after, where they were measured. forgetting: the rise of
    the loss on ordinary text, in nats a token, by language.
    """

    id: str
    job: str
    state: str
    model: str
    bits: int
    data: str
    began: float
    seconds: float
    has_adapter: bool
    loss: dict[str, float | None] | None
    recall: dict[str, Any] | None
    forgetting: dict[str, float] | None


class RunState(RunRow):
    """A run, and how far it is: its phase, its last step, and once it has ended its result or its error's text."""

    phase: str
    step: int
    steps: int
    step_loss: float | None
    tokens_per_s: float | None
    left_s: float | None
    result: dict[str, Any]
    error: str


class Answers(TypedDict):
    """The answers of both models; sides: how each ended ({"finish", "tokens", "tokens_per_s"}), {} before that."""

    run: str
    prompt: str
    base: str
    tuned: str
    sides: dict[str, dict[str, Any]]


class Stopped(TypedDict):
    """Whether a job was stopped, and the run that it works on."""

    stopped: bool
    run: str
