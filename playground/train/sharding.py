"""Split a model's frozen weights over several processes, or keep them in main memory, by FSDP2."""

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from playground.train.loss import Loss


def shard_frozen_weights(loss_module: Loss, device: torch.device, processes: int, offload: bool) -> None:
    """Shard the model in place, layer by layer. device: where it computes; offload: shards wait in main memory.

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
    for module in loss_module.modules():
        if isinstance(module, GradientCheckpointingLayer):
            fully_shard(module, **options)
    sharded: Any = fully_shard(loss_module, **options)  # the rest: embedding and head
    # a chunked loss computes the head's gradient in the forward pass already
    sharded.set_unshard_in_backward(not loss_module.chunked)
