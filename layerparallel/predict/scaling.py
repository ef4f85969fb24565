"""Strong and weak scaling: a gradient on more and more ranks, beside what else they could do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..group import Link
from ..solvers import MGRIT
from .baselines import PLAIN, SERIAL, OneRank, Timed, data_parallel, pipeline
from .estimate import Estimates
from .parallel import Predicted
from .search import Search
from .splits import splits
from .task import Task

PIPELINES = ("1f1b", "zb-h1", "zb-h2")


@dataclass(frozen=True)
class Row:
    """One number of ranks.

    Attributes:
        ranks, depth: P and N.
        plain: seconds of the gradient on one core in ordinary PyTorch, measured.
        serial: the same with `Serial()`.
        device: the quickest of the library on one core, `Serial()` or MGRIT; measured.
        layer: layer-parallel; one rank where no solver is exact enough.
        predicted: of that, measured computing and modelled messages.
        others: data parallelism and pipelines: one rank measured, and a formula.
    """

    ranks: int
    depth: int
    plain: float
    serial: float
    device: Timed
    layer: Timed
    predicted: Predicted
    others: dict[str, Timed] = field(default_factory=dict)

    @property
    def speedup(self) -> float:
        """Over ordinary PyTorch on one core."""
        return self.plain / self.layer.seconds

    @property
    def over_device(self) -> float:
        """Over the quickest of the library on one core."""
        return self.device.seconds / self.layer.seconds


@dataclass
class Study:
    """What is asked of every row, and what was measured for all of them.

    Attributes:
        link: what messages cost.
        bound: on the relative error of the gradient.
        few: solvers that are run of those the estimate finds quickest.
        solvers: candidates; None for all that the depth allows.
        say: called with a line whenever there is news.
    """

    task: Task
    link: Link
    bound: float = 0.1
    few: int = 2
    solvers: tuple[MGRIT, ...] | None = None
    say: Callable[[str], None] = lambda line: None

    def strong(self, ranks: Sequence[int]) -> list[Row]:
        """The network on more and more ranks."""
        return [self.row(self._whole, count) for count in ranks]

    def weak(self, ranks: Sequence[int], layers: int) -> list[Row]:
        """So many layers on every rank: a deeper network on more ranks, at the same batch and T."""
        return [self.row(self.at(layers * count), count) for count in ranks]

    def splits(self, row: Row, most: int) -> list[Timed]:
        """A row's ranks as data x layer x pipeline: the row's own splits, and so many more."""
        best = min((row.others[name] for name in PIPELINES), key=lambda each: each.seconds)
        return splits(self._whole, [row.layer, row.others["data"], best], row.ranks, most, self.at)

    def at(self, depth: int) -> Search:
        """Of the network at another depth; what it measures is forgotten with it."""
        if depth == self.task.depth:
            return self._whole
        return self._search(self.task.at(depth), self._whole.one.weight_share)

    @cached_property
    def _whole(self) -> Search:
        return self._search(self.task)

    @cached_property
    def _estimates(self) -> Estimates:
        return Estimates(self.task)

    def _search(self, task: Task, weights: float | None = None) -> Search:
        one = OneRank(task, weights)
        return Search(task, self.link, self._estimates, one, self.bound, self.few, self.solvers)

    def row(self, search: Search, ranks: int) -> Row:
        """One number of ranks, at the depth of the search."""
        depth, one = search.task.depth, search.one
        device, _ = search.quickest(1)
        layer, predicted = search.quickest(ranks)
        others = {name: pipeline(one, ranks, self.link, name) for name in PIPELINES}
        found = Row(
            ranks=ranks,
            depth=depth,
            plain=search.on(1, PLAIN).seconds,
            serial=search.on(1, SERIAL).seconds,
            device=device,
            layer=layer,
            predicted=predicted,
            others={"data": data_parallel(one, ranks, self.link), **others},
        )
        self.say(
            f"{ranks} ranks, {depth} layers: {1e3 * found.layer.seconds:.3g} ms, "
            f"{found.speedup:.2f} times plain PyTorch on one core"
        )
        return found
