"""Multigrid reduction in time (MGRIT) in its full approximation scheme (FAS).

Solves ``u[0] = u0, u[n+1] - Phi_n(u[n]) = g[n+1]`` for all n at once. C-points are the multiples of
the coarsening m, the m steps between two of them are an interval. Two levels:

1. F-relaxation: every interval from its C-point, all at the same time; it arrives at
   ``z_i = Phi^m(u_{i-1})`` (with g added on the way).
2. optionally CF-relaxation: ``u_i <- z_i`` and another F-relaxation.
3. coarse problem: ``v_i = Phi_c(v_{i-1}) + tau_i`` with ``tau_i = z_i - Phi_c(u_{i-1})``; on more
   levels it is solved by the same cycle. For a linear chain the correction alone is solved for.
4. ``u_i <- v_i``, F-relaxation. The last one of a cycle is the first one of the next.

Trailing steps that fill no interval (the leading ones of an adjoint) are propagated as they are.
Source: Guenther, Ruthotto, Schroder, Cyr, Gauger (2020), section 3.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..chain import (
    Adjoint,
    Chain,
    CoarseOperator,
    Intervals,
    Recorder,
    State,
    copy_into,
    state_map,
    two_norm,
)
from ..errors import UnknownNameError, named_options
from ..group.base import Link, Pending
from ..group.blocks import Blocks
from ..group.placement import Placement, move_arrivals, move_points
from ..solution import Solution
from .serial import MEMORY, Serial

Norm = Callable[[State], Tensor]
CHOICES = {
    "cycle": ("V", "F", "W"),
    "coarse": ("inject", "mean_parameters", "mean_residual", "picard"),
    "start": ("coarse", "nested", "constant"),
    "memory": MEMORY,
}


@named_options
@dataclass(frozen=True)
class MGRIT:
    """Layer-parallel multigrid for the forward and the adjoint propagation.

    Args:
        levels: number of levels, the fine one included.
        coarsening: m, one for all levels or one per coarsening.
        relaxation: number of CF-relaxations that follow the F-relaxation, one for all levels or one
            per level: 0 is F, 1 is FCF, nu is F(CF)^nu.
        cycle: "V", "F" or "W".
        forward_cycles: cycles of the forward solve.
        adjoint_cycles: cycles of the adjoint solve.
        tolerance: stop when the residual at the C-points, relative to the states there, is at most
            this; the cycles are then an upper bound.
        coarse: coarse operator: "inject", "mean_parameters", "mean_residual" or "picard", from the
            cheapest to the most accurate; see `CoarseOperator`.
        samples: for the last two, into how many groups of layers a coarse step is divided at most;
            None for one group a layer.
        start: first guess: "coarse" solves the coarsest level and interpolates, "nested" adds one
            V-cycle on every level on the way up (full multigrid), "constant" puts u[0] everywhere.
        first_down: whether the first cycle has a down part. If not, it is the coarse start and one
            fine sweep. A guess that is given (warm start) always gets its down part.
        smallest: fewest steps of the coarsest level. With 2 or more, `levels` is an upper bound:
            levels that would have fewer steps are left out; with 1 it is an error if they have none.
        warm_start: begin from the states of the last solve with the same batch (see `Network`).
        memory: "store" keeps what the adjoint needs of every step; "recompute" keeps the C-points.
        guard: fall back to the serial solver, for this batch, when residuals grow or are not finite.
        norm: norm of residuals, of an array of states (points, ...) in the chain's own layout.
    """

    levels: int = 2
    coarsening: int | tuple[int, ...] = 8
    relaxation: int | tuple[int, ...] = 0
    cycle: Literal["V", "F", "W"] = "V"
    forward_cycles: int = 2
    adjoint_cycles: int = 2
    tolerance: float | None = None
    coarse: Literal["inject", "mean_parameters", "mean_residual", "picard"] = "inject"
    samples: int | None = None
    start: Literal["coarse", "nested", "constant"] = "coarse"
    first_down: bool = False
    smallest: int = 1
    warm_start: bool = False
    memory: Literal["store", "recompute"] = "store"
    guard: bool = True
    norm: Norm = two_norm

    def __post_init__(self) -> None:
        _check_settings(self)

    @property
    def forward(self) -> MGRIT:
        return self

    @property
    def adjoint(self) -> MGRIT:
        """The same solver with the adjoint's number of cycles."""
        return replace(self, forward_cycles=self.adjoint_cycles)

    @property
    def operator(self) -> CoarseOperator:
        return CoarseOperator(self.coarse, self.samples)

    def factors(self, steps: int) -> list[int]:
        """The coarsening from every level to the next, for a chain of `steps` steps."""
        factors: list[int] = []
        while len(factors) < self.levels - 1:
            m = _of_level(self.coarsening, len(factors))
            if steps // m < self.smallest:
                break
            factors.append(m)
            steps //= m
        return factors

    def relaxations(self, level: int) -> int:
        return _of_level(self.relaxation, level)

    def check(self, steps: int) -> None:
        """Refuses a chain on which the coarse levels cannot be built.

        Raises:
            ValueError: the coarsening is beyond the depth, or there are more levels than it allows.
        """
        built = len(self.factors(steps)) + 1
        if 1 < built < self.levels and self.smallest == 1:
            raise ValueError(
                f"levels={self.levels} cannot be built on a chain of {steps} steps by coarsening "
                f"{self.coarsening}; use levels={built} or less, or smallest=2 to stop where it ends"
            )
        if built == 1:
            m = _of_level(self.coarsening, 0)
            raise ValueError(
                f"coarsening {m} leaves {steps // m} coarse steps of a chain of {steps}, fewer than "
                f"{self.smallest}; use a coarsening of at most {max(steps // self.smallest, 1)} or "
                "Serial()"
            )

    def groups(self, steps: int) -> int:
        """In how many groups the intervals are recomputed; 1 if everything is stored."""
        if self.memory == "store":
            return 1
        return max(2, round((steps // self.factors(steps)[0]) ** 0.5))

    def solve(
        self,
        chain: Chain,
        u0: State,
        guess: State | None = None,
        recorder: Recorder | None = None,
        collect: bool = False,
    ) -> Solution:
        """Propagates u0 through the chain.

        Args:
            chain: a forward chain or an adjoint.
            u0: the known state at the chain's beginning (its right end for an adjoint), (1, ...).
            guess: array of C-point states 0..K of level 0 to start from.
            recorder: an adjoint that records the last sweep, its linearisation.
            collect: the last sweep of an adjoint chain also collects the parameter gradients.
        """
        return _Solve(self, chain, u0, recorder, collect).run(guess)


def Parareal(
    coarsening: int = 8, forward_cycles: int = 2, adjoint_cycles: int = 2, **options: object
) -> MGRIT:
    """Parareal (Lions, Maday, Turinici 2001): two-level MGRIT with F-relaxation.

    Every coarse step propagates a whole time slice of `coarsening` steps. Further options are those
    of `MGRIT`, but for levels and relaxation.
    """
    fixed = {"levels": 2, "relaxation": 0}
    for name in fixed.keys() & options.keys():
        raise TypeError(f"Parareal has {name}={fixed[name]}; use MGRIT to choose another value")
    return MGRIT(
        coarsening=coarsening,
        forward_cycles=forward_cycles,
        adjoint_cycles=adjoint_cycles,
        **fixed,  # type: ignore[arg-type]
        **options,  # type: ignore[arg-type]
    )


class _Solve:
    """One run of the algorithm, on this rank's blocks of all levels.

    `points[l]` are the C-points of level l where its intervals are, `states[l + 1]` the states of the
    next level where its steps are. They are one array unless an interval of that level would be cut
    between two ranks, or every rank is to solve the coarsest level: then the states move.
    """

    def __init__(self, solver: MGRIT, chain: Chain, u0: State, recorder: Recorder | None, collect: bool):
        self.solver, self.u0, self.recorder, self.collect = solver, u0, recorder, collect
        self.backward, self.linear = chain.reverse, chain.linear
        place = Placement.of(chain)
        self.group = place.group
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
        self.evaluations = [0] * len(self.chains)

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

    def advance(self, level: int, u: State, over: Intervals, keep: bool = True) -> State:
        if not over.evaluations:
            return u
        self.evaluations[level] += over.evaluations
        into = self.states[level] if level and keep else None
        arrived = self.chains[level].advance(u, over, self.rhs[level] if keep else None, into)
        self.lap(level)
        return arrived

    def sweep(self, level: int, last: bool = False, coming: Pending | None = None) -> State:
        """F-relaxation, and one step further: where every interval arrives.

        `coming` is the C-point that the first interval of this rank departs from, still under way.
        """
        over, chain = self.inside[level], self.chains[level]
        departures = chain.depart(self.points[level], over_points(over))
        if (
            coming is not None and over.count > 1 and chain.looped(departures)
        ):  # the others do not wait for it
            m, behind = over.length, over.count - 1
            edge, others = (behind, slice(0, behind)) if self.backward else (0, slice(1, None))
            inner = Intervals(others.start * m, behind, m)
            arrived = self.advance(level, tuple(d[others] for d in departures), inner)
            coming.wait()
            alone = tuple(d[edge : edge + 1] for d in departures)
            alone = self.advance(level, alone, Intervals(edge * m, 1, m))
            ordered = (arrived, alone) if self.backward else (alone, arrived)
            return state_map(lambda a, b: torch.cat([a, b]), *ordered)
        if coming is not None:
            coming.wait()
        if level or not last:
            return self.advance(level, departures, over)
        return self._finally(departures, over)

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

    def arrivals(self, level: int) -> State:
        """The C-points that the intervals of a level arrive at: views into `points`."""
        return self.chains[level].arrive(self.points[level], over_points(self.inside[level]))

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

    def hand_on(self, level: int) -> Pending:
        """Starts sending the last C-point of this rank's intervals to the rank they go on at."""
        points = self.points[level]
        before, behind = self.places[level].next_to(self.backward)
        return self.group.shift(self.final(points), behind, before, self.first(points))

    # ---- cycles -----------------------------------------------------------------------------

    def relax(self, level: int, arrived: State) -> State:
        for _ in range(self.solver.relaxations(level)):
            copy_into(self.arrivals(level), arrived)
            arrived = self.sweep(level, coming=self.hand_on(level))
        return arrived

    def correct(self, level: int, arrived: State, kind: str) -> None:
        """Coarse correction of the C-points of `level` from where its intervals arrived."""
        coarse = level + 1
        points = self.points[level]
        before = tuple(p.clone() for p in points) if self.linear else points
        every = Intervals(0, self.chains[coarse].steps, 1)
        if self.linear:  # the correction alone: zero guess, the residual on the right
            residual = state_map(torch.sub, arrived, self.arrivals(level))
            right = self.arrived_down(level, residual)
            for s in self.states[coarse]:
                s.zero_()
        else:
            right = self.arrived_down(level, arrived)
            if self.states[coarse] is not points:
                copy_into(self.states[coarse], self.down(level, points))
            departures = self.chains[coarse].depart(self.states[coarse], every)
            right = state_map(torch.sub, right, self.advance(coarse, departures, every, keep=False))
        rhs = tuple(torch.zeros_like(s) for s in self.states[coarse])
        copy_into(self.chains[coarse].arrive(rhs, every), right)
        self.rhs[coarse] = rhs
        self.solve_level(coarse, kind)
        self.rhs[coarse] = None
        if self.states[coarse] is not points:
            copy_into(points, self.up(level))
        if self.linear:
            for p, b in zip(points, before, strict=True):
                p.add_(b)

    def solve_level(self, level: int, kind: str) -> None:
        """One cycle on a coarse level, or its exact solution on the coarsest."""
        if level == self.bottom:
            self.solve_coarsest()
            return
        again = {"V": [], "F": ["V"], "W": ["W"]}[kind]
        for visit in (kind, *again):
            for target, source in zip(self.points[level], self.states[level], strict=True):
                target.copy_(source[: self.inside[level].stop + 1 : self.inside[level].length])
            self.begin(level, self.first(self.states[level]))
            arrived = self.relax(level, self.sweep(level))
            self.correct(level, arrived, visit)
            self.end(level)

    def solve_coarsest(self) -> None:
        """From its beginning, step by step, one rank after the other."""
        level = self.bottom
        states, steps = self.states[level], self.chains[level].steps

        def work(begin: State) -> State:
            copy_into(self.first(states), begin)
            return self.advance(level, begin, Intervals(0, 1, steps))

        if steps:
            before, behind = self.places[level].next_to(self.backward)
            self.group.relay(self.first(states), behind, before, work)

    # ---- the whole solve --------------------------------------------------------------------

    def start(self, guess: State | None) -> None:
        if guess is not None:
            copy_into(self.points[0], guess)
        self.begin(0, self.u0)
        if guess is not None:
            return
        if self.solver.start == "constant":
            begin = tuple(p.clone() for p in self.first(self.points[0])) if self.begins(0) else self.u0
            for p, b in zip(self.points[0], begin, strict=True):
                b = b.contiguous()
                self.group.broadcast(b, self.places[0].ends(self.backward)[0])
                p.copy_(b.expand_as(p))
            return
        for level in range(self.bottom):
            if level:
                self.begin(level, self.first(self.states[level]))
            if self.states[level + 1] is not self.points[level]:
                copy_into(self.states[level + 1], self.down(level, self.points[level]))
        self.solve_coarsest()
        for level in range(self.bottom - 1, -1, -1):
            if self.states[level + 1] is not self.points[level]:
                copy_into(self.points[level], self.up(level))
            if level:
                self.end(level)
                if self.solver.start == "nested":
                    self.solve_level(level, "V")

    def size(self, states: State) -> Tensor:
        """The norm of this rank's part of an array of states."""
        return self.solver.norm(states) if len(states[0]) else states[0].new_zeros(())

    def own(self, points: State) -> State:
        """Of this rank's C-points those that no other rank counts."""
        if self.group.alone:
            return points
        count = len(self.natural[1].owned[self.group.rank])
        return tuple(p[:count] for p in points)

    def sizes(self, *local: Tensor) -> list[Tensor]:
        """The norms over all ranks."""
        if self.group.alone:
            return list(local)
        total = self.group.total(torch.stack(local).double().square()).sqrt()
        return list(total.to(local[0].dtype).unbind())

    def run(self, guess: State | None) -> Solution:
        solver = self.solver
        self.start(guess)
        skip = guess is None and solver.start != "constant" and not solver.first_down
        done, limit = (1 if skip else 0), solver.forward_cycles
        always = solver.tolerance is not None
        solution = Solution(end=self.u0)
        residuals: list[Tensor] = []
        corrections: list[Tensor] = []
        while True:
            # any sweep may prove to be the last: recording again is free, collecting again is not
            last = done == limit if not always else self.recorder is not None
            if last and self.recorder is not None:
                self.recorder.restart()
            arrived = self.sweep(0, last)
            residuals.append(self.size(state_map(torch.sub, arrived, self.arrivals(0))))
            scale = self.size(self.own(self.points[0]))
            if solver.tolerance is not None:
                residual, solution.scale_tensor = self.sizes(residuals[-1], scale)
                solution.residual_tensors.append(residual)
                solution.converged = solution.relative_residual <= solver.tolerance
            if done == limit or (always and solution.converged):
                break
            arrived = self.relax(0, arrived)
            old = tuple(p.clone() for p in self.points[0])
            self.correct(0, arrived, solver.cycle)
            corrections.append(self.size(self.own(state_map(torch.sub, self.points[0], old))))
            done += 1
        if always and self.collect:
            arrived = self.sweep(0, last=True)
        found = self.sizes(*residuals, *corrections, scale)
        solution.residual_tensors = found[: len(residuals)]
        solution.correction_tensors, solution.scale_tensor = found[len(residuals) : -1], found[-1]
        end = self.final(arrived) if len(arrived[0]) else self.u0
        if not self.backward and (rest := self.rest[0]) is not None:
            end = self._finally(end, rest)
        solution.end, solution.points = end, self.points[0]
        self.lap(0)
        solution.evaluations, solution.seconds = self.evaluations, self.seconds
        return solution


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


def _of_level(setting: int | tuple[int, ...], level: int) -> int:
    return setting if isinstance(setting, int) else setting[min(level, len(setting) - 1)]


def _check_settings(s: MGRIT) -> None:
    def refuse(name: str, bound: str) -> None:
        raise ValueError(f"{name}={getattr(s, name)!r} is out of range; use {bound}")

    coarsening = s.coarsening if isinstance(s.coarsening, tuple) else (s.coarsening,)
    relaxation = s.relaxation if isinstance(s.relaxation, tuple) else (s.relaxation,)
    for name in ("levels", "forward_cycles", "adjoint_cycles", "smallest"):
        if not isinstance(getattr(s, name), int):
            refuse(name, "a whole number")
    for name, several in (("coarsening", coarsening), ("relaxation", relaxation)):
        if not all(isinstance(value, int) for value in several):
            refuse(name, "a whole number, or a tuple of one per level")
    if s.levels < 2:
        refuse("levels", "2 or more, or Serial()")
    if not coarsening or any(m < 2 for m in coarsening):
        refuse("coarsening", "2 or more")
    if not relaxation or any(nu < 0 for nu in relaxation):
        refuse("relaxation", "0 (F), 1 (FCF) or more")
    if s.forward_cycles < 1:
        refuse("forward_cycles", "1 or more, or Split(forward=Serial(), ...)")
    if s.adjoint_cycles < 1:
        refuse("adjoint_cycles", "1 or more, or Split(..., adjoint=Serial())")
    if s.tolerance is not None and not s.tolerance > 0:
        refuse("tolerance", "a positive number or None")
    for name, known in CHOICES.items():
        if getattr(s, name) not in known:
            raise UnknownNameError(name, getattr(s, name), known)
    if s.samples is not None and s.samples < 1:
        refuse("samples", "1 or more, or None for all layers of an interval")
    if s.smallest < 1:
        refuse("smallest", "1 or more")


__all__ = ["MGRIT", "Parareal", "Serial"]
