"""Models as the choices of a dropdown: how each is named there, and in which order."""

from collections.abc import Iterable

from playground import catalog
from playground.ui.page import Page


def model_choices(page: Page, models: Iterable[str]) -> list[tuple[str, str]]:
    """Models as (label, id): those that need no hub first, then the talk's, then others; by series, then by size."""
    return [(model_label(page, model), model) for model in sorted(models, key=_rank)]


def model_label(page: Page, model: str) -> str:
    """A model's name, marked if the talk showed it or if it needs no hub."""
    mark = f"{page.translate('catalog.mark')} " if _of_the_talk(model) else ""
    offline = f" · {page.translate('load.offline')}" if model in catalog.offline_models() else ""
    return mark + catalog.display_name(model) + offline


def offline_model(page: Page) -> str:
    """The id of a model that needs no hub and knows the page's language, or else of any that needs no hub."""
    models = catalog.offline_models()
    return next((model for model in models if page.lang in catalog.models()[model]["languages"]), models[0])


def _rank(model: str) -> tuple[bool, bool, str, int]:
    """A model's place among others. The first word of a name is its series."""
    entry = catalog.models().get(model) or catalog.shapes()[model]
    series = entry["name"].split()[0].casefold()
    return model not in catalog.offline_models(), not _of_the_talk(model), series, entry["parameters"]


def _of_the_talk(model: str) -> bool:
    return catalog.models().get(model, {}).get("talk", False)
