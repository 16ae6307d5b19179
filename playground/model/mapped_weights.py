"""A model's matrices that wait in its files: mapped into memory, in the files' type, until something needs them.

So a model that is quantized layer by layer, or split over processes, is never in memory as a whole in another form.
A parameter that waits has the type that it will be read as in `read_as`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from playground import compat


def mark_waiting(model: Any, dtype: torch.dtype) -> None:
    """Let the matrices of a model that was read within `compat.matrices_as_stored(dtype)` wait."""
    kept = compat.kept_in_float32(model, dtype)
    for name, parameter in model.named_parameters():
        if compat.is_matrix(parameter) and name not in kept:
            parameter.read_as = dtype


def waiting_dtype(parameter: Tensor) -> torch.dtype | None:
    """The dtype that a parameter will be read as; None for one that doesn't wait."""
    return getattr(parameter, "read_as", None)


def read(module: nn.Module) -> None:
    """Read a module's waiting matrices: those of another type than their file's get memory, the others stay mapped."""
    parameter: Any
    for parameter in module.parameters():
        if dtype := waiting_dtype(parameter):
            parameter.data = parameter.data.to(dtype)
            del parameter.read_as


def read_rows(parameters: Iterable[Any], device: torch.device, rank: int, processes: int) -> None:
    """Read the rows of waiting matrices that FSDP2 leaves with process `rank`; what the other rows hold is undefined.

    torch.empty's memory is not resident before something is written there, so the others' rows take none.
    """
    for parameter in parameters:
        if dtype := waiting_dtype(parameter):
            rows = torch.empty(parameter.shape, dtype=dtype, device=device)
            chunks = list(zip(rows.chunk(processes), parameter.data.chunk(processes), strict=True))
            for own, stored in chunks[rank : rank + 1]:  # none where there are fewer rows than processes
                own.copy_(stored)
            parameter.data = rows
            del parameter.read_as
