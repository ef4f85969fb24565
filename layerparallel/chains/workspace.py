"""Memory that sweeps use again from one training step to the next."""

from __future__ import annotations

import ctypes
import os

import torch
from torch import Tensor

KEPT = 1 << 30
"""Bytes of freed memory that a process keeps."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def _keep_freed() -> None:
    """Has glibc keep what is freed, unless the environment says how much.

    It gives memory back to the system, and in the next step every page is faulted in again: with states
    of 1 MiB that took 80 of 300 ms. Blocks of more than 32 MiB go back in any case.
    """
    glibc = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
    if glibc and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(_TRIM_THRESHOLD, KEPT)


_keep_freed()


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
