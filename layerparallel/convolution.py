"""Hand-batched convolutional chains: ``u[n+1] = u[n] + h sigma(K_n * u[n] + b_n)``.

Small states: the intervals are the groups of one grouped convolution, channels last, which takes a
third of the time of as many single ones. Large states fill the machine one by one, and are looped over;
on CPUs channels last, too, which takes 0.4 to 0.95 of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .chain import Intervals, State
from .closed_form import ClosedFormChain
from .taped import TapedAdjoint
from .workspace import Workspace

Mask = tuple[bool, bool, bool]

LARGE = 1 << 18
"""Entries of one state from which intervals are convolved one after the other."""


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


class _Grouped:
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


class _Looped:
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


GROUPED = _Grouped()


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


def _spread(layout: Layout, x: Tensor, count: int, each: int) -> Tensor:
    """Every interval's state s times."""
    wide, axis = _split(layout, x, count, 1)
    shape = [-1] * wide.dim()
    shape[axis] = each
    return _merged(layout, wide.expand(shape))


def _gathered(layout: Layout, x: Tensor, count: int, each: int) -> Tensor:
    """Sums over the s layers of every interval."""
    wide, axis = _split(layout, x, count, each)
    return _merged(layout, wide.sum(axis, keepdim=True))


def _mixed(layout: Layout, x: Tensor, count: int, mixing: Tensor) -> Tensor:
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


@dataclass(frozen=True)
class ConvolutionChain(ClosedFormChain):
    """A chain of `Convolution` layers: weight (N, C, C, k, k), bias (N, C)."""

    def linearise(self, groups: int = 1) -> ConvolutionAdjoint:
        return ConvolutionAdjoint(self, groups=groups)

    def pack(self, u: State) -> State:
        channels = self.weight.shape[1]
        if len(u) != 1 or u[0].dim() != 4 or u[0].shape[1] != channels:
            raise ValueError(
                f"the state has shape {', '.join(str(tuple(a.shape)) for a in u)} and the layers "
                f"{channels} channels; let the opening return one tensor (B, {channels}, H, W)"
            )
        return super().pack(u)

    @cached_property
    def stacks(self) -> State:
        """Weight (steps, s, C, C, k, k) and bias (steps, s, C), times the activation's scale."""
        weight, bias = self.weight.unsqueeze(1), self.bias.unsqueeze(1)
        if self.selected is not None:
            weight, bias = self.selected
        if self.activation.scale == 1:
            return weight, bias
        return weight * self.activation.scale, bias * self.activation.scale

    @cached_property
    def mixing(self) -> Tensor | None:
        """T times r = M h / s for the picard coarse operator."""
        if self.span == 1 or self.operator.kind != "picard":
            return None
        return self.operator.mixing(self.span, self.weight).mul_(self.reach)

    def looped(self, u: State) -> bool:
        return self.layout(u[0]) is not GROUPED

    def layout(self, u: Tensor) -> Layout:
        """How states (intervals, samples, C, H, W) are best convolved."""
        return _Looped(u.device.type == "cpu") if u[0].numel() >= LARGE else GROUPED

    def step(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        layout: Layout,
        saved: Tensor | None = None,
        inner: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """The next state, in the layout; x of K intervals, weight (K, s, C, C, k, k).

        `saved`, and for the picard operator `inner`, receive what the adjoint needs of this step.
        """
        act, count = self.activation, weight.shape[0]
        single = weight.flatten(0, 1)
        z = layout.convolve(x, single, bias.flatten(0, 1), count)
        if self.mixing is not None:
            first = act.value(z, torch.empty_like(z) if inner is None else inner)
            if act.shift or act.gain != 1:
                first = torch.add(first.new_tensor(act.shift), first, alpha=act.gain)
            shifts = _mixed(layout, first, count, self.mixing)
            z += layout.convolve(shifts, single, None, count * self.layers)
        value = act.value(z, z if saved is None else saved)
        if saved is not None and value is z:
            saved.copy_(z)
        if self.layers > 1:
            value = _gathered(layout, value, count, self.layers)
        following = torch.add(x, value, alpha=self.reach * act.gain, out=out)
        if act.shift:
            following.add_(self.reach * act.shift * self.layers)
        return following

    def advance(
        self, u: State, over: Intervals, rhs: State | None = None, into: State | None = None
    ) -> State:
        layout = self.layout(u[0])
        x = layout.fold(u[0].clone())
        rhs_at = over.positions(rhs, 1) if rhs is not None else None
        into_at = over.positions(into, 1) if into is not None else None
        stacks = over.positions(self.stacks)
        for j in range(over.walked):
            weight, bias = stacks[j]
            x = self.step(x, weight, bias, layout, out=x)
            if rhs_at is not None:
                x = x.add_(layout.fold(rhs_at[j][0]))
            if into_at is not None:
                into_at[j][0].copy_(layout.unfold(x, over.count))
        return (layout.unfold(x, over.count),)


@dataclass(frozen=True)
class _ConvolutionTape:
    """Inputs and derivatives at every position, in the layout, and the memory they are in."""

    inputs: Sequence[Tensor]
    saved: Sequence[Tensor]
    inner: Sequence[Tensor]
    arrivals: Tensor
    layout: Layout
    rooms: Sequence[Tensor]


class ConvolutionAdjoint(TapedAdjoint[_ConvolutionTape]):
    """The adjoint of a convolutional chain: ``lambda + h K^T * (sigma' lambda)``."""

    chain: ConvolutionChain

    def _tape(self, u: State, over: Intervals, onto: State | None = None) -> _ConvolutionTape:
        chain, workspace = self.chain, self.chain.workspace
        layout = chain.layout(u[0])

        def room(count: int) -> Tensor:
            return layout.room(workspace, u[0], over.length, count)

        every = over.count * chain.layers
        rooms = [room(over.count), room(every)]
        inner: list[Tensor | None] = [None] * over.length
        if chain.mixing is not None:
            rooms.append(room(every))
            inner[:] = layout.places(rooms[2])
        inputs, saved = layout.places(rooms[0]), layout.places(rooms[1])
        following = [*inputs[1:], None]
        onto_at = over.positions(onto, 1) if onto is not None else None
        x = inputs[0].copy_(layout.fold(u[0]))
        for j, (weight, bias) in enumerate(over.positions(chain.stacks)):
            x = chain.step(x, weight, bias, layout, saved[j], inner[j], following[j])
            if onto_at is not None:
                x.copy_(layout.fold(onto_at[j][0]))
        arrivals = layout.unfold(x, over.count)
        first = [place for place in inner if place is not None]
        return _ConvolutionTape(inputs, saved, first, arrivals, layout, rooms)

    def _visited(self, tape: _ConvolutionTape, over: Intervals) -> list[State]:
        passed = [(tape.layout.unfold(x, over.count),) for x in tape.inputs[1:]]
        return [*passed, (tape.arrivals,)]

    def _end(self, tape: _ConvolutionTape) -> State:
        return (tape.arrivals,)

    def _release(self, tape: _ConvolutionTape) -> None:
        self.chain.workspace.give(*tape.rooms)

    def _pull(
        self,
        tape: _ConvolutionTape,
        u: State,
        over: Intervals,
        collect: bool,
        rhs: State | None,
        into: State | None,
    ) -> State:
        chain, act, layout = self.chain, self.chain.activation, tape.layout
        slope = chain.reach * act.slope
        rhs_at = over.positions(rhs) if rhs is not None else None
        into_at = over.positions(into) if into is not None else None
        stacks = over.positions(chain.stacks)
        x = layout.fold(u[0].clone())
        last = collect and not self.keep  # then the tape is not needed again
        p = None if last else torch.empty_like(tape.saved[0])
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for j in range(over.length - 1, over.length - 1 - over.walked, -1):
            weight = stacks[j][0].flatten(0, 1)
            wide = _spread(layout, x, over.count, chain.layers) if chain.layers > 1 else x
            pulled = act.pull(wide, tape.saved[j], tape.saved[j] if p is None else p)
            if chain.mixing is not None:
                pulled = self._iterate(pulled, tape, j, weight, over.count)
            mask = (True, collect, collect)
            found = layout.pull(pulled, tape.inputs[j], weight, over.count, mask)
            x.add_(found[0], alpha=slope / act.scale)
            if collect:
                weights.append(found[1])
                biases.append(found[2])
            if rhs_at is not None:
                x.add_(layout.fold(rhs_at[j][0]))
            if into_at is not None:
                into_at[j][0].copy_(layout.unfold(x, over.count))
        if collect:
            for k, parts in enumerate((weights, biases)):
                stacked = torch.stack(parts[::-1], 1).flatten(0, 1)  # (intervals, positions, ...)
                self._add_own(k, over, stacked.mul_(slope))
        return (layout.unfold(x, over.count),)

    def _iterate(self, p: Tensor, tape: _ConvolutionTape, j: int, weight: Tensor, count: int) -> Tensor:
        """p and what flows through the first Picard iterate; the transpose of that part of `step`."""
        chain, act, layout = self.chain, self.chain.activation, tape.layout
        assert chain.mixing is not None
        flowing = layout.pull(p, p, weight, count * chain.layers, (True, False, False))[0]
        mixed = _mixed(layout, flowing, count, chain.mixing.t() * (act.slope / act.scale))
        return p + act.pull(mixed, tape.inner[j], torch.empty_like(mixed))
