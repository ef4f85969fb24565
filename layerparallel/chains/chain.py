"""Chains: N consecutive steps ``u[n+1] = Phi_n(u[n])`` whose state keeps its shape.

Everything the solvers know is in this file: a chain can `advance` many intervals at once and can be
`coarsen`-ed into another chain. A coarse level is a chain, and so is an adjoint.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..group.blocks import Blocks
from ..steps.state import State
from .coarse import CoarseOperator
from .placement import Placement


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
        """The step behind the last interval."""
        return self.first + self.count * self.length

    @property
    def walked(self) -> int:
        """How many steps of each interval are taken."""
        return self.length if self.walk is None else self.walk

    @property
    def evaluations(self) -> int:
        """Steps evaluated in all."""
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
    """A chain of `steps` steps, advanced by whole batches of intervals.

    On a layer group it is this rank's block: steps and states are numbered from its beginning.
    """

    steps: int
    """N, or the length of this rank's block."""
    placement: Placement | None = None
    """Where the block lies in the whole chain; None on one process."""
    linear: bool = False
    """Every step is linear: a coarse level may then solve for the correction alone."""
    interpreted: bool = True
    """Steps are evaluated by Python code of the user's, which may do other things than before."""
    reverse: bool = False
    """The chain runs from right to left (an adjoint): it departs from the right ends."""

    @property
    def allows_picard(self) -> bool:
        """Whether the coarse operator "picard" is for its steps."""
        return True

    @abc.abstractmethod
    def advance(
        self,
        u: State,
        over: Intervals,
        rhs: State | None = None,
        into: State | None = None,
        less: State | None = None,
    ) -> State:
        """Takes every interval of `over` from its departure to its arrival.

        Args:
            u: departures, each of shape (over.count, ...).
            over: which steps.
            rhs: array of states 0..N: after the step to state n, ``rhs[n]`` is added.
            into: array of states 0..N that receives every state passed, arrivals included.
            less: array of states 0..N, given with `rhs`: ``less[n]``, of `reference`, is taken away
                before ``rhs[n]`` is added. Where a step departs as its reference did, the state is
                ``rhs[n]``, bit by bit.

        Returns:
            Arrivals, each of shape (over.count, ...).
        """

    def reference(self, u: State, over: Intervals) -> State:
        """What `advance` is given as `less`: where single steps (``over.length == 1``) arrive from u.

        A chain may leave a constant out, here and with `less`.
        """
        return self.advance(u, over)

    @abc.abstractmethod
    def coarsen(self, factor: int, operator: CoarseOperator, blocks: Blocks | None = None) -> Chain:
        """The chain of ``steps // factor`` steps with a step size `factor` times as large.

        `blocks` says which of its steps every rank of a layer group has; all ranks must call.
        """

    @property
    def place(self) -> Placement:
        """`placement`; of a chain that knows of none, one process."""
        return self.placement or Placement.alone(self.steps)

    def looped(self, u: State) -> bool:
        """Whether intervals are advanced one after the other, so that parting them costs nothing."""
        return False

    @property
    def layer_bytes(self) -> int:
        """Bytes of the parameters of one step of the finest level."""
        return 0

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
        """Views of an array of states 0..N: where the intervals begin, in the chain's direction."""
        return over.right(array) if self.reverse else over.left(array)

    def arrive(self, array: State, over: Intervals) -> State:
        """Views of an array of states 0..N: where the intervals end, in the chain's direction."""
        return over.left(array) if self.reverse else over.right(array)


class Recorder(Protocol):
    """Takes the last sweep of a forward solve, whose states are the final ones."""

    def record(self, u: State, over: Intervals) -> State:
        """`advance` of the forward chain, remembered."""
        ...

    def restart(self) -> None:
        """Forgets what was recorded, for another sweep to be recorded in its place."""
        ...


class Adjoint(Chain):
    """The adjoint of a chain about a trajectory: ``lambda[n] = (dPhi_n/du)^T lambda[n+1]``.

    It is a chain itself, linear and from right to left. The last sweep of a forward solve goes through
    `record`, which is the linearisation; the last sweep of the adjoint solve goes through `collect`,
    which also gathers the parameter gradients ``(dPhi_n/dtheta_n)^T lambda[n+1]``.
    """

    linear = True
    reverse = True
    like: State | None = None
    """What a state looks like, for a rank without steps, which records none."""
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
