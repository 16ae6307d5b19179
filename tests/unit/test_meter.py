"""The meter: what counts as memory that ran out."""

import resource
import subprocess
import sys

import pytest
import torch

from playground.memory import meter


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"), True),
        (RuntimeError("could not create a primitive"), False),
        (RuntimeError("shapes don't match"), False),
    ],
)
def test_an_error_that_says_so_ran_out_of_memory(error, says):
    assert meter.is_out_of_memory(error) is says


def test_what_doesnt_say_why_ran_out_of_memory_where_that_is_held_to_a_limit():
    asked = "from playground.memory import meter; print([meter.is_out_of_memory(RuntimeError(text)) for text in ('could not create a primitive', 'shapes')])"
    limit = 4 * 2**30
    told = subprocess.run(
        [sys.executable, "-c", asked],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert told.stdout.strip() == "[True, False]"
