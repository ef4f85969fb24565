"""Chains: N consecutive steps ``u[n+1] = Phi_n(u[n])`` whose state keeps its shape.

Everything the solvers know is in this file: a chain can `advance` many intervals at once and can be
`coarsen`-ed into another chain. A coarse level is a chain, and so is an adjoint.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""A state inside the library: a tuple of tensors. An array of states has a dimension more, in front."""


@dataclass(frozen=True)
class Intervals:
    """`count` intervals of `length` consecutive steps each, beginning at step `first`.

    All of them are advanced together: `count` is a batch dimension, and the `length` steps of each are
    taken in order. A serial solve is one interval of N steps, an F-relaxation K intervals of m steps.
    """

    first: int
    count: int
    length: int
    walk: int | None = None
    """How many of the `length` steps are taken; all of them if None."""

    @property
    def stop(self) -> int:
        return self.first + self.count * self.length

    @property
    def walked(self) -> int:
        return self.length if self.walk is None else self.walk

    @property
    def evaluations(self) -> int:
        return self.count * self.walked

    def left(self, array: State) -> State:
        """The states at the left end of every interval, from an array of states 0..N."""
        return tuple(a[self.first : self.stop : self.length] for a in array)

    def right(self, array: State) -> State:
        """The states at the right end of every interval."""
        return tuple(a[self.first + self.length : self.stop + 1 : self.length] for a in array)

    def positions(self, array: State, offset: int = 0) -> list[State]:
        """For j = 0..length-1, the j-th entry of every interval: views of shape (count, ...)."""
        shape = (self.count, self.length)
        views = (
            a.narrow(0, self.first + offset, self.count * self.length).unflatten(0, shape).unbind(1)
            for a in array
        )
        return list(zip(*views, strict=True))


class Chain(abc.ABC):
    """A chain of `steps` steps, advanced by whole batches of intervals."""

    steps: int
    linear: bool = False
    """Every step is linear: a coarse level may then solve for the correction alone."""
    reverse: bool = False
    """The chain runs from right to left (an adjoint): it departs from the right ends."""

    @abc.abstractmethod
    def advance(
        self, u: State, over: Intervals, rhs: State | None = None, into: State | None = None
    ) -> State:
        """Takes every interval of `over` from its departure to its arrival.

        Args:
            u: departures, each of shape (over.count, ...).
            over: which steps.
            rhs: array of states 0..N: after the step to state n, ``rhs[n]`` is added.
            into: array of states 0..N that receives every state passed, arrivals included.

        Returns:
            Arrivals, each of shape (over.count, ...).
        """

    @abc.abstractmethod
    def coarsen(self, factor: int, operator: CoarseOperator) -> Chain:
        """The chain of ``steps // factor`` steps with a step size `factor` times as large."""

    def linearise(self, groups: int = 1) -> Adjoint:
        """An adjoint to be filled by its `record`; see taped.TapedAdjoint for `groups`."""
        raise TypeError(f"a {type(self).__name__} has no adjoint of its own")

    def pack(self, u: State) -> State:
        """A user's state as an array of one state in the chain's own layout."""
        return tuple(a.unsqueeze(0) for a in u)

    def unpack(self, u: State, like: State) -> State:
        """The inverse of `pack`; `like` has the shapes of the user's state."""
        return tuple(a.squeeze(0) for a in u)

    def depart(self, array: State, over: Intervals) -> State:
        return over.right(array) if self.reverse else over.left(array)

    def arrive(self, array: State, over: Intervals) -> State:
        return over.left(array) if self.reverse else over.right(array)


@dataclass(frozen=True)
class CoarseOperator:
    """How a coarse step stands for the steps of an interval.

    ``inject``: ``u + M h F(u, theta_first)`` with the parameters of the interval's first step.
    ``mean_parameters``: the mean of the interval's parameters.
    ``mean_residual``: ``u + M h mean_j F(u, theta_j)`` over `samples` steps of the interval, spread
    evenly (all of them if None), evaluated as one batch.
    M is the number of steps of the finest level in a coarse step.
    """

    kind: str = "inject"
    samples: int | None = None

    def layers(self, span: int) -> list[int]:
        """Which of the `span` fine steps of a coarse step are evaluated."""
        if self.kind != "mean_residual":
            return [0]
        count = span if self.samples is None else min(self.samples, span)
        return [(2 * k + 1) * span // (2 * count) for k in range(count)]

    def select(self, stacked: Tensor, span: int, steps: int) -> Tensor:
        """From parameters (N, ...) of the finest level those of `steps` coarse steps.

        Returns:
            (steps, s, ...) with s evaluated layers per coarse step.
        """
        grouped = stacked.narrow(0, 0, steps * span).unflatten(0, (steps, span))
        if self.kind == "mean_parameters":
            return grouped.mean(1, keepdim=True)
        chosen = self.layers(span)
        if len(chosen) == span:
            return grouped
        if len(chosen) == 1:
            return grouped.narrow(1, chosen[0], 1)
        return grouped[:, chosen]


class Adjoint(Chain):
    """The adjoint of a chain about a trajectory: ``lambda[n] = (dPhi_n/du)^T lambda[n+1]``.

    It is a chain itself, linear and from right to left. The last sweep of a forward solve goes through
    `record`, which is the linearisation; the last sweep of the adjoint solve goes through `collect`,
    which also gathers the parameter gradients ``(dPhi_n/dtheta_n)^T lambda[n+1]``.
    """

    linear = True
    reverse = True
    recorded: int = 0
    """Step evaluations of the forward chain spent in here beyond `record` (relinearisation)."""

    @abc.abstractmethod
    def record(self, u: State, over: Intervals) -> State:
        """`advance` of the forward chain, remembered."""

    @abc.abstractmethod
    def collect(self, u: State, over: Intervals) -> State:
        """`advance` of the adjoint that also accumulates parameter gradients."""

    @abc.abstractmethod
    def restart(self) -> None:
        """Forgets what was recorded, for another sweep to be recorded in its place."""

    @abc.abstractmethod
    def gradients(self) -> dict[int, Tensor]:
        """The gradients collected, by the parameter's place among the chain's parameters."""

    @abc.abstractmethod
    def free(self) -> None:
        """Drops everything recorded."""


def state_map(function: Callable[..., Tensor], *states: State) -> State:
    """Applies a function of tensors to states, part by part."""
    return tuple(function(*parts) for parts in zip(*states, strict=True))


def copy_into(target: State, source: State) -> None:
    """Copies a state, or an array of states, part by part."""
    for a, b in zip(target, source, strict=True):
        a.copy_(b)


def two_norm(state: State) -> Tensor:
    """The Euclidean norm over all entries: the default norm of residuals, a 0-d tensor."""
    parts = [torch.linalg.vector_norm(part) for part in state]
    return parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts))
