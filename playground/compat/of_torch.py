"""torch's private and fragile APIs: storages, operators, kernels, and what CUDA's allocator remembers."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any


def storage_id(tensor: Any) -> int:
    """The identity of a tensor's storage, equal for views of one storage; meta tensors have one too."""
    return tensor.untyped_storage()._cdata


def viewed_tensor(tensor: Any) -> Any:
    """The tensor that a view was made from; the tensor itself if it is no view."""
    return tensor._base if tensor._is_view() else tensor


def local_shard(tensor: Any) -> Any:
    """This process's shard of a weight that FSDP2 splits; any other tensor as it is."""
    return getattr(tensor, "_local_tensor", tensor)


def gather_shares(whole: Any, share: Any) -> None:
    """Gather the equal shares of all processes, in order, into `whole`; on a GPU on its current stream.

    torch 2.13 has it under a new name, and warns of the old one.
    """
    from torch import distributed

    gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    gather(whole, share)


_kernel_observer: Callable[[str, float, float], None] | None = None


def observe_meta_kernels(observer: Callable[[str, float, float], None] | None) -> None:
    """Set what counts kernels that are no operator on the meta device (`count_meta_kernel`); None: nothing does."""
    global _kernel_observer
    _kernel_observer = observer


def count_meta_kernel(kind: str, operations: float, size: float) -> None:
    """Tell the observer of a kernel of this program that is called on the meta device, where only its results are made.

    kind, operations, size (bytes): as in predict/operations.py.
    """
    if _kernel_observer:
        _kernel_observer(kind, operations, size)


def clear_cublas_workspaces() -> None:
    """Free cuBLAS' workspaces, which torch allocates at the first product: 96 MiB on an H100."""
    import torch

    torch._C._cuda_clearCublasWorkspaces()


def dispatch_mode() -> type:
    """The class whose `__torch_dispatch__` sees every operator call within its context."""
    from torch.utils._python_dispatch import TorchDispatchMode

    return TorchDispatchMode


def operator_name(operator: Any) -> str:
    """An operator's qualified name without its overload, such as "aten::mm"."""
    return operator._schema.name


def operator_arguments(operator: Any) -> tuple[list[Any], list[Any]]:
    """The arguments and returns of an operator's schema; `alias_info` is None unless one is a view or written to."""
    return operator._schema.arguments, operator._schema.returns


def reads_a_number(operator: Any) -> bool:
    """Whether an operator reads a tensor's value into Python (`item()`), which a meta tensor doesn't have."""
    import torch

    return operator is torch.ops.aten._local_scalar_dense.default


def in_backward_pass() -> bool:
    """Whether autograd is computing gradients in this thread now."""
    import torch

    return torch._C._current_graph_task_id() != -1


def in_recomputation() -> bool:
    """Whether a checkpointed layer is being computed again: in a backward pass, under checkpoint's hooks."""
    import torch

    return in_backward_pass() and torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def leave_out_cudnn_attention() -> None:
    """Have scaled_dot_product_attention take torch's own kernels only: flash, memory-efficient, or plain products.

    cuDNN's, which it prefers on Hopper and later GPUs, is planned anew for every length, in 40 to 70 ms: for each token
    of an answer, since the text before it is one longer than before the last (tests/bench/attention_gpu.py).
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def flash_attention(*args: Any, **options: Any) -> Any:
    """The operator behind scaled_dot_product_attention where CUDA takes the flash kernel; returns its output."""
    import torch

    return torch.ops.aten._scaled_dot_product_flash_attention(*args, **options)[0]


def efficient_attention(*args: Any, **options: Any) -> Any:
    """The operator behind scaled_dot_product_attention where CUDA takes the memory-efficient kernel: its output."""
    import torch

    return torch.ops.aten._scaled_dot_product_efficient_attention(*args, **options)[0]


def allow_autocast_on_meta() -> None:
    """Let library code enter or leave autocast for tensors on the meta device, which torch doesn't know for that."""
    import torch

    own = torch.autocast.__init__
    if not hasattr(own, "__wrapped__"):

        @functools.wraps(own)
        def init(self: Any, device_type: str, *args: Any, **options: Any) -> None:
            own(self, "cpu" if device_type == "meta" else device_type, *args, **options)

        torch.autocast.__init__ = init  # type: ignore[method-assign]


def safe_softmax(scores: Any, dim: int) -> Any:
    """Softmax that gives zeros, not NaN, for rows that are masked entirely."""
    import torch

    return torch._safe_softmax(scores, dim)


def foreach_copy(targets: list[Any], sources: list[Any]) -> None:
    """Copy each source into its target with few kernel launches."""
    import torch

    torch._foreach_copy_(targets, sources)


def foreach_add(targets: list[Any], sources: list[Any]) -> None:
    """Add each source to its target with few kernel launches."""
    import torch

    torch._foreach_add_(targets, sources)


def foreach_zero(targets: list[Any]) -> None:
    """Fill each tensor with zeros with few kernel launches."""
    import torch

    torch._foreach_zero_(targets)


def fused_adamw(parameter: Any, gradient: Any, moments: list[Any], steps: int, group: dict[str, Any]) -> None:
    """One step of torch.optim.AdamW(fused=True) on a tensor, in place.

    moments: both, of its shape; steps: how many there were; group: one of that optimizer's `param_groups`.
    """
    import torch
    from torch.optim.adamw import adamw

    adamw(
        [parameter],
        [gradient],
        [moments[0]],
        [moments[1]],
        [],
        [torch.full((), float(steps), device=parameter.device)],
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def own_tensors(module: Any) -> Iterator[tuple[str, Any]]:
    """(name, parameter or buffer) that a module itself registers; None where one is registered without a value."""
    yield from module._parameters.items()
    yield from module._buffers.items()


def varlen_attention() -> tuple[Callable | None, bool]:
    """torch.nn.attention.varlen's function (torch ≥ 2.10), and whether grouped heads need a flag (≥ 2.12)."""
    import inspect

    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None, False
    return varlen_attn, "enable_gqa" in inspect.signature(varlen_attn).parameters


def record_cuda_memory(max_entries: int) -> None:
    """Have torch's CUDA allocator keep its last allocations and frees, with the Python code that caused them."""
    import torch

    torch.cuda.memory._record_memory_history(max_entries=max_entries, stacks="python")


def keeps_cuda_memory() -> bool:
    """Whether the allocator keeps its allocations and frees now."""
    import torch

    return torch._C._cuda_isHistoryEnabled()


def cuda_memory_snapshot() -> dict[str, Any]:
    """What the allocator has kept, and all that it holds now; frames of the Python code may be shared."""
    import torch

    return torch.cuda.memory._snapshot()


def forget_cuda_memory() -> None:
    """Have the allocator keep nothing any more."""
    import torch

    torch.cuda.memory._record_memory_history(enabled=None)


def page_lock(block: Any) -> bool:
    """Lock a tensor's main memory, so that the GPU copies from it by itself; False where the system has no more."""
    import torch

    if int(torch.cuda.cudart().cudaHostRegister(block.data_ptr(), block.numel() * block.itemsize, 0)) == 0:
        return True
    with contextlib.suppress(RuntimeError):  # the driver reports the error once more, with whatever is next
        torch.zeros(1, device="cuda")
    return False


def page_unlock(block: Any) -> None:
    """Undo `page_lock`."""
    import torch

    torch.cuda.cudart().cudaHostUnregister(block.data_ptr())
