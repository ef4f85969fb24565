"""Whether tensors are what they were, and whether two values of a step are the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .state import State, differentiable, versions

ROUNDING = {2: 2e-2, 4: 1e-3, 8: 1e-8}
"""Relative difference up to which values agree that are computed in batches of another size, by the
bytes of a number; of two bytes under autocast, too."""
SAME = {2: 1e-2, 4: 1e-4, 8: 1e-8}
"""The same of a value that is computed twice."""


class Kept:
    """Tensors that a step may not change: as they were, to compare with and to go back to."""

    def __init__(self, tensors: Sequence[Tensor], module: nn.Module | None):
        self.tensors = [(t, _copies(t)) for t in tensors]
        self.versions, self.module = versions(tensors), module
        self.buffers = {name: (b, _copies(b)) for name, b in self._buffers().items()}

    def written(self) -> bool:
        """Whether somebody has written to a parameter, if only what was there."""
        return self.versions != versions([t for t, _ in self.tensors])

    def _buffers(self) -> dict[str, Tensor]:
        return {} if self.module is None else dict(self.module.named_buffers())

    def changed(self) -> str | None:
        """What has changed; it is as before then."""
        now = self._buffers()
        for name, (_, copies) in self.buffers.items():
            if name not in now or not _all_equal(dense_parts(now[name]), copies):
                self._restore()
                return f"its buffer {name}"
        if all(_all_equal(dense_parts(t), copies) for t, copies in self.tensors):
            return None
        self._restore()
        return "a parameter"

    @torch.no_grad()
    def _restore(self) -> None:
        for name, (buffer, copies) in self.buffers.items():
            _copy_back(buffer, copies)
            assert self.module is not None
            place, _, leaf = name.rpartition(".")
            self.module.get_submodule(place)._buffers[leaf] = buffer
        for t, copies in self.tensors:
            _copy_back(t, copies)


def dense_parts(t: Tensor) -> list[Tensor]:
    """What a tensor is made of: indices and values of a sparse one, the numbers of a quantised one."""
    t = t.detach()
    if t.is_nested:
        return list(t.unbind())
    if t.layout == torch.sparse_coo:
        return [t._indices(), t._values()]
    if t.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [t.crow_indices(), t.col_indices(), t.values()]
    if t.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [t.ccol_indices(), t.row_indices(), t.values()]
    if t.layout != torch.strided:
        return [t.to_dense()]
    return [t.int_repr() if t.is_quantized else t]


def _copies(t: Tensor) -> list[Tensor]:
    return [part.clone() for part in dense_parts(t)]


def _copy_back(t: Tensor, copies: list[Tensor]) -> None:
    for part, copy in zip(dense_parts(t), copies, strict=True):
        if part.shape == copy.shape:
            part.copy_(copy)


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same number by number; NaN is like NaN."""
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    return _all_equal(dense_parts(a), dense_parts(b))


def _all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(_equal, a, b))


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    same = a == b
    if differentiable(a):
        same |= (a != a) & (b != b)
    return bool(same.all())


def same(a: State, b: State, repeated: bool = False) -> bool:
    """Whether two values of a step are equal but for rounding.

    Args:
        repeated: they were computed in the same way.
    """
    return all(_close(x.detach(), y.detach(), repeated) for x, y in zip(a, b, strict=True))


def _close(x: Tensor, y: Tensor, repeated: bool) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    finite = torch.isfinite(x)
    if not x.numel() or not torch.equal(finite, torch.isfinite(y)):
        return not x.numel()
    x, y = x[finite], y[finite]
    size = x.element_size() // (2 if x.is_complex() else 1)
    if not repeated and torch.is_autocast_enabled(x.device.type):
        size = 2
    bound = (SAME if repeated else ROUNDING).get(size, ROUNDING[2])
    largest = float(x.abs().amax()) if x.numel() else 0.0
    return torch.allclose(x, y, rtol=bound, atol=bound * largest)
