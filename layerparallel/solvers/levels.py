"""The levels of one multigrid solve: their chains, where their steps are, and the states in between."""

from __future__ import annotations

import math
import time

import torch

from ..chains.chain import Adjoint, Chain, Intervals, Recorder
from ..chains.placement import move_arrivals, move_points
from ..group.base import Link, Pending
from ..group.blocks import Blocks
from ..steps.state import State, copy_into
from .settings import Settings


class Levels:
    """What a solve has of its levels on this rank, and how states come from one to the next.

    `points[l]` are the C-points of level l where its intervals are, `states[l + 1]` the states of the
    next level where its steps are. They are one array unless an interval of that level would be cut
    between two ranks, or every rank is to solve the coarsest level: then the states move.
    """

    def __init__(
        self, solver: Settings, chain: Chain, u0: State, recorder: Recorder | None, collect: bool
    ):
        self.u0, self.recorder, self.collect = u0, recorder, collect
        self.backward, self.linear = chain.reverse, chain.linear
        place = chain.place
        self.group = place.group
        self.solver = solver = solver.fitted(place.depth, chain.allows_picard)
        factors = solver.factors(place.depth)
        self.bottom = len(factors)
        self.seconds, self.clock = [0.0] * (self.bottom + 1), time.perf_counter()
        self.chains, self.places = [chain], [place]
        self.natural, span = [place.blocks], 1
        for level, m in enumerate(factors, start=1):
            natural = self.places[-1].blocks.coarsened(m)
            span *= m
            following = factors[level] if level < self.bottom else None
            blocks = self.distributed(natural, following, span)
            on_ranks = () if self.group.alone else (blocks,)
            self.chains.append(self.chains[-1].coarsen(m, solver.operator, *on_ranks))
            self.places.append(place.coarser(blocks))
            self.natural.append(natural)
            self.lap(level)
        self.inside, self.rest = [], []
        for level, m in enumerate(factors):
            steps = self.chains[level].steps
            count = steps // m
            self.inside.append(Intervals(0, count, m))
            left = steps - count * m
            self.rest.append(Intervals(count * m, 1, left) if left else None)
        self.points = [
            tuple(u.new_zeros((len(blocks.points[self.group.rank]), *u.shape[1:])) for u in u0)
            for blocks in self.natural[1:]
        ]
        self.states: list[State] = [(), *self.points]
        for level, place in enumerate(self.places):
            if level and place.blocks != self.natural[level]:
                count = len(place.blocks.points[self.group.rank])
                self.states[level] = tuple(u.new_zeros((count, *u.shape[1:])) for u in u0)
        self.rhs: list[State | None] = [None] * len(self.chains)
        self.less: list[State | None] = [None] * len(self.chains)
        self.evaluations = [0] * len(self.chains)
        self.exact = 0
        """How many intervals of level 0, counted from the beginning, are known to arrive exactly."""
        self.span = math.prod(factors[1:])
        """Of those, how many make one step of the coarsest level."""

    def distributed(self, natural: Blocks, following: int | None, span: int) -> Blocks:
        """Which steps of a coarse level every rank has, given where their intervals are."""
        if self.group.alone:
            return natural
        if following is not None:
            return natural.aligned(following)
        state = sum(u.numel() * u.element_size() for u in self.u0)
        step = self.chains[0].layer_bytes * self.solver.operator.groups(span)
        if gathered_is_quicker(natural, state, step, self.group.link):
            return Blocks.everywhere(natural.steps, self.group.size)
        return natural

    def lap(self, level: int) -> None:
        """Books the time since the last lap on a level."""
        now = time.perf_counter()
        self.seconds[level] += now - self.clock
        self.clock = now

    # ---- one level --------------------------------------------------------------------------

    def advance(self, level: int, u: State, over: Intervals) -> State:
        if not over.evaluations:
            return u
        self.evaluations[level] += over.evaluations
        into = self.states[level] if level else None
        arrived = self.chains[level].advance(u, over, self.rhs[level], into, self.less[level])
        self.lap(level)
        return arrived

    def reference(self, level: int) -> State:
        """Where all steps of a level arrive from its present states, one for every step."""
        every, chain = Intervals(0, self.chains[level].steps, 1), self.chains[level]
        departures = chain.depart(self.states[level], every)
        if not chain.steps:
            return departures
        self.evaluations[level] += chain.steps
        arrived = chain.reference(departures, every)
        self.lap(level)
        return arrived

    def _finally(self, u: State, over: Intervals) -> State:
        """The last pass over steps of the finest level: recorded, or its gradients collected."""
        if not over.evaluations:
            return u
        self.evaluations[0] += over.evaluations
        chain = self.chains[0]
        if self.recorder is not None:
            arrived = self.recorder.record(u, over)
        elif self.collect and isinstance(chain, Adjoint):
            arrived = chain.collect(u, over)
        else:
            arrived = chain.advance(u, over)
        self.lap(0)
        return arrived

    def arrivals(self, level: int, array: State | None = None) -> State:
        """The C-points that the intervals of a level arrive at: views into `points`, or `array`."""
        array = self.points[level] if array is None else array
        return self.chains[level].arrive(array, over_points(self.inside[level]))

    def reached(self, level: int, arrived: State) -> State:
        """Array of C-points: where the intervals of a level arrived, on this rank and the one before."""
        array = tuple(p.clone() for p in self.points[level])
        copy_into(self.arrivals(level, array), arrived)
        self.hand_on(level, array).wait()
        return array

    def behind_steps(self, level: int, arrived: State) -> State:
        """Array of states of a level: what every step arrives at; nothing where it begins."""
        array = tuple(torch.empty_like(s) for s in self.states[level])
        every = Intervals(0, self.chains[level].steps, 1)
        copy_into(self.chains[level].arrive(array, every), arrived)
        return array

    def first(self, states: State) -> State:
        """The beginning of an array of states, in the chain's direction, as a view."""
        return tuple(s[-1:] if self.backward else s[:1] for s in states)

    def final(self, states: State) -> State:
        """The end of an array of states."""
        return tuple(s[:1] if self.backward else s[-1:] for s in states)

    def begins(self, level: int) -> bool:
        """Whether a level begins on this rank."""
        blocks, rank = self.places[level].blocks, self.group.rank
        return blocks.repeated or rank == self.places[level].ends(self.backward)[0]

    def begin(self, level: int, start: State) -> None:
        """Puts the known beginning of a level into its first C-point."""
        if not self.begins(level):
            return
        if self.backward and (rest := self.rest[level]) is not None:
            start = self.advance(level, start, rest) if level else self._finally(start, rest)
        copy_into(self.first(self.points[level]), start)

    def end(self, level: int) -> None:
        """After a coarse correction: C-points into the level's own states, F-points, the rest."""
        over, states, points = self.inside[level], self.states[level], self.points[level]
        m = over.length
        closing = Intervals(0, over.count, m, walk=m - 1)
        self.advance(level, self.chains[level].depart(points, over_points(over)), closing)
        for target, source in zip(states, points, strict=True):
            target[: over.stop + 1 : m] = source
        if not self.backward and (rest := self.rest[level]) is not None:
            self.advance(level, tuple(p[-1:] for p in points), rest)

    # ---- between levels and ranks -----------------------------------------------------------

    def down(self, level: int, points: State) -> State:
        """An array of C-points of `level` as one of states of the next level."""
        coarse = level + 1
        return move_points(self.group, points, self.natural[coarse], self.places[coarse].blocks)

    def arrived_down(self, level: int, arrived: State) -> State:
        """Where the intervals of `level` arrive, one for every step of the next level."""
        coarse = level + 1
        return move_arrivals(self.group, arrived, self.natural[coarse], self.places[coarse].blocks)

    def up(self, level: int) -> State:
        """The inverse of `down`, of the next level's states."""
        coarse = level + 1
        states, blocks = self.states[coarse], self.places[coarse].blocks
        return move_points(self.group, states, blocks, self.natural[coarse])

    def hand_on(self, level: int, points: State) -> Pending:
        """Starts sending the last C-point of this rank's intervals to the rank they go on at."""
        before, behind = self.places[level].next_to(self.backward)
        return self.group.shift(self.final(points), behind, before, self.first(points))


def gathered_is_quicker(blocks: Blocks, state: int, step: int, link: Link) -> bool:
    """Whether every rank should solve the coarsest level by itself, rather than one after the other.

    Args:
        blocks: where its steps are.
        state: bytes of a state.
        step: bytes of the parameters of a coarse step.
        link: between the ranks.
    """
    if len(blocks.occupied) < 2:
        return False
    relayed = (len(blocks.occupied) - 1) * link.seconds(state)
    rounds = math.ceil(math.log2(len(blocks.ranges)))
    gathered = 2 * rounds * link.latency  # states and right-hand sides
    gathered += blocks.steps * (2 * state + step) * link.seconds_per_byte
    return gathered < relayed


def over_points(over: Intervals) -> Intervals:
    """The intervals of a level as the steps of the level below."""
    return Intervals(0, over.count, 1)
