"""Hand-batched dense chains: ``u[n+1] = u[n] + h sigma(W_n u[n] + b_n)`` in a few large operations.

States are kept feature-major, (points, width, samples): the samples are the long, contiguous
dimension of every product, which for narrow layers is several times as fast as the usual layout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .activations import Activation
from .chain import Chain, CoarseOperator, Intervals, State
from .taped import TapedAdjoint


@dataclass(frozen=True)
class DenseChain(Chain):
    """A chain of `Dense` layers.

    Args:
        weight: (N, width, width) of the finest level.
        bias: (N, width).
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

    def coarsen(self, factor: int, operator: CoarseOperator) -> DenseChain:
        span = self.span * factor
        return replace(self, steps=self.steps // factor, span=span, operator=operator)

    def linearise(self, groups: int = 1) -> DenseAdjoint:
        return DenseAdjoint(self, groups=groups)

    def pack(self, u: State) -> State:
        return (u[0].reshape(-1, u[0].shape[-1]).t().contiguous().unsqueeze(0),)

    def unpack(self, u: State, like: State) -> State:
        return (u[0].squeeze(0).t().reshape(like[0].shape).contiguous(),)

    @cached_property
    def layers(self) -> int:
        """Layers evaluated in one step: more than one for a mean_residual coarse operator."""
        return len(self.operator.layers(self.span)) if self.span > 1 else 1

    @cached_property
    def stacks(self) -> State:
        """Weight (steps, s width, width) and bias (steps, s width, 1) of this level."""
        if self.span == 1:
            return self.weight, self.bias.unsqueeze(-1)
        weight = self.operator.select(self.weight, self.span, self.steps).flatten(1, 2)
        bias = self.operator.select(self.bias, self.span, self.steps).flatten(1, 2)
        return weight, bias.unsqueeze(-1)

    @property
    def reach(self) -> float:
        """h of this level, per layer evaluated."""
        return self.step_size * self.span / self.layers

    def advance(
        self, u: State, over: Intervals, rhs: State | None = None, into: State | None = None
    ) -> State:
        x = u[0].clone(memory_format=torch.contiguous_format)
        act, reach = self.activation, self.reach
        gain, shift = reach * act.gain, reach * act.shift * self.layers
        rhs_at = over.positions(rhs, 1) if rhs is not None else None
        into_at = over.positions(into, 1) if into is not None else None
        stacks = over.positions(self.stacks)
        z = x.new_empty((over.count, stacks[0][0].shape[1], x.shape[2]))
        for j in range(over.walked):
            weight, bias = stacks[j]
            torch.baddbmm(bias, weight, x, beta=act.scale, alpha=act.scale, out=z)
            value, _ = act.value(z)
            if self.layers > 1:
                value = value.unflatten(1, (self.layers, -1)).sum(1)
            x.add_(value, alpha=gain)
            if shift:
                x.add_(shift)
            if rhs_at is not None:
                x.add_(rhs_at[j][0])
            if into_at is not None:
                into_at[j][0].copy_(x)
        return (x,)


@dataclass(frozen=True)
class _DenseTape:
    """Inputs and derivatives of all steps of a walk: (count * length, ..., samples)."""

    inputs: Tensor
    saved: Tensor
    arrivals: Tensor
    pulled: list[Tensor]


class DenseAdjoint(TapedAdjoint[_DenseTape]):
    """The adjoint of a dense chain: ``lambda + h W^T (sigma' * lambda)``, in two operations a step."""

    chain: DenseChain

    def _tape(self, u: State, over: Intervals, onto: State | None = None) -> _DenseTape:
        chain, act = self.chain, self.chain.activation
        steps = over.count * over.length
        width, samples = u[0].shape[1:]
        stacks = chain.stacks
        if onto is not None:  # all inputs are known: one batched evaluation
            inputs = onto[0][over.first : over.stop]
            here = slice(over.first, over.stop)
            z = torch.baddbmm(
                stacks[1][here], stacks[0][here], inputs, beta=act.scale, alpha=act.scale
            )
            _, saved = act.value(z)
            return _DenseTape(inputs, saved, inputs[-1:], [])
        gain, shift = chain.reach * act.gain, chain.reach * act.shift
        inputs = u[0].new_empty((steps, width, samples))
        saved = u[0].new_empty((steps, width, samples))
        x_at = [x for (x,) in Intervals(0, over.count, over.length).positions((inputs,))]
        s_at = [s for (s,) in Intervals(0, over.count, over.length).positions((saved,))]
        x_at.append(u[0].new_empty((over.count, width, samples)))
        x_at[0].copy_(u[0])
        for j, (weight, bias) in enumerate(over.positions(stacks)):
            z = s_at[j]
            torch.baddbmm(bias, weight, x_at[j], beta=act.scale, alpha=act.scale, out=z)
            value, keep = act.value(z)
            if keep is not z:
                z.copy_(keep)
            torch.add(x_at[j], value, alpha=gain, out=x_at[j + 1])
            if shift:
                x_at[j + 1].add_(shift)
        return _DenseTape(inputs, saved, x_at[-1], [])

    def _visited(self, tape: _DenseTape, over: Intervals) -> list[State]:
        return [*Intervals(0, over.count, over.length).positions((tape.inputs,))[1:], (tape.arrivals,)]

    def _pull(
        self,
        tape: _DenseTape,
        u: State,
        over: Intervals,
        collect: bool,
        rhs: State | None,
        into: State | None,
    ) -> State:
        chain, act = self.chain, self.chain.activation
        slope = chain.reach * act.slope
        inside = Intervals(0, over.count, over.length)
        s_at = inside.positions((tape.saved,))
        rhs_at = over.positions(rhs) if rhs is not None else None
        into_at = over.positions(into) if into is not None else None
        weights = over.positions((chain.stacks[0].transpose(1, 2),))
        x = u[0].clone(memory_format=torch.contiguous_format)
        if collect:
            pulled = torch.empty_like(tape.saved)
            p_at = [p for (p,) in inside.positions((pulled,))]
        else:
            pulled = x.new_empty((over.count, *tape.saved.shape[1:]))
            p_at = [pulled] * over.length
        for j in range(over.length - 1, over.length - 1 - over.walked, -1):
            p = p_at[j]
            if chain.layers > 1:
                many = (over.count, chain.layers, -1, x.shape[2])
                wide = x.unsqueeze(1).expand(-1, chain.layers, -1, -1)
                act.pull(wide, s_at[j][0].view(many), p.view(many))
            else:
                act.pull(x, s_at[j][0], p)
            torch.baddbmm(x, weights[j][0], p, alpha=slope, out=x)
            if rhs_at is not None:
                x.add_(rhs_at[j][0])
            if into_at is not None:
                into_at[j][0].copy_(x)
        if collect:
            weight = torch.bmm(pulled, tape.inputs.transpose(1, 2)).mul_(slope)
            self._add_own(0, over, weight)
            self._add_own(1, over, pulled.sum(-1).mul_(slope))
        return (x,)
