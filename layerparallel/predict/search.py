"""Which solver, and which split of the ranks over samples, layers and stages, is likely the quickest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache

from ..group import Link
from ..solvers import MGRIT, Serial
from ..solvers.measure import GradientError, Gradients, compare
from .baselines import SCHEDULES, OneRank, Pass, all_reduce, pipeline
from .estimate import Estimator
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

    The number of ranks does not change a gradient, so that of one process is that of all.
    """

    task: Task
    _exact: Gradients | None = None
    _found: dict[MGRIT, GradientError] = field(default_factory=dict)

    def __call__(self, solver: MGRIT) -> GradientError:
        task = self.task.part(min(self.task.batch, SAMPLES))
        if self._exact is None:
            self._exact = task.gradients(Serial())
        if solver not in self._found:
            unguarded = replace(solver, guard=False)  # else the error would be that of Serial()
            self._found[solver] = compare(task.gradients(unguarded), self._exact, task.depth)
        return self._found[solver]

    def known(self) -> list[MGRIT]:
        """The solvers whose error was found."""
        return list(self._found)


@dataclass
class Search:
    """The quickest solvers of a task whose gradient is exact enough.

    Attributes:
        bound: on the relative error of the gradient.
        wanted: candidates to choose from; all of `candidates` if None.
    """

    task: Task
    bound: float
    errors: Errors
    wanted: tuple[MGRIT, ...] | None = None
    estimators: dict[int, Estimator] = field(default_factory=dict)

    @classmethod
    def of(cls, task: Task, bound: float, wanted: tuple[MGRIT, ...] | None = None) -> Search:
        return cls(task, bound, Errors(task), wanted)

    def estimator(self, samples: int) -> Estimator:
        """Estimates for a batch of so many samples."""
        if samples not in self.estimators:
            self.estimators[samples] = Estimator.of(self.task.part(samples))
        return self.estimators[samples]

    def best(self, ranks: int, link: Link, few: int = 3) -> list[MGRIT]:
        """The few that the estimate finds quickest on so many ranks, the quickest first."""
        estimate = self.estimator(self.task.batch)
        known = candidates(self.task.depth) if self.wanted is None else self.wanted
        order = sorted(known, key=lambda solver: estimate(solver, ranks, link))
        return list(self._exact_enough(order, few))

    def exact_enough(self, solver: MGRIT) -> bool:
        """Whether its gradient is within the bound."""
        return self.errors(solver).relative <= self.bound

    def _exact_enough(self, order: list[MGRIT], few: int) -> Iterator[MGRIT]:
        for solver in order[:TRIALS]:
            if few and self.exact_enough(solver):
                few -= 1
                yield solver


@dataclass(frozen=True)
class Split:
    """Ranks as data x layer x pipeline, and what the estimate says.

    Attributes:
        data, layer, stages: factors of the number of ranks.
        solver: of the layer groups; `Serial()` where they have one rank.
        schedule: of the pipeline, and its number of microbatches; None and 1 without.
        seconds: of a gradient.
    """

    data: int
    layer: int
    stages: int
    solver: MGRIT | Serial
    schedule: str | None
    microbatches: int
    seconds: float


def splits(search: Search, one: OneRank, ranks: int, link: Link, solvers: list[MGRIT]) -> list[Split]:
    """All splits of so many ranks by powers of two, each with its best schedule, the quickest first.

    Args:
        solvers: exact enough; the quickest of them that fits is taken for every layer group.
    """
    found: list[Split] = []
    for data in _powers(min(ranks, search.task.batch)):
        for layer in _powers(ranks // data):
            stages = ranks // data // layer
            if data * layer * stages != ranks or stages * layer > search.task.depth:
                continue
            several = list(_split(search, one, data, layer, stages, link, solvers))
            found += sorted(several, key=lambda split: split.seconds)[:1]
    return sorted(found, key=lambda split: split.seconds)


def _split(
    search: Search,
    one: OneRank,
    data: int,
    layer: int,
    stages: int,
    link: Link,
    solvers: list[MGRIT],
) -> Iterator[Split]:
    samples = -(-search.task.batch // data)
    summed = all_reduce(link, search.task.parameter_bytes // (layer * stages), data)
    depth = -(-search.task.depth // stages)

    def quickest(samples: int) -> tuple[float, MGRIT | Serial]:
        """Of a layer group with a stage's layers."""
        if layer == 1:
            return one(samples).total * depth / search.task.depth, Serial()
        estimate = replace(search.estimator(samples), task=search.task.part(samples).at(depth))
        fitting = [s for s in solvers if len(s.factors(depth)) == s.levels - 1]
        return min(((estimate(s, layer, link), s) for s in fitting), key=lambda pair: pair[0])

    def stage(samples: int) -> Pass:
        total, share = quickest(samples)[0], one(samples)
        return Pass(total * share.forward / share.total, total * share.backward / share.total)

    if layer > 1 and not any(len(s.factors(depth)) == s.levels - 1 for s in solvers):
        return
    if stages == 1:
        seconds, solver = quickest(samples)
        mine = stage(samples)
        hidden = mine.backward if layer == 1 else 0.0  # a last sweep gives all gradients at once
        yield Split(data, layer, 1, solver, None, 1, seconds + max(0.0, summed - hidden))
        return
    mine = OneRank(search.task.part(samples), one.weight_share)
    for schedule in SCHEDULES[1:]:
        found = pipeline(mine, stages, link, schedule, stage)
        solver = quickest(-(-samples // found.microbatches))[1]
        yield Split(data, layer, stages, solver, schedule, found.microbatches, found.seconds + summed)


def _powers(most: int) -> list[int]:
    """1, 2, 4, ... up to the bound."""
    return [1 << k for k in range(most.bit_length())]
