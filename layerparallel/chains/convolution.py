"""Hand-batched convolutional chains: ``u[n+1] = u[n] + h sigma(K_n * u[n] + b_n)``.

Small states: the intervals are the groups of one grouped convolution, channels last, which takes a
third of the time of as many single ones. Large states fill the machine one by one, and are looped over;
on CPUs channels last, too, which takes 0.4 to 0.95 of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..steps.state import State
from .chain import Intervals
from .closed_form import ClosedFormChain
from .layouts import GROUPED, Layout, Looped, gathered, mixed, spread
from .taped import TapedAdjoint

LARGE = 1 << 18
"""Entries of one state from which intervals are convolved one after the other."""


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
        return Looped(u.device.type == "cpu") if u[0].numel() >= LARGE else GROUPED

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
            shifts = mixed(layout, first, count, self.mixing)
            z += layout.convolve(shifts, single, None, count * self.layers)
        value = act.value(z, z if saved is None else saved)
        if saved is not None and value is z:
            saved.copy_(z)
        if self.layers > 1:
            value = gathered(layout, value, count, self.layers)
        following = torch.add(x, value, alpha=self.reach * act.gain, out=out)
        if act.shift:
            following.add_(self.reach * act.shift * self.layers)
        return following

    def advance(
        self,
        u: State,
        over: Intervals,
        rhs: State | None = None,
        into: State | None = None,
        less: State | None = None,
    ) -> State:
        layout = self.layout(u[0])
        x = layout.fold(u[0].clone())
        rhs_at = over.positions(rhs, 1) if rhs is not None else None
        less_at = over.positions(less, 1) if less is not None else None
        into_at = over.positions(into, 1) if into is not None else None
        stacks = over.positions(self.stacks)
        for j in range(over.walked):
            weight, bias = stacks[j]
            x = self.step(x, weight, bias, layout, out=x)
            if less_at is not None:
                x = x.sub_(layout.fold(less_at[j][0]))
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
            wide = spread(layout, x, over.count, chain.layers) if chain.layers > 1 else x
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
        back = mixed(layout, flowing, count, chain.mixing.t() * (act.slope / act.scale))
        return p + act.pull(back, tape.inner[j], torch.empty_like(back))
