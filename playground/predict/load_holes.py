"""Predict whether quantizing on the GPU leaves so many holes in its memory that the model is moved to close them."""

import torch
from transformers import PreTrainedConfig

from playground.memory.release import is_fragmented
from playground.predict.allocator import simulate_released
from playground.predict.lru import LruCache
from playground.predict.meta_model import config_key
from playground.predict.phase_traces import trace_load
from playground.predict.traced_model import Target
from playground.settings import Load, Settings, has_own_layers

MAX_KNOWN = 16

_known: LruCache[int] = LruCache(MAX_KNOWN)


def defragmented_bytes(config: PreTrainedConfig, load: Load, dtype: torch.dtype, device: str) -> int:
    """Bytes that a load moves to main memory and back (memory/release.py, defragment_after_load); 0: it doesn't."""
    if device != "cuda" or load.bits >= 16 or has_own_layers(load):
        return 0

    def compute() -> int:
        traced = trace_load(config, Settings(load=load), Target(device, dtype))
        events = list(traced.trace.events)  # once the model is gone, its weights are freed in the trace
        allocated, reserved = sum(event.change for event in events), simulate_released(events)
        # LLM.int8() leaves more holes than are simulated: of six models on an H200 five were moved, one expected
        return allocated if is_fragmented(allocated, reserved) or load.bits == 8 else 0

    return _known.get_or_compute((config_key(config), load, dtype), compute)
