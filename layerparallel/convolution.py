"""Hand-batched convolutional chains: ``u[n+1] = u[n] + h sigma(K_n * u[n] + b_n)``.

Small states: the intervals are the groups of one grouped convolution, channels last, which takes a
third of the time of as many single ones. Large states fill the machine one by one, and are looped over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from .activations import Activation
from .chain import Chain, CoarseOperator, Intervals, State
from .taped import TapedAdjoint
from .workspace import Workspace

LARGE = 1 << 18
"""Entries of one state from which intervals are convolved one after the other."""


class _Grouped:
    """States as (samples, intervals * channels, height, width), channels last."""

    @staticmethod
    def fold(u: Tensor) -> Tensor:
        folded = u.transpose(0, 1).flatten(1, 2)
        return folded.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def room(workspace: Workspace, like: Tensor, length: int, count: int, channels: int) -> Tensor:
        """Memory for `length` positions; like: (intervals, samples, C, H, W)."""
        _, samples, _, height, width = like.shape
        shape = (length, samples, height, width, count * channels)
        return workspace.take(shape, like)

    @staticmethod
    def places(room: Tensor) -> list[Tensor]:
        return [place.permute(0, 3, 1, 2) for place in room.unbind(0)]

    @staticmethod
    def unfold(x: Tensor, count: int) -> Tensor:
        return x.unflatten(1, (count, -1)).transpose(0, 1)

    @staticmethod
    def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        padding = weight.shape[-1] // 2
        flat = weight.flatten(0, 1)
        return functional.conv2d(
            x, flat, bias.flatten(), padding=padding, groups=weight.shape[0]
        ).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def spread(x: Tensor, count: int, layers: int) -> Tensor:
        """(B, K C, H, W) to (B, K s C, H, W), every state s times."""
        wide = x.unflatten(1, (count, 1, -1)).expand(-1, -1, layers, -1, -1, -1)
        return wide.flatten(1, 3).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def gather(x: Tensor, count: int, layers: int) -> Tensor:
        return x.unflatten(1, (count, layers, -1)).sum(2).flatten(1, 2)

    @staticmethod
    def pull(p: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, bool, bool]) -> list[Tensor]:
        flat = weight.flatten(0, 1)
        found = _backward(p, x, flat, weight.shape[0], mask)
        if mask[1]:
            found[1] = found[1].view(weight.shape)
            found[2] = found[2].view(weight.shape[:2])
        return found


class _Looped:
    """States as (intervals, samples, channels, height, width)."""

    @staticmethod
    def fold(u: Tensor) -> Tensor:
        return u.contiguous()

    @staticmethod
    def room(workspace: Workspace, like: Tensor, length: int, count: int, channels: int) -> Tensor:
        _, samples, _, height, width = like.shape
        return workspace.take((length, count, samples, channels, height, width), like)

    @staticmethod
    def places(room: Tensor) -> list[Tensor]:
        return list(room.unbind(0))

    @staticmethod
    def unfold(x: Tensor, count: int) -> Tensor:
        return x

    @staticmethod
    def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        padding = weight.shape[-1] // 2
        pairs = zip(x.unbind(0), weight.unbind(0), bias.unbind(0), strict=True)
        return torch.stack([functional.conv2d(u, w, b, padding=padding) for u, w, b in pairs])

    @staticmethod
    def spread(x: Tensor, count: int, layers: int) -> Tensor:
        return x.unsqueeze(2).expand(-1, -1, layers, -1, -1, -1).flatten(2, 3)

    @staticmethod
    def gather(x: Tensor, count: int, layers: int) -> Tensor:
        return x.unflatten(2, (layers, -1)).sum(2)

    @staticmethod
    def pull(p: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, bool, bool]) -> list[Tensor]:
        found = [_backward(p[i], x[i], weight[i], 1, mask) for i in range(weight.shape[0])]
        columns = zip(*found, strict=True)
        return [torch.stack(parts) if on else p for parts, on in zip(columns, mask, strict=True)]


def _backward(
    p: Tensor, x: Tensor, weight: Tensor, groups: int, mask: tuple[bool, bool, bool]
) -> list[Tensor]:
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
class ConvolutionChain(Chain):
    """A chain of `Convolution` layers.

    Args:
        weight: (N, channels, channels, k, k) of the finest level.
        bias: (N, channels).
        step_size: h of the finest level.
        span: finest steps per step of this level.
    """

    weight: Tensor
    bias: Tensor
    activation: Activation
    steps: int
    step_size: float
    span: int = 1
    operator: CoarseOperator = CoarseOperator()
    workspace: Workspace = Workspace()

    def coarsen(self, factor: int, operator: CoarseOperator) -> ConvolutionChain:
        span = self.span * factor
        return replace(self, steps=self.steps // factor, span=span, operator=operator)

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
    def layers(self) -> int:
        """Layers evaluated in one step: more than one for a mean_residual coarse operator."""
        return len(self.operator.layers(self.span)) if self.span > 1 else 1

    @cached_property
    def stacks(self) -> State:
        """Weight (steps, s C, C, k, k) and bias (steps, s C), times the activation's scale."""
        weight, bias = self.weight, self.bias
        if self.span > 1:
            weight = self.operator.select(weight, self.span, self.steps).flatten(1, 2)
            bias = self.operator.select(bias, self.span, self.steps).flatten(1, 2)
        if self.activation.scale == 1:
            return weight, bias
        return weight * self.activation.scale, bias * self.activation.scale

    @property
    def reach(self) -> float:
        """h of this level, per layer evaluated."""
        return self.step_size * self.span / self.layers

    def layout(self, u: Tensor) -> type[_Grouped] | type[_Looped]:
        """How states (intervals, samples, C, H, W) are best convolved."""
        return _Looped if u[0].numel() >= LARGE else _Grouped

    def step(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        layout: type[_Grouped] | type[_Looped],
        saved: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """The next state, in the layout; `saved` receives what the adjoint needs of this one."""
        act = self.activation
        z = layout.convolve(x, weight, bias)
        value = act.value(z, z if saved is None else saved)
        if saved is not None and value is z:
            saved.copy_(z)
        if self.layers > 1:
            value = layout.gather(value, weight.shape[0], self.layers)
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
            x = self.step(x, *stacks[j], layout, out=x)
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
    arrivals: Tensor
    layout: type[_Grouped] | type[_Looped]
    rooms: tuple[Tensor, Tensor]


class ConvolutionAdjoint(TapedAdjoint[_ConvolutionTape]):
    """The adjoint of a convolutional chain: ``lambda + h K^T * (sigma' lambda)``."""

    chain: ConvolutionChain

    def _tape(self, u: State, over: Intervals, onto: State | None = None) -> _ConvolutionTape:
        chain, workspace = self.chain, self.chain.workspace
        layout = chain.layout(u[0])
        channels = u[0].shape[2]
        rooms = (
            layout.room(workspace, u[0], over.length, over.count, channels),
            layout.room(workspace, u[0], over.length, over.count, channels * chain.layers),
        )
        inputs, saved = layout.places(rooms[0]), layout.places(rooms[1])
        following = [*inputs[1:], None]
        onto_at = over.positions(onto, 1) if onto is not None else None
        x = inputs[0].copy_(layout.fold(u[0]))
        for j, (weight, bias) in enumerate(over.positions(chain.stacks)):
            x = chain.step(x, weight, bias, layout, saved[j], following[j])
            if onto_at is not None:
                x.copy_(layout.fold(onto_at[j][0]))
        return _ConvolutionTape(inputs, saved, layout.unfold(x, over.count), layout, rooms)

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
            wide = layout.spread(x, over.count, chain.layers) if chain.layers > 1 else x
            pulled = act.pull(wide, tape.saved[j], tape.saved[j] if p is None else p)
            mask = (True, collect, collect)
            found = layout.pull(pulled, tape.inputs[j], stacks[j][0], mask)
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
