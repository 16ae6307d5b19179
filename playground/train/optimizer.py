"""AdamW over the trained parameters (Loshchilov & Hutter 2019, arXiv 1711.05101), in variants that use less memory.

Adapters compute in the model's own type, while the optimizer keeps float32 copies of them (Micikevicius et al. 2018,
arXiv 1710.03740): small updates aren't lost to rounding, and adapters are small enough for that to cost next to
nothing. A full fine-tune has no copies: there the optimizer's state is most of the memory, and `kind` says how it is
kept.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from playground import compat
from playground.errors import problem

MAX_GRAD_NORM = 1.0  # gradients are clipped to this norm


class Optimizer:
    """Collects gradients over several backward passes; one step clips them, updates the parameters and drops them.

    named: trained parameters by name. kind: "adamw", "adamw8bit", "paged_adamw" or "paged_adamw8bit" (all but the first
    need CUDA). copies: for parameters that aren't float32, keep float32 copies and sum gradients there. ratio: learning
    rate of B matrices, as a multiple of A's (LoRA+: Hayou et al. 2024, arXiv 2402.12354). skipped: steps that changed
    nothing, since their gradients were too large for float16.
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], kind: str = "adamw", copies: bool = True, ratio: float = 1.0
    ):
        named, self.kind = list(named), kind
        self.parameters: list[Tensor] = [parameter for _, parameter in named]
        self._has_copies = copies and any(p.dtype != torch.float32 for p in self.parameters)
        self.copies = self.parameters
        if self._has_copies:
            self.copies = [p.detach().float().clone().requires_grad_() for p in self.parameters]
        groups: list[dict[str, Any]] = [{"params": [], "ratio": 1.0}, {"params": [], "ratio": ratio}]
        for (name, _), copy in zip(named, self.copies):
            groups["lora_B" in name]["params"].append(copy)
        device = self.parameters[0].device.type
        self.inner = _adamw(kind, [group for group in groups if group["params"]], device)
        half = any(p.dtype == torch.float16 for p in self.parameters)
        self.scaler = torch.amp.GradScaler(device, enabled=half)
        self.skipped = 0

    def backward(self, loss: Tensor) -> None:
        """Compute the loss's gradients and add them to those of this step so far."""
        self.scaler.scale(loss).backward()
        if self._has_copies:
            self._move_gradients()

    def _move_gradients(self) -> None:
        """Add the parameters' gradients to their copies' and drop them."""
        pairs = [
            (copy, parameter) for copy, parameter in zip(self.copies, self.parameters) if parameter.grad is not None
        ]
        without = [copy for copy, _ in pairs if copy.grad is None]
        for copy in without:
            copy.grad = torch.empty_like(copy)
        all_new = len(without) == len(pairs)
        if without and not all_new:  # some parameters have their first gradient only now
            compat.foreach_zero([copy.grad for copy in without])
        gather = compat.foreach_copy if all_new else compat.foreach_add
        gather([copy.grad for copy, _ in pairs], [parameter.grad for _, parameter in pairs])
        for _, parameter in pairs:
            parameter.grad = None

    def pending_bytes(self, multiplicity: Callable[[Tensor], int] = lambda tensor: 1) -> int:
        """Bytes on the device that the first step will still allocate: gradients and moments.

        multiplicity: as in `memory_policy.choose_plan`.
        """
        return sum(
            multiplicity(parameter) * (self.moment_bytes(copy) + (0 if copy.grad is not None else copy.nbytes))
            for parameter, copy in zip(self.parameters, self.copies)
        )

    def copied_bytes(self, multiplicity: Callable[[Tensor], int] = lambda tensor: 1) -> int:
        """Bytes of the float32 copies, which are there from the beginning. multiplicity: as of `pending_bytes`."""
        pairs = zip(self.parameters, self.copies) if self._has_copies else ()
        return sum(multiplicity(parameter) * copy.nbytes for parameter, copy in pairs)

    def moment_bytes(self, copy: Tensor) -> int:
        """Bytes on the device of the two running averages of one tensor; paged ones are in main memory.

        bitsandbytes keeps 8 bits and a float32 scale for each 256 of them, and tensors of less than 4,096 numbers in
        float32 (its `block_wise` and `min_8bit_size`).
        """
        if self.kind == "adamw":
            return 2 * copy.nbytes
        if self.kind == "adamw8bit":
            return 2 * (copy.numel() * 4 if copy.numel() < 4096 else copy.numel() + 4 * -(-copy.numel() // 256))
        return 0

    def update_buffers(self) -> list[Tensor]:
        """Buffers on the device that `step` makes for itself: none."""
        return []

    def main_memory_bytes(self, multiplicity: Callable[[Tensor], int] = lambda tensor: 1) -> int:
        """Bytes of a GPU's gradients and optimizer state that wait in main memory; none. multiplicity: as above."""
        return 0

    def gradients(self) -> list[Tensor]:
        """This step's gradients so far."""
        return [copy.grad for copy in self.copies if copy.grad is not None]

    def drop_gradients(self) -> None:
        """Drop this step's gradients."""
        for parameter in (*self.copies, *self.parameters):
            parameter.grad = None

    def step(self, lr: float) -> None:
        """Clip the gradients, update the parameters, and drop the gradients."""
        for group in self.inner.param_groups:
            group["lr"] = lr * group["ratio"]
        self.scaler.unscale_(self.inner)
        torch.nn.utils.clip_grad_norm_(self.copies, MAX_GRAD_NORM)
        scale = self.scaler.get_scale()
        self.scaler.step(self.inner)
        self.scaler.update()
        self.skipped += self.scaler.get_scale() < scale
        self.drop_gradients()
        if self._has_copies:
            with torch.no_grad():
                compat.foreach_copy(self.parameters, self.copies)

    def is_finite(self) -> bool:
        """Whether all trained parameters are numbers."""
        return all(bool(torch.isfinite(copy).all()) for copy in self.copies)

    def state(self) -> dict:
        """Everything that `load_state` needs to continue exactly from here."""
        return {
            "copies": [copy.detach().cpu() for copy in self.copies],
            "inner": self.inner.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: dict) -> None:
        """Continue from a `state` of the same parameters. Raises ValueError if they differ."""
        self.load_copies(state["copies"])
        self.inner.load_state_dict(state["inner"])
        self.scaler.load_state_dict(state["scaler"])

    def load_copies(self, saved_copies: Sequence[Tensor]) -> None:
        """Take over the trained parameters from `copies` of the same ones. Raises ValueError if they differ."""
        if [copy.shape for copy in self.copies] != [copy.shape for copy in saved_copies]:
            raise ValueError("other parameters")
        with torch.no_grad():
            for copy, parameter, saved in zip(self.copies, self.parameters, saved_copies):
                copy.copy_(saved)
                parameter.copy_(copy)


def _adamw(kind: str, groups: list[dict], device: str) -> torch.optim.Optimizer:
    if device == "meta":  # only gradients are made there; `pending_bytes` counts the rest
        return torch.optim.AdamW(groups, weight_decay=0.0)
    if kind == "adamw":
        return torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    if device != "cuda":
        raise problem("error.optimizer_needs_cuda", optimizer=kind)
    import bitsandbytes.optim

    classes = {
        "adamw8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw": bitsandbytes.optim.PagedAdamW32bit,
        "paged_adamw8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    return classes[kind](groups, weight_decay=0.0)
