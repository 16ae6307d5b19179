"""AdamW over what is trained (Loshchilov & Hutter 2019, arXiv 1711.05101), in the forms that memory asks for.

Adapters compute in the model's own type, while the optimizer keeps float32 copies of them (Micikevicius et al. 2018,
arXiv 1710.03740): small updates aren't lost to rounding, and adapters are small enough for that to cost next to nothing.
A full fine-tune has no copies: there the optimizer's state is most of the memory, and `kind` says how it is kept.
"""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from playground.errors import problem

LARGEST_NORM = 1.0
KINDS = ("adamw", "adamw8bit", "paged_adamw", "paged_adamw8bit")


class Optimizer:
    """Gradients are gathered after every backward pass, then one step clips, updates and forgets them.

    named: what is trained. copies: of what isn't float32, keep copies that are and sum gradients there. ratio: B matrices learn that many times
    as fast as A (LoRA+: Hayou et al. 2024, arXiv 2402.12354).
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], kind: str = "adamw", copies: bool = True, ratio: float = 1.0
    ):
        named, self.kind = list(named), kind
        self.parameters = [parameter for _, parameter in named]
        self._copied = copies and any(p.dtype != torch.float32 for p in self.parameters)
        self.copies = (
            [p.detach().float().clone().requires_grad_() for p in self.parameters] if self._copied else self.parameters
        )
        groups = [{"params": [], "ratio": 1.0}, {"params": [], "ratio": ratio}]
        for (name, _), copy in zip(named, self.copies):
            groups["lora_B" in name]["params"].append(copy)
        self.inner = _adamw(kind, [group for group in groups if group["params"]], self.parameters[0].device.type)
        half = any(p.dtype == torch.float16 for p in self.parameters)
        self.scaler = torch.amp.GradScaler(self.parameters[0].device.type, enabled=half)

    def backward(self, loss: torch.Tensor) -> None:
        """The loss's gradients, added to those of this step so far."""
        self.scaler.scale(loss).backward()
        if self._copied:
            pairs = [
                (copy, parameter) for copy, parameter in zip(self.copies, self.parameters) if parameter.grad is not None
            ]
            new = [copy for copy, _ in pairs if copy.grad is None]
            for copy in new:
                copy.grad = torch.empty_like(copy)
            gather = torch._foreach_copy_ if len(new) == len(pairs) else torch._foreach_add_
            if new and len(new) < len(pairs):  # some have learned nothing so far
                torch._foreach_zero_([copy.grad for copy in new])
            gather([copy.grad for copy, _ in pairs], [parameter.grad for _, parameter in pairs])
            for _, parameter in pairs:
                parameter.grad = None

    def pending_bytes(self, multiplicity: Callable = lambda tensor: 1) -> int:
        """Bytes on the device that the first step will add: gradients, and what `averages` says. times: as of plan.py."""
        return sum(
            multiplicity(p) * (self.moment_bytes(c) + (0 if c.grad is not None else c.nbytes))
            for p, c in zip(self.parameters, self.copies)
        )

    def moment_bytes(self, copy: torch.Tensor) -> int:
        """Bytes of the two running averages of one tensor; paged ones are in main memory.

        bitsandbytes keeps 8 bits and a float32 scale for each 256 of them, and tensors of less than 4,096 numbers in
        float32 (its `block_wise` and `min_8bit_size`).
        """
        if self.kind == "adamw":
            return 2 * copy.nbytes
        if self.kind == "adamw8bit":
            return 2 * (copy.numel() * 4 if copy.numel() < 4096 else copy.numel() + 4 * -(-copy.numel() // 256))
        return 0

    def gradients(self) -> list[torch.Tensor]:
        """This step's gradients so far."""
        return [copy.grad for copy in self.copies if copy.grad is not None]

    def drop_gradients(self) -> None:
        """Drop this step's gradients."""
        for parameter in (*self.copies, *self.parameters):
            parameter.grad = None

    def step(self, lr: float) -> None:
        """Clip, update, write the copies back into the model, and forget the gradients."""
        for group in self.inner.param_groups:
            group["lr"] = lr * group["ratio"]
        self.scaler.unscale_(self.inner)
        torch.nn.utils.clip_grad_norm_(self.copies, LARGEST_NORM)
        self.scaler.step(self.inner)
        self.scaler.update()
        self.drop_gradients()
        if self._copied:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.copies)

    def state(self) -> dict:
        """Everything that a later `load_state` needs to go on exactly from here."""
        return {
            "copies": [c.detach().cpu() for c in self.copies],
            "inner": self.inner.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: dict) -> None:
        """Go on from a `state` of the same parameters. Raises ValueError if they differ."""
        if [c.shape for c in self.copies] != [c.shape for c in state["copies"]]:
            raise ValueError("other parameters")
        with torch.no_grad():
            for copy, parameter, saved in zip(self.copies, self.parameters, state["copies"]):
                copy.copy_(saved)
                parameter.copy_(copy)
        self.inner.load_state_dict(state["inner"])
        self.scaler.load_state_dict(state["scaler"])


def _adamw(kind: str, groups: list[dict], device: str) -> torch.optim.Optimizer:
    if device == "meta":  # only gradients are made there; `to_come` counts the rest
        return torch.optim.AdamW(groups, weight_decay=0.0)
    if kind == "adamw":
        return torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    if device != "cuda":
        raise problem("error.optimizer_needs_cuda", optimizer=kind)
    import bitsandbytes.optim

    made = {
        "adamw8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw": bitsandbytes.optim.PagedAdamW32bit,
        "paged_adamw8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    return made[kind](groups, weight_decay=0.0)
