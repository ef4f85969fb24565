"""The objective of training as optimal control: a loss and three regularisation terms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..group import Group
from ..network.bodies import Body
from ..network.network import Network


class _InDepth(torch.autograd.Function):
    """``size/2 |p|^2 + slope/2 sum_n |p[n+1] - p[n]|^2`` of one stacked parameter (N, ...).

    By hand: autograd would fill and add two arrays for each of the overlapping slices. On a layer group
    `stacked` is this rank's block, and `wide` has the last row of the block before it and the first of
    the one behind, too; `extra` is 1 where there is a block before it.
    """

    @staticmethod
    def forward(
        ctx: Any, stacked: Tensor, wide: Tensor, extra: int, size: float, slope: float
    ) -> Tensor:
        ctx.extra = extra
        jumps = (wide[1:] - wide[:-1]).reshape(-1)
        ctx.save_for_backward(stacked, jumps)
        ctx.weights = size, slope
        flat, own = stacked.reshape(-1), jumps[extra * stacked[:1].numel() :]
        return 0.5 * size * torch.dot(flat, flat) + 0.5 * slope * torch.dot(own, own)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (stacked, jumps), (size, slope) = ctx.saved_tensors, ctx.weights
        gradient = size * stacked
        jumps = jumps.view(-1, *stacked.shape[1:])
        rows, extra = len(stacked), ctx.extra
        if rows:
            into, out = jumps[: rows - 1 + extra], jumps[extra:]
            gradient[rows - len(into) :].add_(into, alpha=slope)
            gradient[: len(out)].sub_(out, alpha=slope)
        return gradient.mul_(grads[0]), None, None, None, None


def _widened(stacked: Sequence[Tensor], body: Body) -> tuple[list[Tensor], int]:
    """Parameters of one chain with a row of either neighbour's block, all in one message each way.

    Also whether there is a block before this one.
    """
    rows = [p.detach() for p in stacked]
    if body.group.alone:
        return rows, 0
    have, end = body.blocks.ranges, body.depth
    want = [range(max(r.start - 1, 0), min(r.stop + 1, end)) if r else r for r in have]
    mine = body.group.rank
    return list(body.group.move(rows, have, want)), have[mine].start - want[mine].start


class _Total(torch.autograd.Function):
    """A sum over the layer group, of which every rank differentiates its own part."""

    @staticmethod
    def forward(ctx: Any, group: Group, part: Tensor) -> Tensor:
        return group.total(part).clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


@dataclass(frozen=True)
class Objective:
    """Loss plus regularisation (Günther et al., SIAM J. Math. Data Sci. 2(1), 2020, section 2).

    ``criterion(output, target) + tikhonov/2 |theta|^2 + smoothness/2 h sum_n |(theta[n+1] -
    theta[n]) / h|^2 + closing/2 |mu|^2`` with theta all parameters of the network's chains (weights
    and biases alike; not those of the opening), mu all parameters of its closing, h the body's step
    size and n = 0..N-2. The smoothness term is a Riemann sum of the integral of ``|dtheta/dt|^2``,
    so a network refined in depth keeps its value. Parameters that all steps share have no jumps in
    depth and count in the first term alone.

    Args:
        criterion: from output and target to the loss, 0-d.
        tikhonov: weight of the first term, at least 0.
        smoothness: of the second.
        closing: of the third.
        weighted: False leaves out the factor h of the smoothness term, as the authors' code does;
            the term then grows with N.

    Raises:
        ValueError: a weight is negative or not finite.
    """

    criterion: Callable[[Tensor, Tensor], Tensor]
    tikhonov: float = 0.0
    smoothness: float = 0.0
    closing: float = 0.0
    weighted: bool = True

    def __post_init__(self) -> None:
        for name in ("tikhonov", "smoothness", "closing"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(
                    f"{name} = {value} is not a weight of the objective; give a finite number "
                    "of at least 0."
                )

    def __call__(self, network: Network, output: Tensor, target: Tensor) -> Tensor:
        """The objective, 0-d and differentiable, of a network and its output for a batch."""
        loss = self.criterion(output, target)
        if self.tikhonov or self.smoothness or self.closing:
            loss = loss + self.penalty(network)
        return loss

    def penalty(self, network: Network) -> Tensor:
        """The three regularisation terms, 0-d; they depend on the parameters alone."""
        group, terms = network.group, []
        for body in network.chains:
            slope = self.smoothness / body.h if self.weighted else self.smoothness / body.h**2
            counted = group.first or not body.repeated()  # all differentiate, one counts
            stacked = [p for name, p in body.named_parameters() if slope and body.layer_name(name)[1]]
            wide, extra = _widened(stacked, body)
            for parameter, rows in zip(stacked, wide, strict=True):
                terms.append(_InDepth.apply(parameter, rows, extra, self.tikhonov, slope))
            for name, parameter in body.named_parameters():
                if self.tikhonov and not (slope and body.layer_name(name)[1]):
                    term = 0.5 * self.tikhonov * parameter.square().sum()
                    terms.append(term if counted else term - term.detach())
        if self.closing:
            terms += [0.5 * self.closing * p.square().sum() for p in network.closing.parameters()]
        nothing = next(network.parameters()).new_zeros(())
        return _Total.apply(group, torch.stack([nothing, *terms]).sum())
