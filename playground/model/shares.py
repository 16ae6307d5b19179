"""A layer's weights split over the processes that train together: each process keeps a share of their bytes.

What FSDP2 does to parameters that are numbers, for what quantization makes of them: packed codes, and their constants.
A quantized weight's bytes are in no order that a matrix could be split by, and nothing computes with a part of them, so
they are split as bytes, and gathered in full before their layer computes (model/streaming.py).
"""

import torch
from torch import Tensor

from playground import compat
from playground.memory.constants import ALIGNMENT


def share_bytes(size: int, processes: int) -> int:
    """Bytes of one process's share of a block, rounded up so that all shares are equal."""
    return -(-size // (ALIGNMENT * processes)) * ALIGNMENT


class Shares:
    """The blocks of streamed layers, of which process `rank` of `processes` keeps its share on its device.

    bytes: of the shares of this process. Layers are added without communication; each is gathered by all processes in
    the same order, as they compute.
    """

    def __init__(self, device: str, rank: int, processes: int):
        self.device, self.rank, self.processes = device, rank, processes
        self.bytes = 0
        self.parts: list[Tensor] = []
        self._scratch = torch.empty(0, dtype=torch.uint8, device=device)

    def block(self, size: int) -> Tensor:
        """A block of that size, rounded up to equal shares; it is the same memory for every layer."""
        whole = share_bytes(size, self.processes) * self.processes
        if self._scratch.numel() < whole:
            self._scratch = torch.empty(whole, dtype=torch.uint8, device=self.device)
        return self._scratch[:whole]

    def keep(self, block: Tensor) -> None:
        """Keep this process's share of the next layer."""
        self.parts.append(block.chunk(self.processes)[self.rank].clone())
        self.bytes += self.parts[-1].numel()

    def copy(self, position: int, target: Tensor) -> None:
        """Gather a layer from all processes, which all have to do now. target: the bytes of its block."""
        compat.gather_shares(target, self.parts[position])

    def close(self) -> None:
        """Give back what layers were written to."""
        self._scratch = self._scratch.new_empty(0)
