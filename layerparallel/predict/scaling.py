"""Strong and weak scaling: a gradient on more and more ranks, beside what else they could do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..group import Link
from ..solvers import MGRIT, Serial
from ..solvers.measure import GradientError
from .baselines import OneRank, data_parallel, pipeline
from .parallel import Predicted, gradient_on
from .search import Search
from .task import Task

EXACT = GradientError(relative=0.0, cosine=1.0, worst_layer=0.0)


@dataclass(frozen=True)
class Row:
    """One number of ranks.

    Attributes:
        ranks, depth: P and N.
        serial: seconds of the gradient on one rank with `Serial()`, measured.
        layer: layer-parallel, in virtual time: measured computing and modelled messages.
        solver: with which solver; `Serial()` on one rank.
        error: of its gradient.
        others: seconds of data parallelism and pipelines: one rank measured, and a formula.
        microbatches: of the pipelines.
    """

    ranks: int
    depth: int
    serial: float
    layer: Predicted
    solver: MGRIT | Serial
    error: GradientError
    others: dict[str, float] = field(default_factory=dict)
    microbatches: dict[str, int] = field(default_factory=dict)

    @property
    def speedup(self) -> float:
        """Over one rank."""
        return self.serial / self.layer.seconds


@dataclass
class Study:
    """What is asked of every row.

    Attributes:
        link: what messages cost.
        bound: on the relative error of the gradient.
        few: solvers that are run of those the estimate finds quickest.
        solvers: candidates; None for all that the depth allows.
        say: called with a line whenever there is news.
    """

    link: Link
    bound: float = 0.1
    few: int = 2
    solvers: tuple[MGRIT, ...] | None = None
    say: Callable[[str], None] = lambda line: None

    def strong(self, task: Task, ranks: Sequence[int]) -> tuple[list[Row], Search, OneRank]:
        """The network on more and more ranks; also the search and the measurements, for more of it."""
        search, one = Search.of(task, self.bound, self.solvers), OneRank(task)
        return [self.row(search, one, count) for count in ranks], search, one

    def weak(self, task: Task, ranks: Sequence[int], layers: int) -> list[Row]:
        """So many layers on every rank: a deeper network on more ranks, at the same batch and T."""
        found, share = [], None
        for count in ranks:
            deeper = task.at(layers * count)
            search = Search.of(deeper, self.bound, self.solvers)
            one = OneRank(deeper, share)
            found.append(self.row(search, one, count))
            share = one.weights  # that of one depth is that of all
        return found

    def row(self, search: Search, one: OneRank, ranks: int) -> Row:
        """One number of ranks; the quickest of the solvers that are run."""
        task = search.task
        serial = one().total
        best, solver, error = Predicted(1, serial, serial, 0.0, 0, 0), Serial(), EXACT
        if ranks > 1:
            tried = [(gradient_on(ranks, task, s, self.link), s) for s in self._worth_it(search, ranks)]
            if tried:
                best, solver = min(tried, key=lambda pair: pair[0].seconds)
                error = search.errors(solver)
        pipes = {name: pipeline(one, ranks, self.link, name) for name in ("1f1b", "zb-h1", "zb-h2")}
        others = {"data": data_parallel(one, ranks, self.link)}
        others |= {name: each.seconds for name, each in pipes.items()}
        microbatches = {name: each.microbatches for name, each in pipes.items()}
        found = Row(ranks, task.depth, serial, best, solver, error, others, microbatches)
        self.say(
            f"{ranks} ranks, {task.depth} layers: {1e3 * best.seconds:.3g} ms, {found.speedup:.2f}x"
        )
        return found

    def _worth_it(self, search: Search, ranks: int) -> list[MGRIT]:
        return search.best(ranks, self.link, self.few)
