"""What a model would run on here, found without importing torch: the GPUs that the engine sees, or the processor.

An entry of CUDA_VISIBLE_DEVICES is a GPU's number, the beginning of its UUID, or that of a MIG device. One that denotes
no GPU hides itself and all after it, and a GPU that is named twice hides all:
https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
Numbers are those of nvidia-smi, as with CUDA_DEVICE_ORDER=PCI_BUS_ID; by default CUDA begins with the fastest GPU.
"""

import os
import re
import subprocess
from functools import cache
from typing import Any

from playground.catalog.cards import ZERO_GPU, is_zero_gpu
from playground.memory import meter
from playground.settings.limits import cpu_processes

VARIABLE = "CUDA_VISIBLE_DEVICES"
OF_ENGINE = "PLAYGROUND_VISIBLE_DEVICES"  # the variable as the engine has it, for processes that see no GPU themselves
EVERY = "all"  # of OF_ENGINE, where the engine has no such variable
FIELDS = "uuid,name,memory.total,memory.reserved"
LISTED = re.compile(r"GPU \d+: (?P<gpu>.+) \(UUID: |\s+(?P<mig>MIG \S+)\s.*\(UUID: (?P<uuid>MIG-[^)]+)\)")
MIG_GB = re.compile(r"(\d+)gb")  # in the name of a MIG device: its memory, rounded
SECONDS = 10  # for an answer of nvidia-smi


@cache
def this_machine() -> dict:
    """What a model would run on here: {"device": "cuda" or "cpu", "name", "bytes"}."""
    if is_zero_gpu():
        return dict(ZERO_GPU)
    for gpu in visible_gpus()[:1]:
        if gpu["bytes"]:
            return {"device": "cuda", "name": gpu["name"], "bytes": gpu["bytes"]}
    machine = meter.hardware("cpu")
    return {"device": "cpu", "name": machine["name"], "bytes": machine["capacity"]}


@cache
def usable_processes() -> int:
    """How many processes can fine-tune together here, one a GPU; at least 1.

    Without a GPU as many as the variable PLAYGROUND_CPU_PROCESSES allows.
    """
    machine = this_machine()
    if machine["device"] == "cpu" or is_zero_gpu():
        return cpu_processes()
    return max(1, len(visible_gpus()))


def hide_gpus() -> dict[str, str]:
    """Variables for a process that must see no GPU, and yet plans for those of the engine."""
    return {VARIABLE: "", OF_ENGINE: _chosen()}


def visible_gpus() -> list[dict[str, Any]]:
    """The engine's GPUs in its order: [{"uuid", "name", "bytes"}]; none without NVIDIA's driver.

    bytes: what programs can have; 0 where the driver doesn't say.
    """
    names = [name.strip() for name in _chosen().split(",")]
    if names == [EVERY]:
        return _gpus()
    if names[0] in ("", "-1"):  # so people hide all: needs no answer of the driver
        return []
    gpus, migs = _gpus(), _mig_devices() if any(name.startswith("MIG-") for name in names) else []
    visible: list[dict[str, Any]] = []
    for name in names:
        found = _called(name, gpus, migs)
        if found is None:
            break
        if found in visible:
            return []
        visible.append(found)
    return visible


def _chosen() -> str:
    return os.environ.get(OF_ENGINE, os.environ.get(VARIABLE, EVERY))


def _called(name: str, gpus: list[dict[str, Any]], migs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The one device of an entry of the variable, or None."""
    number = re.match(r"\+?\d+", name)  # what follows a number is ignored
    if number:
        return gpus[int(number[0])] if int(number[0]) < len(gpus) else None
    found = [one for one in (*gpus, *migs) if name.startswith(("GPU-", "MIG-")) and one["uuid"].startswith(name)]
    return found[0] if len(found) == 1 else None


def _gpus() -> list[dict[str, Any]]:
    gpus = []
    for line in _nvidia_smi(f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits").splitlines():
        uuid, *further = (part.strip() for part in line.split(","))
        if uuid.startswith("GPU-") and len(further) == FIELDS.count(","):
            name, *sizes = further
            total, reserved = (int(size) if size.isdigit() else 0 for size in sizes)
            gpus.append({"uuid": uuid, "name": name, "bytes": max(0, total - reserved) * 2**20})
    return gpus


def _mig_devices() -> list[dict[str, Any]]:
    """Parts of GPUs, under the names that CUDA has for them."""
    devices, gpu = [], ""
    for line in map(LISTED.match, _nvidia_smi("--list-gpus").splitlines()):
        gpu = line["gpu"] or gpu if line else gpu
        if line and line["mig"]:
            size = MIG_GB.search(line["mig"])
            name = f"{gpu} {line['mig']}"
            devices.append({"uuid": line["uuid"], "name": name, "bytes": int(size[1]) * 10**9 if size else 0})
    return devices


def _nvidia_smi(*options: str) -> str:
    try:
        return subprocess.run(["nvidia-smi", *options], capture_output=True, text=True, timeout=SECONDS).stdout
    except (OSError, subprocess.SubprocessError, ValueError):  # no NVIDIA card, or no driver for it
        return ""
