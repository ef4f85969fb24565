"""How the states of several intervals lie in one tensor, to be convolved together or in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .workspace import Workspace

Mask = tuple[bool, bool, bool]


class Layout(Protocol):
    """How the states of several intervals lie in one tensor, and how they are convolved.

    Weights are (layers, C, C, k, k), with as many layers as intervals, or s times as many: then the
    s layers of an interval all act on its state, and the result has ``intervals * s`` intervals.
    """

    axis: int
    """The dimension that the intervals are in, together with the channels or alone."""

    def fold(self, u: Tensor) -> Tensor:
        """From an array of states (intervals, samples, C, H, W)."""
        ...

    def unfold(self, x: Tensor, count: int) -> Tensor:
        """To an array of states, a view."""
        ...

    def room(self, workspace: Workspace, like: Tensor, length: int, count: int) -> Tensor:
        """Memory for `length` positions of `count` intervals; like: an array of states."""
        ...

    def places(self, room: Tensor) -> list[Tensor]:
        """The positions of a room."""
        ...

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, count: int) -> Tensor:
        """Convolutions of the states of `count` intervals."""
        ...

    def pull(self, p: Tensor, x: Tensor, weight: Tensor, count: int, mask: Mask) -> list[Tensor]:
        """Gradients of `convolve` in x, weight and bias, where the mask is on."""
        ...


class Grouped:
    """(samples, intervals * C, height, width), channels last: the intervals are groups."""

    axis = 1

    def fold(self, u: Tensor) -> Tensor:
        folded = u.transpose(0, 1).flatten(1, 2)
        return folded.contiguous(memory_format=torch.channels_last)

    def unfold(self, x: Tensor, count: int) -> Tensor:
        return x.unflatten(1, (count, -1)).transpose(0, 1)

    def room(self, workspace: Workspace, like: Tensor, length: int, count: int) -> Tensor:
        _, samples, channels, height, width = like.shape
        return workspace.take((length, samples, height, width, count * channels), like)

    def places(self, room: Tensor) -> list[Tensor]:
        return [place.permute(0, 3, 1, 2) for place in room.unbind(0)]

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, count: int) -> Tensor:
        padding = weight.shape[-1] // 2
        flat = None if bias is None else bias.flatten()
        z = functional.conv2d(x, weight.flatten(0, 1), flat, padding=padding, groups=count)
        return z.contiguous(memory_format=torch.channels_last)

    def pull(self, p: Tensor, x: Tensor, weight: Tensor, count: int, mask: Mask) -> list[Tensor]:
        found = _backward(p, x, weight.flatten(0, 1), count, mask)
        if mask[1]:
            found[1] = found[1].view(weight.shape)
            found[2] = found[2].view(weight.shape[:2])
        return found


class Looped:
    """(intervals, samples, C, height, width), one after the other.

    Args:
        last: whether channels are last in memory.
    """

    axis = 0

    def __init__(self, last: bool):
        self.last = last

    def fold(self, u: Tensor) -> Tensor:
        return u.movedim(2, -1).contiguous().movedim(-1, 2) if self.last else u.contiguous()

    def unfold(self, x: Tensor, count: int) -> Tensor:
        return x

    def room(self, workspace: Workspace, like: Tensor, length: int, count: int) -> Tensor:
        _, samples, channels, *size = like.shape
        order = (*size, channels) if self.last else (channels, *size)
        return workspace.take((length, count, samples, *order), like)

    def places(self, room: Tensor) -> list[Tensor]:
        return [place.movedim(-1, 2) if self.last else place for place in room.unbind(0)]

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, count: int) -> Tensor:
        padding, each = weight.shape[-1] // 2, weight.shape[0] // count
        return self._states(
            [
                functional.conv2d(x[n // each], w, None if bias is None else bias[n], padding=padding)
                for n, w in enumerate(weight)
            ]
        )

    def pull(self, p: Tensor, x: Tensor, weight: Tensor, count: int, mask: Mask) -> list[Tensor]:
        each = weight.shape[0] // count
        found = [_backward(p[n], x[n // each], w, 1, mask) for n, w in enumerate(weight)]
        rows, *others = zip(*found, strict=True)
        states = self._states(rows)
        states = states.unflatten(0, (count, each)).sum(1) if each > 1 else states
        return [states, *(_stacked(parts) if mask[1] else p for parts in others)]

    def _states(self, parts: Sequence[Tensor]) -> Tensor:
        if not self.last or len(parts) == 1:
            return _stacked(parts)
        return torch.stack([part.movedim(1, -1) for part in parts]).movedim(-1, 2)


GROUPED = Grouped()


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """One after the other along a new dimension; a view where there is one."""
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(list(parts))


def _split(layout: Layout, x: Tensor, count: int, each: int) -> tuple[Tensor, int]:
    """A view with a dimension of its own for the s layers of an interval, and which one it is."""
    if layout.axis == 1:
        return x.unflatten(1, (count, each, -1)), 2
    return x.unflatten(0, (count, each)), 1


def _merged(layout: Layout, x: Tensor) -> Tensor:
    """The inverse of `_split`, contiguous as the layout wants it."""
    if layout.axis == 1:
        return x.flatten(1, 3).contiguous(memory_format=torch.channels_last)
    return layout.fold(x.flatten(0, 1))


def spread(layout: Layout, x: Tensor, count: int, each: int) -> Tensor:
    """Every interval's state s times."""
    wide, axis = _split(layout, x, count, 1)
    shape = [-1] * wide.dim()
    shape[axis] = each
    return _merged(layout, wide.expand(shape))


def gathered(layout: Layout, x: Tensor, count: int, each: int) -> Tensor:
    """Sums over the s layers of every interval."""
    wide, axis = _split(layout, x, count, each)
    return _merged(layout, wide.sum(axis, keepdim=True))


def mixed(layout: Layout, x: Tensor, count: int, mixing: Tensor) -> Tensor:
    """The matrix `mixing` (s, s) applied to the s layers of every interval."""
    wide, axis = _split(layout, x, count, mixing.shape[0])
    return _merged(layout, torch.tensordot(mixing, wide, dims=([1], [axis])).movedim(0, axis))  # type: ignore[arg-type]


def _backward(p: Tensor, x: Tensor, weight: Tensor, groups: int, mask: Mask) -> list[Tensor]:
    padding = weight.shape[-1] // 2
    return list(
        torch.ops.aten.convolution_backward(
            p,
            x,
            weight,
            [weight.shape[0]],
            [1, 1],
            [padding] * 2,
            [1, 1],
            False,
            [0, 0],
            groups,
            mask,
        )
    )
