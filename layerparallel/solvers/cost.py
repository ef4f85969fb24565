"""Performance model: what a solve costs, in step evaluations, before it is run.

`schedule` lists what a solver does, by running the real algorithm on a chain without content;
`step_evaluations` is the closed form, level by level. Both equal what a `Solution` has counted.
N layers, coarsening m, L levels, k cycles, nu CF-relaxations; one step evaluation costs 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from ..chains.chain import Chain, Intervals
from ..chains.coarse import CoarseOperator
from ..steps.state import State
from . import MGRIT, Serial

Role = Literal["serial", "start", "relaxation", "right-hand side", "coarse solve", "correction", "rest"]


@dataclass(frozen=True)
class Event:
    """`intervals` intervals advanced together by `length` steps each, on one level.

    Interval i begins at step `first + i stride` of its level; an adjoint walks it from its end.

    Attributes:
        role: ``serial`` propagation; ``start``, the coarsest level's first guess; ``relaxation``, an
            F-relaxation and one step on, to the next C-point; ``right-hand side`` of the full
            approximation scheme; ``coarse solve``, exact on the coarsest level; ``correction``, an
            F-relaxation from corrected C-points; ``rest``, steps that fill no interval.
    """

    level: int
    first: int
    intervals: int
    length: int
    stride: int
    role: Role

    @property
    def evaluations(self) -> int:
        return self.intervals * self.length


class _Silent(Chain):
    """A chain that writes down what it is asked to do; its states have no entries."""

    def __init__(self, steps: int, reverse: bool, events: list[Event], level: int = 0):
        self.steps, self.reverse, self.linear = steps, reverse, reverse
        self.events, self.level = events, level
        self.factor = 0  # of the coarsening to the next level; 0 on the coarsest

    def advance(
        self,
        u: State,
        over: Intervals,
        rhs: State | None = None,
        into: State | None = None,
        less: State | None = None,
    ) -> State:
        role = self.role(over, rhs is not None, into is not None)
        event = Event(self.level, over.first, over.count, over.walked, over.length, role)
        self.events.append(event)
        return u

    def role(self, over: Intervals, correcting: bool, kept: bool) -> Role:
        if self.level and not kept:
            return "right-hand side"
        if not self.factor:
            if not self.level:
                return "serial"
            return "coarse solve" if correcting else "start"
        if over.walked < over.length:
            return "correction"
        return "relaxation" if over.length == self.factor else "rest"

    def coarsen(self, factor: int, operator: CoarseOperator) -> _Silent:
        self.factor = factor
        return _Silent(self.steps // factor, self.reverse, self.events, self.level + 1)


def schedule(solver: Serial | MGRIT, steps: int, adjoint: bool = False) -> list[Event]:
    """What `solver` does on a chain of `steps` steps, event by event, without running a network.

    Raises:
        ValueError: the solver does not fit the depth.
    """
    solver.check(steps)
    events: list[Event] = []
    one = solver.adjoint if adjoint else solver.forward
    one.solve(_Silent(steps, adjoint, events), (torch.zeros(1, 0),))
    return events


def counted(events: list[Event]) -> list[int]:
    """Step evaluations per level of a schedule."""
    found = [0] * (1 + max(event.level for event in events))
    for event in events:
        found[event.level] += event.evaluations
    return found


def step_evaluations(
    solver: Serial | MGRIT, steps: int, adjoint: bool = False, fused: bool = True
) -> list[int]:
    """Step evaluations of a solve with a fixed number of cycles, per level, in closed form.

    Per interval and visit of a coarse level: ``(2 + nu) m - 1``, and one per coarse point for the
    right-hand side of the full approximation scheme (none for the linear adjoint). On the finest
    level the closing F-relaxation of a cycle is the opening one of the next, so k cycles take
    ``1 + k (1 + nu)`` sweeps of m; with ``fused=False`` the published count, (2 + nu) m - 1 a cycle.
    Trailing steps that fill no interval count once a visit. Of the coarsest level a forward solve leaves
    out the first steps, whose arrivals are exact already.
    """
    if isinstance(solver, Serial):
        return [steps]
    one = solver.adjoint if adjoint else solver.forward
    factors = one.factors(steps)
    bottom = len(factors)
    sizes = [steps]
    for m in factors:
        sizes.append(sizes[-1] // m)
    inner = [sizes[level + 1] * m for level, m in enumerate(factors)]
    rest = [sizes[level] - inner[level] for level in range(bottom)]
    total = [0] * (bottom + 1)

    def closing(level: int) -> int:
        return inner[level] - sizes[level + 1] + rest[level]

    def visit(level: int, cycle: str, exact: int = 0) -> None:
        """One call of the solver on a coarse level; `exact`: intervals of level 0 that arrive so."""
        if level == bottom:
            known = 0 if adjoint else exact // math.prod(factors[1:])
            total[bottom] += max(sizes[bottom] - known, 0)
            return
        for kind in {"V": "V", "F": "FV", "W": "WW"}[cycle]:
            total[level] += (1 + one.relaxations(level)) * inner[level] + closing(level)
            correct(level + 1, kind, exact)

    def correct(coarse: int, kind: str, exact: int) -> None:
        total[coarse] += 0 if adjoint else sizes[coarse]
        visit(coarse, kind, exact)

    corrections = one.forward_cycles
    if one.start != "constant":
        corrections -= 0 if one.first_down else 1
        total[bottom] += sizes[bottom]
        for level in range(1, bottom):
            total[level] += closing(level)
            if one.start == "nested":
                visit(level, "V")
    for k in range(corrections):
        correct(1, one.cycle, (k + 1) * (one.relaxations(0) + 1))
    sweeps = 1 + corrections * (1 + one.relaxations(0))
    if fused:
        total[0] += sweeps * inner[0] + rest[0]
    else:
        m, nu = factors[0], one.relaxations(0)
        total[0] += corrections * (((2 + nu) * m - 1) * sizes[1] + rest[0])
    return total


def work_per_layer(coarsening: int, first: int = 0, below: int = 1) -> float:
    """Estimate of a V-cycle's work per layer in the limit of many levels, as published.

    ``[(2 + nu0) m - 1]/m + ([(2 + nu) m - 1]/m + 1)/(m - 1)`` with nu0 = `first` and nu = `below`.
    """
    m = coarsening
    return ((2 + first) * m - 1) / m + (((2 + below) * m - 1) / m + 1) / (m - 1)


def critical_path(solver: MGRIT, steps: int, adjoint: bool = False) -> int:
    """Consecutive step evaluations of a solve with one worker per interval."""
    return sum(event.length for event in schedule(solver, steps, adjoint))


def modelled_speedup(solver: MGRIT, steps: int, workers: int, adjoint: bool = False) -> float:
    """Serial time over parallel time with `workers` workers, communication left out."""
    time = sum(-(-e.intervals // workers) * e.length for e in schedule(solver, steps, adjoint))
    return steps / time


def parareal_speedup(workers: int, cycles: int, cost_ratio: float) -> float:
    """``1 / (k/P + (k + 1)/R)``: parareal with one slice per worker, R = fine cost / coarse cost."""
    return 1 / (cycles / workers + (cycles + 1) / cost_ratio)


def exact_after(solver: MGRIT, steps: int) -> int:
    """Cycles with a coarse correction after which all C-points are exact, whatever the weights.

    ``ceil(floor(N / m0) / (nu0 + 1))``: each cycle carries the exact front on by one interval for the
    correction and one for every CF-relaxation. It is so in rounded arithmetic, too: what a coarse level
    adds is zero up to the front.
    """
    m = solver.factors(steps)[0]
    return -(-(steps // m) // (solver.relaxations(0) + 1))


def auxiliary_speedup(
    stages: int,
    propagation: float,
    loading: float = 0.0,
    coupling: float = 0.0,
    *,
    heaviest: float | None = None,
) -> float:
    """Serial time of an epoch over that of K stages trained at once: eq. (9) of Sun et al. (2021).

    ``1 / (s t / t_s + c / t_s)`` with ``t_s = t + d``. In the parallel epoch loading goes on beside the
    stages. All times are in one unit, of an epoch or of a mini batch.

    Args:
        stages: K, a worker for each.
        propagation: t, forward and backward pass through the whole network (t_f + t_b).
        loading: d, data loading (t_d).
        coupling: c, what only the parallel epoch does, on the slowest worker: losses of the interfaces,
            and fetching, exchanging and updating auxiliary variables and multipliers
            (t_psi + t_lambda + t_kappa).
        heaviest: s, the share of the propagation in the heaviest stage; 1/K, as published, if None.
    """
    share = 1 / stages if heaviest is None else heaviest
    return (propagation + loading) / (share * propagation + coupling)


def hybrid_speedup(parallel: float, ratio: float) -> float:
    """Serial time over that of m parallel and n serial epochs: eq. (11) of Sun et al. (2021).

    ``(1 + g) / (1/rho + g)``; below ``1 + 1/g``, whatever the parallel epochs gain.

    Args:
        parallel: rho, serial time of an epoch over that of a parallel one.
        ratio: g = n/m, serial epochs for every parallel one.
    """
    return (1 + ratio) / (1 / parallel + ratio)


__all__ = [
    "Event",
    "Role",
    "auxiliary_speedup",
    "counted",
    "critical_path",
    "exact_after",
    "hybrid_speedup",
    "modelled_speedup",
    "parareal_speedup",
    "schedule",
    "step_evaluations",
    "work_per_layer",
]
