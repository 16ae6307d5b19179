"""Free main memory is no more than the limit of the container leaves, in both versions of control groups."""

import psutil
import pytest

from playground.memory import card_limit, main_memory
from playground.settings import Load
from playground.train import memory_policy

LIMIT, USED, CACHED = 2**30, 700 * 2**20, 300 * 2**20  # of 1 GiB, 624 MiB can still be taken


@pytest.fixture(params=[main_memory.VERSION_2, main_memory.VERSION_1], ids=["cgroup v2", "cgroup v1"])
def limited(request, tmp_path, monkeypatch):
    """A container of 1 GiB on this machine; a function that changes its limit."""
    limit, usage, counts, (inactive, active) = request.param
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / usage).write_text(f"{USED}\n")
    (tmp_path / counts).write_text(f"anon 5\n{inactive} {CACHED - 4096}\n{active} 4096\nfile_writeback 9\n")
    monkeypatch.setattr(main_memory, "GROUPS", tmp_path)

    def set_limit(text):
        (tmp_path / limit).write_text(f"{text}\n")

    set_limit(LIMIT)
    return set_limit


def test_a_containers_limit_bounds_what_can_be_taken(limited):
    unused = LIMIT - USED + CACHED
    assert main_memory.main_memory_capacity() == LIMIT
    assert main_memory.unused_main_memory() == unused == memory_policy.free_memory("cpu")
    rss = psutil.Process().memory_info().rss
    for available in (main_memory.available_main_memory(), card_limit.available_memory(Load(), "cpu")):
        assert available == LIMIT or abs(available - unused - rss) < 2**25
    limited(USED - CACHED - 1)
    assert main_memory.unused_main_memory() == 0


@pytest.mark.parametrize("text", ["max", str(2**63 - 4096)])
def test_a_container_without_a_limit_has_the_machines_memory(limited, text):
    limited(text)
    machine = psutil.virtual_memory()
    assert main_memory.main_memory_capacity() == machine.total
    assert 0 < main_memory.unused_main_memory() <= machine.total
    assert abs(main_memory.unused_main_memory() - machine.available) < 2**30
