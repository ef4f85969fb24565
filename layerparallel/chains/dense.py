"""Hand-batched dense chains: ``u[n+1] = u[n] + h sigma(W_n u[n] + b_n)`` in a few large operations.

States are kept feature-major, (points, width, samples): the samples are the long, contiguous
dimension of every product, which for narrow layers is several times as fast as the usual layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..steps.state import State
from .chain import Intervals
from .closed_form import ClosedFormChain
from .taped import TapedAdjoint


@dataclass(frozen=True)
class DenseChain(ClosedFormChain):
    """A chain of `Dense` layers: weight (N, width, width), bias (N, width)."""

    def linearise(self, groups: int = 1) -> DenseAdjoint:
        return DenseAdjoint(self, groups=groups)

    def pack(self, u: State) -> State:
        width = self.weight.shape[-1]
        if len(u) != 1 or u[0].shape[-1:] != (width,):
            raise ValueError(
                f"the state has shape {', '.join(str(tuple(a.shape)) for a in u)} and the layers "
                f"width {width}; let the opening return one tensor (..., {width})"
            )
        return (u[0].reshape(-1, u[0].shape[-1]).t().contiguous().unsqueeze(0),)

    def unpack(self, u: State, like: State) -> State:
        return (u[0].squeeze(0).t().reshape(like[0].shape).contiguous(),)

    @cached_property
    def stacks(self) -> State:
        """Of this level: weight (steps, s width, width), bias (steps, s width, 1), row sums of weight.

        The bias and the row sums are multiplied by the activation's scale.
        """
        weight, bias = self.weight, self.bias
        if self.selected is not None:
            weight, bias = (p.flatten(1, 2) for p in self.selected)
        scale = self.activation.scale
        rows = weight.sum(-1, keepdim=True).mul_(scale) if self.activation.shift else bias
        return weight, bias.unsqueeze(-1) * scale, rows

    @property
    def drift(self) -> float:
        """The constant part of a step, h times the activation's shift, which sweeps leave to the end."""
        return self.reach * self.activation.shift * self.layers

    def steered(self, over: Intervals) -> list[State]:
        """(weight, bias) at every position for states that are written without their drift.

        After j steps of a sweep the true state is x + j drift; the bias makes up for it, which saves
        an operation a step.
        """
        weight, bias, rows = self.stacks
        if not self.drift:
            return over.positions((weight, bias))
        here = slice(over.first, over.stop)
        behind = self._behind(over.length, 0, bias)
        shape = (over.count, over.length, -1, 1)
        bias = torch.addcmul(bias[here].view(shape), rows[here].view(shape), behind.view(1, -1, 1, 1))
        inside = Intervals(0, over.count, over.length)
        return inside.positions((weight[here], bias.flatten(0, 1)))

    def advance(
        self,
        u: State,
        over: Intervals,
        rhs: State | None = None,
        into: State | None = None,
        less: State | None = None,
    ) -> State:
        behind = self.drift if less is None else 0.0  # of a difference it is no part
        rhs_at = over.positions(rhs, 1) if rhs is not None else None
        less_at = over.positions(less, 1) if less is not None else None
        if into is not None:  # every state goes straight to its place
            x, out_at = u[0], [out for (out,) in over.positions(into, 1)]
        else:
            x = u[0].clone(memory_format=torch.contiguous_format)
            out_at = [x] * over.length
        stacks = self.steered(over) if less is None else over.positions(self.stacks[:2])
        rooms = self._rooms(x)
        for j in range(over.walked):
            x = self._step(x, stacks[j], rooms, out_at[j])
            if less_at is not None:
                x.sub_(less_at[j][0])
            if rhs_at is not None:
                x.add_(rhs_at[j][0])
        if not behind:
            return (x,)
        if into is None:
            return (x.add_(behind * over.walked),)
        passed = into[0][over.first + 1 : over.stop + 1].unflatten(0, (over.count, over.length))
        passed[:, : over.walked].add_(self._behind(over.walked, 1, x).view(1, -1, 1, 1))
        return (x,)

    def reference(self, u: State, over: Intervals) -> State:
        (stack,) = over.positions(self.stacks[:2])
        return (self._step(u[0], stack, self._rooms(u[0])),)

    def _rooms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """For the pre-activations of a step from states x, and for what `iterate` keeps."""
        z = x.new_empty((x.shape[0], self.layers * x.shape[1], x.shape[2]))
        return z, torch.empty_like(z) if self.picard is not None else z

    def _step(
        self, x: Tensor, stack: State, rooms: tuple[Tensor, Tensor], out: Tensor | None = None
    ) -> Tensor:
        """The next states, without their drift."""
        (weight, bias), (z, inner), act = stack, rooms, self.activation
        torch.baddbmm(bias, weight, x, alpha=act.scale, out=z)
        value = act.value(self.iterate(weight, z, inner), z)
        if self.layers > 1:
            value = value.unflatten(1, (self.layers, -1)).sum(1)
        return torch.add(x, value, alpha=self.reach * act.gain, out=out)

    @cached_property
    def picard(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """For the picard coarse operator: mixing, what it makes of the constant part of F, transpose.

        The first two, (1, s, s) and (s, 1), are times r = M h / s and the activation's scale; the
        third is what the adjoint of ``r F`` is mixed by.
        """
        if self.span == 1 or self.operator.kind != "picard":
            return None
        act = self.activation
        mixing = self.operator.mixing(self.span, self.weight)
        forth = mixing * (self.reach * act.scale * act.gain)
        constant = mixing.sum(1, keepdim=True).mul_(self.reach * act.scale * act.shift)
        return forth[None], constant, (mixing.t() * (self.reach * act.slope)).contiguous()[None]

    def iterate(self, weight: Tensor, z: Tensor, inner: Tensor) -> Tensor:
        """The pre-activations z (count, s width, samples) of the first Picard iterate, or the second.

        `inner` receives what the adjoint needs of the first one.
        """
        if self.picard is None:
            return z
        mixing, constant, _ = self.picard
        layers, (count, rows, samples) = self.layers, z.shape
        value = self.activation.value(z, inner).view(count, layers, -1)
        shifts = torch.baddbmm(constant, mixing.expand(count, -1, -1), value)
        apart = (count * layers, rows // layers)
        z.view(*apart, samples).baddbmm_(weight.reshape(*apart, -1), shifts.view(*apart, samples))
        return z

    def _behind(self, length: int, start: int, like: Tensor) -> Tensor:
        """By how much states that are written without their drift fall short, (length,)."""
        steps = torch.arange(start, start + length, dtype=like.dtype, device=like.device)
        return steps.mul_(self.drift)


@dataclass(frozen=True)
class DenseTape:
    """Inputs and derivatives of all steps of a walk, the position outermost: (length, count, ...).

    A contiguous target is what the batched product of small matrices is fast for. `drift` times the
    position is missing from the inputs.
    """

    inputs: Tensor
    saved: Tensor
    arrivals: Tensor
    drift: float
    inner: Tensor | None = None
    """Derivatives of the first Picard iterate."""
    taken: bool = False
    """Inputs and derivatives are from the workspace, and no views of other states."""


class DenseAdjoint(TapedAdjoint[DenseTape]):
    """The adjoint of a dense chain: ``lambda + h W^T (sigma' * lambda)``, in two operations a step."""

    chain: DenseChain

    def _tape(self, u: State, over: Intervals, onto: State | None = None) -> DenseTape:
        chain, act = self.chain, self.chain.activation
        if onto is not None:  # all inputs are known: one batched evaluation
            here = slice(over.first, over.stop)
            inputs = onto[0][here]
            weight, bias = (stack[here] for stack in chain.stacks[:2])
            saved = torch.baddbmm(bias, weight, inputs, alpha=act.scale)
            inner = torch.empty_like(saved) if chain.picard is not None else saved
            act.value(chain.iterate(weight, saved, inner), saved)
            turned = [
                t.unflatten(0, (over.count, -1)).transpose(0, 1).contiguous()
                for t in (inputs, saved, inner)
            ]
            first = turned[2] if chain.picard is not None else None
            return DenseTape(turned[0], turned[1], over.right(onto)[0], 0.0, first)
        width, samples = u[0].shape[1:]
        gain, drift = chain.reach * act.gain, chain.drift
        shape = (over.length, over.count, width, samples)
        inputs, saved = chain.workspace.take(shape, u[0]), chain.workspace.take(shape, u[0])
        arrivals = torch.empty_like(u[0], memory_format=torch.contiguous_format)
        x_at, z_at = [*inputs.unbind(0), arrivals], saved.unbind(0)
        x_at[0].copy_(u[0])
        for j, (weight, bias) in enumerate(chain.steered(over)):
            z = torch.baddbmm(bias, weight, x_at[j], alpha=act.scale, out=z_at[j])
            torch.add(x_at[j], act.value(z, z), alpha=gain, out=x_at[j + 1])
        if drift:
            arrivals.add_(drift * over.length)
        return DenseTape(inputs, saved, arrivals, drift, taken=True)

    def _visited(self, tape: DenseTape, over: Intervals) -> list[State]:
        passed = [(x + j * tape.drift,) for j, x in enumerate(tape.inputs.unbind(0))]
        return [*passed[1:], (tape.arrivals,)]

    def _end(self, tape: DenseTape) -> State:
        return (tape.arrivals,)

    def _release(self, tape: DenseTape) -> None:
        if tape.taken:
            self.chain.workspace.give(tape.inputs, tape.saved)

    def _pull(
        self,
        tape: DenseTape,
        u: State,
        over: Intervals,
        collect: bool,
        rhs: State | None,
        into: State | None,
    ) -> State:
        chain, act = self.chain, self.chain.activation
        slope = chain.reach * act.slope
        rhs_at = over.positions(rhs) if rhs is not None else None
        into_at = over.positions(into) if into is not None else None
        weights = over.positions((chain.stacks[0].transpose(1, 2),))
        x = u[0].clone(memory_format=torch.contiguous_format)
        s_at = tape.saved.unbind(0)
        if not collect:
            p_at = [torch.empty_like(s_at[0])] * over.length
        elif self.keep:
            p_at = torch.empty_like(tape.saved).unbind(0)
        else:  # the tape is not needed again
            p_at = s_at
        for j in range(over.length - 1, over.length - 1 - over.walked, -1):
            p = p_at[j]
            if chain.layers > 1:
                many = (over.count, chain.layers, -1, x.shape[2])
                wide = x.unsqueeze(1).expand(-1, chain.layers, -1, -1)
                act.pull(wide, s_at[j].view(many), p.view(many))
            else:
                act.pull(x, s_at[j], p)
            if tape.inner is not None:
                self._iterate(weights[j][0], p, tape.inner[j])
            straight = into_at is not None and over.count == 1  # a contiguous place
            out = into_at[j][0] if into_at is not None and straight else x
            x = torch.baddbmm(x, weights[j][0], p, alpha=slope, out=out)
            if rhs_at is not None:
                x.add_(rhs_at[j][0])
            if into_at is not None and not straight:
                into_at[j][0].copy_(x)
        if collect:
            self._gather(tape, over, torch.stack(p_at) if self.keep else tape.saved, slope)
        return (x,)

    def _iterate(self, weight: Tensor, p: Tensor, inner: Tensor) -> None:
        """Adds to p what flows through the first Picard iterate; the transpose of `iterate`."""
        chain, act = self.chain, self.chain.activation
        assert chain.picard is not None
        layers, (count, rows, samples) = chain.layers, p.shape
        apart = (count * layers, rows // layers)
        turned = weight.transpose(1, 2).reshape(*apart, -1).transpose(1, 2)
        flowing = torch.bmm(turned, p.view(*apart, samples)).view(count, layers, -1)
        mixed = torch.bmm(chain.picard[2].expand(count, -1, -1), flowing).view(p.shape)
        p.add_(act.pull(mixed, inner, mixed))

    def _gather(self, tape: DenseTape, over: Intervals, pulled: Tensor, slope: float) -> None:
        """All parameter gradients in one batched product: ``h (sigma' lambda) u^T`` and its row sums."""
        inputs = tape.inputs
        weight = torch.bmm(pulled.flatten(0, 1), inputs.flatten(0, 1).transpose(1, 2))
        bias = pulled.sum(-1).mul_(slope)
        weight = weight.mul_(slope).view(*bias.shape, -1)
        if tape.drift:
            behind = self.chain._behind(over.length, 0, bias)
            weight.addcmul_(bias.unsqueeze(-1), behind.view(-1, 1, 1, 1))
        self._add_own(0, over, weight.transpose(0, 1).flatten(0, 1))
        self._add_own(1, over, bias.transpose(0, 1).flatten(0, 1))
