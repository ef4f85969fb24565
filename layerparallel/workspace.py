"""Memory that sweeps use again from one training step to the next."""

from __future__ import annotations

import torch
from torch import Tensor

# A C library gives freed memory back to the system, and every page of it is faulted in again: for
# states of 3 MiB that took a third of a backward pass. glibc learns from the largest block that was
# freed, up to 32 MiB, to keep as much; elsewhere this does nothing.
torch.empty((32 << 20) - (8 << 10), dtype=torch.uint8)


class Workspace:
    """Large scratch tensors, handed out and given back.

    On a CPU a fresh large tensor costs a page fault for every 4 KiB, which is more than the sweep's
    arithmetic. An accelerator's caching allocator does the same job, so nothing is kept there.

    Args:
        limit: most bytes kept; 0 keeps nothing.
    """

    def __init__(self, limit: int = 0):
        self.limit, self.held = limit, 0
        self._free: dict[tuple[object, ...], list[Tensor]] = {}

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor of this shape, with the dtype and device of `like`."""
        stack = self._free.get((shape, like.dtype))
        if stack and like.device.type == "cpu":
            tensor = stack.pop()
            self.held -= tensor.nbytes
            return tensor
        return torch.empty(shape, dtype=like.dtype, device=like.device)

    def give(self, *tensors: Tensor) -> None:
        """Gives back tensors that nobody else refers to."""
        for tensor in tensors:
            if tensor.device.type != "cpu" or tensor.nbytes > self.limit:
                continue
            if self.held + tensor.nbytes > self.limit:
                self._free.clear()
                self.held = 0
            self._free.setdefault((tuple(tensor.shape), tensor.dtype), []).append(tensor)
            self.held += tensor.nbytes

    def __deepcopy__(self, memo: object) -> Workspace:
        return Workspace(self.limit)

    def __reduce__(self) -> tuple[type[Workspace], tuple[int]]:
        return Workspace, (self.limit,)
