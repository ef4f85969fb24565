"""What the adjoints of all chains share: recorded walks, recomputation, coarsening."""

from __future__ import annotations

import abc
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..group.blocks import Blocks
from ..steps.state import State, copy_into, state_map
from .chain import Adjoint, Chain, Intervals
from .coarse import CoarseOperator
from .placement import move_points

Tape = TypeVar("Tape")


class TapedAdjoint(Adjoint, Generic[Tape]):
    """An adjoint made of tapes: linearisations of recorded walks of the forward chain.

    Args:
        chain: the forward chain.
        states: array of the states 0..N to linearise about, for walks that were not recorded.
        groups: 1 keeps the tapes of recorded walks (memory policy "store"); more keeps only their
            departures and records them again in that many groups of intervals, each when it is
            needed ("recompute").

    Attributes:
        like: what a state looks like, for a rank without steps, which records none.
    """

    def __init__(self, chain: Chain, states: State | None = None, groups: int = 1):
        self.chain, self.states, self.groups = chain, states, groups
        self.steps, self.placement = chain.steps, chain.placement
        self.recorded = 0
        self.keep = False
        self._tapes: dict[Intervals, Tape] = {}
        self._departures: dict[Intervals, State] = {}
        self._gradients: dict[int, Tensor] = {}

    def looped(self, u: State) -> bool:
        return self.chain.looped(u)

    @property
    def allows_picard(self) -> bool:
        return self.chain.allows_picard

    @property
    def layer_bytes(self) -> int:
        return self.chain.layer_bytes

    @abc.abstractmethod
    def _tape(self, u: State, over: Intervals, onto: State | None = None) -> Tape:
        """Linearises a walk from departures u, or along the known states of the array `onto`."""

    @abc.abstractmethod
    def _visited(self, tape: Tape, over: Intervals) -> list[State]:
        """The states a tape passed, one entry per position, arrivals last."""

    @abc.abstractmethod
    def _end(self, tape: Tape) -> State:
        """The arrivals of a tape."""

    def _release(self, tape: Tape) -> None:
        """Called when a tape is dropped."""

    @abc.abstractmethod
    def _pull(
        self,
        tape: Tape,
        u: State,
        over: Intervals,
        collect: bool,
        rhs: State | None,
        into: State | None,
    ) -> State:
        """The adjoint walk along a tape; with `collect` the parameter gradients, too."""

    def record(self, u: State, over: Intervals) -> State:
        self._departures[over] = tuple(a.clone() for a in u)
        if self.groups > 1:
            return self.chain.advance(u, over)
        self._tapes[over] = self._tape(u, over)
        return self._end(self._tapes[over])

    def restart(self) -> None:
        """Forgets what was recorded: a later sweep is recorded in its place."""
        for tape in self._tapes.values():
            self._release(tape)
        self._tapes.clear()
        self._departures.clear()

    def free(self) -> None:
        self.restart()
        self.states = None

    def trajectory(self) -> State:
        """Array of the states 0..N that were recorded."""
        if self.states is None and not self.steps:
            assert self.like is not None
            self.states = tuple(a[:0] for a in self.like)
        if self.states is None:
            some = next(iter(self._departures.values()))
            array = tuple(a.new_empty((self.steps + 1, *a.shape[1:])) for a in some)
            for over, u in self._departures.items():
                if over in self._tapes:
                    visited = self._visited(self._tapes[over], over)
                    for target, state in zip(over.positions(array, 1), visited, strict=True):
                        copy_into(target, state)
                else:
                    self.chain.advance(u, over, into=array)
                    self.recorded += over.evaluations
            for over, u in self._departures.items():
                copy_into(over.left(array), u)
            self.states = array
        return self.states

    def coarsen(
        self, factor: int, operator: CoarseOperator, blocks: Blocks | None = None
    ) -> TapedAdjoint[Any]:
        """Coarsen, then transpose: linearised at every `factor`-th state of this level."""
        over = Intervals(0, self.steps // factor, factor)
        if self.states is None and over in self._departures:
            left = self._departures[over]
            points = tuple(torch.cat([a, a[-1:]]) for a in left)  # the last is never departed from
        else:
            points = tuple(a[: over.stop + 1 : factor] for a in self.trajectory())
        if blocks is None:
            return _about(self.chain.coarsen(factor, operator), points)
        place = self.place
        points = move_points(place.group, points, place.blocks.coarsened(factor), blocks)
        coarse = _about(self.chain.coarsen(factor, operator, blocks), points)
        coarse.like = self.like
        return coarse

    def advance(
        self,
        u: State,
        over: Intervals,
        rhs: State | None = None,
        into: State | None = None,
        less: State | None = None,
    ) -> State:
        if rhs is not None and less is not None:
            rhs = state_map(torch.sub, rhs, less)
        return self._back(u, over, False, rhs, into) if over.walked else u

    def collect(self, u: State, over: Intervals) -> State:
        return self._back(u, over, True)

    def _back(
        self,
        u: State,
        over: Intervals,
        collect: bool,
        rhs: State | None = None,
        into: State | None = None,
    ) -> State:
        whole = Intervals(over.first, over.count, over.length)
        if self.groups > 1:
            return self._back_in_groups(u, whole, collect)
        if whole not in self._tapes:
            states = self.trajectory()
            self._tapes[whole] = self._tape(whole.left(states), whole, onto=states)
            self.recorded += whole.evaluations
        arrivals = self._pull(self._tapes[whole], u, over, collect, rhs, into)
        if collect and not self.keep:
            self._release(self._tapes.pop(whole))
        return arrivals

    def _back_in_groups(self, u: State, over: Intervals, collect: bool) -> State:
        left = self._departures.get(over)
        if left is None:
            left = over.left(self.trajectory())
        # equal groups, where there are some, go through the same scratch memory
        even = (g for g in range(self.groups, 2 * self.groups) if over.count % g == 0)
        size = -(-over.count // next(even, self.groups))
        pieces = []
        for start in range(0, over.count, size):
            mine = slice(start, min(start + size, over.count))
            part = Intervals(over.first + start * over.length, mine.stop - start, over.length)
            tape = self._tape(tuple(a[mine] for a in left), part)
            self.recorded += part.evaluations
            pieces.append(self._pull(tape, tuple(a[mine] for a in u), part, collect, None, None))
            self._release(tape)
        return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))

    def _add_own(self, k: int, over: Intervals, gradient: Tensor) -> None:
        """Adds the gradient (steps of `over`, ...) of a parameter that every step has its own of."""
        before = self._gradients.get(k)
        if before is None:
            if gradient.shape[0] == self.steps:
                self._gradients[k] = gradient
                return
            before = gradient.new_zeros((self.steps, *gradient.shape[1:]))
            self._gradients[k] = before
        before[over.first : over.stop] += gradient

    def _add_shared(self, k: int, gradient: Tensor) -> None:
        before = self._gradients.get(k)
        self._gradients[k] = gradient if before is None else before + gradient

    def gradients(self) -> dict[int, Tensor]:
        """The parameter gradients collected, by the parameter's place among the chain's."""
        collected, self._gradients = self._gradients, {}
        return collected


def _about(chain: Chain, states: State) -> TapedAdjoint[Any]:
    """The adjoint of a chain about known states; of a coarse level it may be of another kind."""
    adjoint = chain.linearise()
    assert isinstance(adjoint, TapedAdjoint)
    adjoint.states = states
    return adjoint
