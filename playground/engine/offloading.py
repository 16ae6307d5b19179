"""Check a full fine-tune with an offloaded optimizer before anything large is loaded, and say what it keeps in RAM."""

from collections.abc import Iterator

import torch
from transformers import PreTrainedConfig

from playground.errors import problem
from playground.memory import constants, main_memory
from playground.model.dtype import compute_dtype
from playground.predict import meta_model
from playground.settings import Settings
from playground.train.offloaded_optimizer import offloaded_bytes, offloads
from playground.train.optimizer import Optimizer


def check_offloading(config: PreTrainedConfig, settings: Settings, device: str) -> None:
    """Raise PlaygroundError for weights in float16, and where main memory is too small for what waits there.

    config: of the model; settings: with the load settings that it is loaded with, of which it has 16 or 32 bits.
    """
    if not offloads(settings.train, device):
        return
    dtype = compute_dtype(settings.load, device)[0]
    if dtype == torch.float16:
        raise problem("error.offload_float16")
    parameters = meta_model.model_facts(config, settings.load, dtype, device).parameters
    need = offloaded_bytes(parameters * dtype.itemsize) + constants.CUDA_PROGRAM_RSS
    room = main_memory.available_main_memory()
    if need > room:
        raise problem("error.offload_main_memory", need_bytes=need, capacity_bytes=room)


def offloading_note(settings: Settings, optimizer: Optimizer) -> Iterator[dict]:
    """What waits in main memory, or that the setting changes nothing on a CPU."""
    size = optimizer.main_memory_bytes()
    if size:
        yield {"kind": "note", "key": "note.offloaded", "values": {"size_bytes": size}}
    elif settings.train.offload_optimizer:
        yield {"kind": "note", "key": "note.offload_cpu", "values": {}}
