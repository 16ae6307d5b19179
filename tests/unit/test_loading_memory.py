"""Loading needs no more main memory than the loaded model and a tenth, at each width, and split over two processes.

Measured by `tests/bench/loading.py`, in processes by themselves, on a model of 113 million parameters.
"""

import mmap
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1] / "bench"))

import loading

from playground.memory.file_pages import FilePages

MOST = 1.1  # times the bytes of the loaded model
NOISE = 8 * 2**20  # bytes: by what peaks of one arm differ from round to round: small blocks that the C library keeps
SMALLER = {"hidden_size": 384, "intermediate_size": 1024}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows and gives back such pages")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """`models(form)`: the folder of a model that is saved so on first use; `models("toy")`: one without weights."""
    home = tmp_path_factory.mktemp("loading")

    def folder(form):
        path = home / form.replace(" ", "")
        if not path.is_dir():
            loading.save_toy(path) if form == "toy" else loading.save_model(path, form, **SMALLER)
        return path

    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "form, kind, processes",
    [
        pytest.param("bfloat16", "32", 1, marks=pytest.mark.exhaustive),
        ("bfloat16", "8", 1),
        ("float32", "4", 1),
        pytest.param("bfloat16, .bin", "8", 1, marks=pytest.mark.exhaustive),
        pytest.param("float32", "16", 1, marks=pytest.mark.exhaustive),
        pytest.param("bfloat16", "fp8", 1, marks=pytest.mark.exhaustive),
        ("bfloat16", "16 streamed", 1),
        ("bfloat16", "16", 2),
    ],
)
def test_loading_needs_the_models_memory_and_no_more_than_a_tenth_beside(models, form, kind, processes):
    toy, load = models("toy"), loading.KINDS[kind]
    objects = loading.measure(toy, toy, load, processes)["peak"]
    for _ in range(3):  # the least counts: a busy machine gives pages back later
        result = loading.measure(models(form), toy, load, processes, objects)
        assert result["peak"] > 0.9 * result["stored"], result
        most = objects + MOST * result["stored"] + processes * NOISE
        if result["peak"] <= most:
            return
    pytest.fail(f"more than {most}: {result}")


@pytest.mark.slow
def test_a_process_of_two_that_split_packed_bytes_takes_less_than_the_whole_model(models):
    toy, load = models("toy"), loading.KINDS["4"]
    whole = loading.measure(models("bfloat16"), toy, load)["stored"]
    objects = loading.measure(toy, toy, load, 2)["peak"]
    result = loading.measure(models("bfloat16"), toy, load, 2, objects)
    assert result["stored"] < 1.2 * whole, result  # of both: two buffers each, of 64 layers, and what isn't split
    assert (result["peak"] - objects) / 2 <= whole, result


@pytest.fixture
def weights(tmp_path):
    """A folder with a file of 4 MiB, and a function that maps it and reads it."""
    save_file({"w": torch.ones(2**20)}, tmp_path / "model.safetensors")

    def mapped():
        with safe_open(tmp_path / "model.safetensors", "pt") as file:
            return file.get_tensor("w")

    return tmp_path, mapped


def test_pages_are_given_back_and_read_again(weights):
    folder, mapped = weights
    pages = FilePages(folder)
    weight = mapped()
    assert weight.sum() == 2**20 and resident(weight) >= 2**22
    pages.drop()
    assert resident(weight) < 2**18
    assert weight.sum() == 2**20


def test_few_pages_stay_unless_all_are_asked_for(weights):
    folder, mapped = weights
    pages = FilePages(folder)
    weight = mapped()
    weight.sum()
    pages.drop(2**40)
    assert resident(weight) >= 2**22
    pages.drop(0)
    assert resident(weight) < 2**18


def test_a_weight_that_was_changed_in_an_earlier_mapping_keeps_its_values(weights):
    folder, mapped = weights
    trained = mapped().fill_(3)
    pages = FilePages(folder)
    weight = mapped()
    weight.sum()
    pages.drop()
    assert trained.sum() == 3 * 2**20 and resident(weight) < 2**18


def resident(tensor) -> int:
    """Resident bytes of the pages that a tensor's mapping has."""
    address, found = tensor.data_ptr(), False
    for line in open("/proc/self/smaps"):
        first = line.split()[0]
        if not first.endswith(":"):
            start, end = (int(part, 16) for part in first.split("-"))
            found = start <= address < end
        elif found and first == "Rss:":
            return int(line.split()[1]) * 1024 // mmap.PAGESIZE * mmap.PAGESIZE
    raise AssertionError("no mapping")
