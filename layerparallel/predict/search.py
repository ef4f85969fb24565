"""Which solver is the quickest on a layer group: estimated for all, measured for a few."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from functools import cache
from itertools import islice

from ..group import Link
from ..solvers import MGRIT, Serial
from ..solvers.measure import GradientError, Gradients, compare
from .baselines import EXACT, SERIAL, OneRank, Plain, Split, Timed, Way
from .estimate import Estimates
from .parallel import Predicted, gradient_on
from .task import Task

FIRST = (2, 4, 8, 16, 32)
BELOW = (2, 4, 8)
"""Coarsenings that are tried: from the finest level to the next, and below it."""
OPERATORS = (("inject", None), ("mean_parameters", None), ("picard", 1), ("picard", 4))
CYCLES = (1, 2)
SAMPLES = 64
"""Of the batch, on which the error of a gradient is found."""
TRIALS = 60
"""Most solvers whose error is found for one number of ranks."""
USELESS = GradientError(relative=math.inf, cosine=0.0, worst_layer=math.inf)


@cache
def candidates(steps: int) -> tuple[MGRIT, ...]:
    """Solvers for a chain of so many steps: every depth of the hierarchy, a few operators and cycles."""
    found: dict[tuple[int, ...], None] = {}
    for first in FIRST:
        for below in BELOW:
            factors, left = [first], steps // first
            while left >= 2:
                found[tuple(factors)] = None
                factors, left = [*factors, below], left // below
    return tuple(
        MGRIT(
            levels=len(factors) + 1,
            coarsening=factors,
            forward_cycles=cycles,
            adjoint_cycles=cycles,
            coarse=coarse,  # type: ignore[arg-type]
            samples=samples,
        )
        for factors in found
        for coarse, samples in OPERATORS
        for cycles in CYCLES
    )


@dataclass
class Errors:
    """How far the gradients of solvers are from the exact one, on one process; found once for each.

    The number of ranks does not change a gradient, so that of one process is that of all. Where a solve
    misbehaves, and would be replaced by the serial one, the error is infinite.
    """

    task: Task
    _exact: Gradients | None = None
    _found: dict[MGRIT, GradientError] = field(default_factory=dict)

    def __call__(self, solver: MGRIT) -> GradientError:
        if solver not in self._found:
            self._found[solver] = self._measured(solver)
        return self._found[solver]

    def _measured(self, solver: MGRIT) -> GradientError:
        task = self.task.part(min(self.task.batch, SAMPLES))
        if self._exact is None:
            self._exact = task.gradients(Serial())
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            found = task.gradients(solver)
        if any(each.fallback for each in (*task.network.solutions, *task.network.adjoint_solutions)):
            return USELESS
        return compare(found, self._exact, task.depth)

    def known(self) -> list[MGRIT]:
        """The solvers whose error was found."""
        return list(self._found)


@dataclass
class Search:
    """The quickest solvers of a task, at one depth, whose gradient is exact enough.

    Whatever it measures it measures once, so that the same ranks with the same solver have one time
    wherever they are shown.

    Attributes:
        bound: on the relative error of the gradient.
        few: solvers that are measured of those the estimate finds quickest.
        wanted: candidates to choose from; all of `candidates` if None.
    """

    task: Task
    link: Link
    estimates: Estimates
    one: OneRank
    bound: float = 0.1
    few: int = 2
    wanted: tuple[MGRIT, ...] | None = None
    _groups: dict[tuple[int, Way, int], Predicted] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.errors = Errors(self.task)

    def best(self, ranks: int) -> list[MGRIT]:
        """The few that the estimate finds quickest on so many ranks, the quickest first."""
        known = candidates(self.task.depth) if self.wanted is None else self.wanted
        order = sorted(known, key=lambda solver: self.estimate(solver, ranks))
        return list(islice(filter(self.exact_enough, order[:TRIALS]), self.few))

    def estimate(self, solver: MGRIT, ranks: int) -> float:
        """Seconds of a gradient of the whole batch, not measured."""
        return self.estimates(solver, ranks, self.link, self.task.depth, self.task.batch)

    def exact_enough(self, solver: MGRIT) -> bool:
        """Whether its gradient is within the bound."""
        return self.errors(solver).relative <= self.bound

    def on(self, ranks: int, way: Way, samples: int | None = None) -> Predicted:
        """A gradient of so many samples, of the whole batch if None, on a layer group: measured."""
        samples = self.task.batch if samples is None else samples
        if (ranks, way, samples) not in self._groups:
            self._groups[ranks, way, samples] = self._measured(ranks, way, samples)
        return self._groups[ranks, way, samples]

    def _measured(self, ranks: int, way: Way, samples: int) -> Predicted:
        if ranks == 1:
            seconds = self.one(samples, way).total
            return Predicted(1, seconds, seconds, waiting=0.0, messages=0, bytes=0)
        assert not isinstance(way, Plain)
        return gradient_on(ranks, self.task.part(samples), way, self.link)

    def quickest(self, ranks: int) -> tuple[Timed, Predicted]:
        """The quickest solver that was measured on a layer group of so many ranks.

        `Serial()` is among them on one rank, and is taken there where no solver is exact enough.
        """
        ways: list[tuple[int, Serial | MGRIT, GradientError]]
        ways = [(ranks, solver, self.errors(solver)) for solver in self.best(ranks)]
        if ranks == 1 or not ways:
            ways.append((1, SERIAL, EXACT))
        found = []
        for count, way, error in ways:
            predicted, split = self.on(count, way), Split(self.task.depth, way, layer=count)
            found.append((Timed(split, predicted.seconds, error), predicted))
        return min(found, key=lambda each: each[0].seconds)
