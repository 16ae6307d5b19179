"""How many processes the Fine-tune tab offers: one a GPU, on a shared page as many as its owner allows."""

from dataclasses import replace

from playground.planning.client import usable_processes
from playground.settings import Settings
from playground.settings.limits import Limits


def most_processes(limits: Limits | None) -> int:
    """How many processes can be chosen. limits: of a visitor, None on a private page."""
    return min(usable_processes(), limits.processes) if limits else usable_processes()


def within_choice(settings: Settings, limits: Limits | None) -> Settings:
    """The settings of a run, which may be another machine's, with at most as many processes as can be chosen here."""
    processes = min(settings.train.num_processes, most_processes(limits))
    return replace(settings, train=replace(settings.train, num_processes=processes))
