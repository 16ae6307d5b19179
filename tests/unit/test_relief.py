"""What the Tune tab offers after a fine-tune ran out of memory, and only then."""

from types import SimpleNamespace

import pytest

from playground import runs
from playground.errors import PlaygroundError, problem
from playground.settings import Settings
from playground.ui import tune

FULL = problem("error.out_of_memory", used_bytes=8, capacity_bytes=9 * 2**30, part="weights", part_bytes=4)
OPTIONS = [
    {"bits": bits, "checkpointing": checkpointing, "tokens": 64, "device": 2**30, "speed": speed}
    for bits, checkpointing, speed in ((8, "off", 1.0), (4, "off", 0.9), (8, "all", 0.7), (16, "all", 0.6), (32, "all", 0.2))
]


@pytest.fixture
def page(tmp_path):
    """`page(error, card=0)`: a page whose last fine-tune ended so; what its planner was asked is in `page.asked`."""

    def made(error, card=0.0, answer=OPTIONS, do="tune"):
        settings = Settings().with_values({"load": {"card": card}, "lora": {"r": 4}})
        run = runs.create(tmp_path, do, settings.to_dict())
        asked = []

        def ask(name, **values):
            asked.append((name, values))
            if isinstance(answer, Exception):
                raise answer
            return answer

        job = SimpleNamespace(do=do, error=error, run=run.id)
        return SimpleNamespace(root=tmp_path, engine=SimpleNamespace(last=job), planner=SimpleNamespace(ask=ask), asked=asked, say=lambda key, **values: f"{key} {values.get('bits', '')}")

    return made


def test_the_fastest_of_each_bit_width_is_offered_for_the_memory_that_there_was(page):
    full = page(FULL)
    assert [(o["bits"], o["checkpointing"]) for o in tune.relief(full)] == [(8, "off"), (4, "off"), (16, "all")]
    [(name, values)] = full.asked
    assert name == "fastest" and values["capacity"] == 9 * 2**30
    assert values["settings"]["lora"]["r"] == 4


def test_for_a_pretended_card_what_fits_that_card_is_offered(page):
    full = page(FULL, card=6.0)
    tune.relief(full)
    assert full.asked[0][1]["capacity"] == 6 * 2**30


@pytest.mark.parametrize("error,do", [(None, "tune"), (problem("error.busy"), "tune"), (FULL, "load")])
def test_nothing_is_offered_after_anything_else(page, error, do):
    other = page(error, do=do)
    assert tune.relief(other) == [] and other.asked == []
    assert [update["visible"] for update in tune._offers(other)] == [False] * 3


def test_a_button_writes_its_change_and_says_so(page):
    full = page(FULL)
    shown = tune._offers(full)
    assert [(u["visible"], u["value"]) for u in shown] == [(True, "tune.change 8"), (True, "tune.change 4"), (True, "tune.change 16")]
    bits, method, checkpointing, tokens, told = tune._change(full, 1)
    assert (bits, method, checkpointing, tokens) == (4, "lora", "off", 64) and "tune.changed 4" in told["value"]


def test_where_nothing_fits_or_the_planner_fails_no_button_is_shown(page):
    for answer in ([], PlaygroundError(problem("error.planner_died", code=3).problems[0])):
        assert [update["visible"] for update in tune._offers(page(FULL, answer=answer))] == [False] * 3
