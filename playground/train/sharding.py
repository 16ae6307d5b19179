"""Split a model's frozen weights over several processes, or keep them in main memory, by FSDP2."""

from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from playground.memory.file_pages import FilePages
from playground.memory.release import mmap_large_blocks
from playground.model.mapped_weights import read_rows
from playground.train.loss import Loss


def shard_frozen_weights(
    loss_module: Loss, device: torch.device, processes: int, offload: bool, pages: FilePages | None
) -> None:
    """Shard the model in place, layer by layer. device: where it computes; offload: shards wait in main memory.

    pages: of the files that matrices wait in, if they do: each process reads its rows alone, layer by layer. A loss
    that was made without trying whether it can be chunked tries it now.

    A layer's weights are gathered right before it computes, forward and backward, and freed after it. What is trained,
    and vectors (norms, biases), which are small, stay whole on the computing device.

    By torch's own function instead of `accelerator.prepare`, which wants an optimizer along with the model, turns what
    is trained into float32, and would shard the adapters too: one more gathering for some kilobytes a layer.
    """
    whole = {p for name, p in loss_module.named_parameters() if p.requires_grad or p.ndim < 2 or "lora_" in name}
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (processes,)),
        "ignored_params": whole,
        "reshard_after_forward": True,
        "offload_policy": CPUOffloadPolicy(pin_memory=device.type == "cuda") if offload else OffloadPolicy(),
    }
    layers = [module for module in loss_module.modules() if isinstance(module, GradientCheckpointingLayer)]
    with mmap_large_blocks():
        for module in [*layers, loss_module]:  # the last: embedding and head
            frozen = (parameter for parameter in module.parameters() if parameter not in whole)
            read_rows(frozen, device, distributed.get_rank(), processes)
            sharded: Any = fully_shard(module, **options)
            if pages:
                pages.drop()
        if not loss_module.tried:
            loss_module.try_chunking()
    # a chunked loss computes the head's gradient in the forward pass already
    sharded.set_unshard_in_backward(not loss_module.chunked)
