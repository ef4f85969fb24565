"""What a layer group is compared with: one rank, data parallelism and pipelines, at equal work.

One rank is measured: ordinary PyTorch, and the library. The others are the quicker of the two exact ones
on fewer samples and a published formula, each in its own favour: the all-reduce is hidden behind the
backward pass, messages of a pipeline behind its steady state, and the number of microbatches is the best
one.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from ..group import Link
from ..solvers import MGRIT, Serial
from ..solvers.measure import GradientError
from .task import Task

SECONDS = 0.3
"""At least, of the gradients of which the median counts."""
EXACT = GradientError(relative=0.0, cosine=1.0, worst_layer=0.0)


@dataclass(frozen=True)
class Plain:
    """Ordinary PyTorch: `Network.to_serial()`, layer by layer, not compiled."""


Way = Plain | Serial | MGRIT
"""How the layers that a rank or a layer group has are propagated."""
PLAIN, SERIAL = Plain(), Serial()


@dataclass(frozen=True)
class Pass:
    """Seconds of one gradient on one rank: forward and backward."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        return self.forward + self.backward

    def times(self, factor: float) -> Pass:
        """So many times as long."""
        return Pass(factor * self.forward, factor * self.backward)


@dataclass
class OneRank:
    """The task on one rank, on all samples or fewer; every way of it is measured once for each.

    Attributes:
        weights: share of the backward pass that is parameter gradients, measured if not given.
    """

    task: Task
    weights: float | None = None
    _found: dict[tuple[Way, int], Pass] = field(default_factory=dict)

    def __call__(self, samples: int | None = None, way: Way = SERIAL) -> Pass:
        """Of a batch of so many samples; of the whole one if None."""
        samples = self.task.batch if samples is None else samples
        if (way, samples) not in self._found:
            self._found[way, samples] = self._measured(samples, way)
        return self._found[way, samples]

    def exact(self, samples: int) -> Way:
        """The quicker one of the two ways with an exact gradient."""
        return min((SERIAL, PLAIN), key=lambda way: self(samples, way).total)

    def _measured(self, samples: int, way: Way) -> Pass:
        plain, task = isinstance(way, Plain), self.task.part(samples)
        module: Any = self.task.plain if plain else self.task.network
        found: list[tuple[float, float]] = []
        with nullcontext() if plain else module.solved_by(way):
            task.gradient(module)
            while len(found) < task.repeats or sum(map(sum, found)) < SECONDS:
                module.zero_grad(set_to_none=True)
                start = time.thread_time()
                loss = task.criterion(module(task.x), task.y)
                middle = time.thread_time()
                loss.backward()
                found.append((middle - start, time.thread_time() - middle))
        module.zero_grad(set_to_none=True)
        return Pass(*(median(column) for column in zip(*found, strict=True)))

    @property
    def weight_share(self) -> float:
        """Share of the backward pass that is parameter gradients; ordinary PyTorch, with and without."""
        if self.weights is None:
            task, plain = self.task, self.task.plain
            x = task.x.detach().clone()
            if x.is_floating_point():
                x.requires_grad_()

            def backward() -> float:
                loss = task.criterion(plain(x), task.y)
                start = time.thread_time()
                loss.backward()
                return time.thread_time() - start

            def middle() -> float:
                backward()
                return median(backward() for _ in range(task.repeats))

            whole = middle()
            trained = [p for p in plain.get_submodule("body").parameters() if p.requires_grad]
            for parameter in trained:
                parameter.requires_grad_(False)
            self.weights = min(max(1 - middle() / whole, 0.0), 1.0)
            for parameter in trained:
                parameter.requires_grad_()
            plain.zero_grad(set_to_none=True)
        return self.weights


# ---- ranks that share a gradient ------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """How ranks share a gradient: data x layer x stages of them.

    Attributes:
        depth: N, of all stages together.
        way: of every layer group; where that has one rank, of that rank.
        data, layer, stages: factors of the number of ranks.
        schedule, microbatches: of the pipeline; None and 1 without.
    """

    depth: int
    way: Way = SERIAL
    data: int = 1
    layer: int = 1
    stages: int = 1
    schedule: str | None = None
    microbatches: int = 1

    @property
    def ranks(self) -> int:
        """All together."""
        return self.data * self.layer * self.stages

    @property
    def stage_depth(self) -> int:
        """Layers of the longest stage."""
        return -(-self.depth // self.stages)

    def samples(self, batch: int) -> int:
        """Of a microbatch."""
        return math.ceil(math.ceil(batch / self.data) / self.microbatches)


@dataclass(frozen=True)
class Timed:
    """A split, the seconds of a gradient, and how far from exact that is."""

    split: Split
    seconds: float
    error: GradientError = EXACT


def timed(split: Split, mine: Pass, one: OneRank, link: Link, error: GradientError = EXACT) -> Timed:
    """A split's gradient, of what a layer group takes for its layers and a microbatch.

    Gradients are summed over the data parallel ranks behind the backward pass of ranks that work by
    themselves; the longer of the two counts. MGRIT's last sweep gives all gradients at once, so that
    nothing hides the sum. Messages between stages are hidden but for the first and the last microbatch's
    way through all of them, and where one takes longer than the computation it is hidden behind.
    """
    task = one.task
    summed = all_reduce(link, task.parameter_bytes // (split.layer * split.stages), split.data)
    if split.stages == 1:
        hidden = 0.0 if isinstance(split.way, MGRIT) else mine.backward
        return Timed(split, mine.total + max(0.0, summed - hidden), error)
    assert split.schedule is not None
    message = link.seconds(task.state_bytes * split.samples(task.batch) / task.batch)
    slot = Pass(mine.forward, max(mine.backward, message - mine.forward))
    weights = one.weight_share * mine.backward
    seconds = pipelined(split.schedule, split.stages, split.microbatches, slot, weights)
    return Timed(split, seconds + 2 * (split.stages - 1) * message + summed, error)


def by_themselves(split: Split, one: OneRank, link: Link) -> Timed:
    """Ranks that have some layers and samples each, by the quicker of the exact ways."""
    samples = split.samples(one.task.batch)
    way = one.exact(samples)
    mine = one(samples, way).times(split.stage_depth / split.depth)
    return timed(replace(split, way=way), mine, one, link)


def data_parallel(one: OneRank, ranks: int, link: Link) -> Timed:
    """The batch shared out over ranks, at most one a sample."""
    return by_themselves(Split(one.task.depth, data=min(ranks, one.task.batch)), one, link)


def pipeline(one: OneRank, stages: int, link: Link, schedule: str, data: int = 1) -> Timed:
    """A pipeline with the best number of microbatches, a power of two, and at most one stage a layer."""
    depth, batch = one.task.depth, one.task.batch
    split = Split(depth, data=data, stages=min(stages, depth), schedule=schedule)
    if split.stages == 1:
        return by_themselves(replace(split, schedule=None), one, link)
    found = (by_themselves(each, one, link) for each in in_microbatches(split, batch))
    return min(found, key=lambda each: each.seconds)


def in_microbatches(split: Split, batch: int) -> list[Split]:
    """A pipeline with 1, 2, 4, ... microbatches, of at least a sample."""
    most = -(-batch // split.data)
    return [replace(split, microbatches=1 << k) for k in range(most.bit_length())]


# ---- the formulas ---------------------------------------------------------------------------------


def all_reduce(link: Link, size: int, ranks: int) -> float:
    """Seconds to sum `size` bytes over all ranks: along a ring, or up and down a tree if quicker."""
    if ranks == 1:
        return 0.0
    ring = 2 * (ranks - 1) * link.seconds(size / ranks)
    tree = 2 * math.ceil(math.log2(ranks)) * link.seconds(size)
    return min(ring, tree)


def pipelined(schedule: str, stages: int, microbatches: int, each: Pass, weights: float) -> float:
    """Seconds of a gradient by a pipeline without messages: its work and the published bubble.

    With F and B + W seconds of a microbatch on a stage, W of them for parameter gradients, p stages and
    M microbatches, a stage works for M (F + B + W) and is idle for

    - "gpipe" and "1f1b": (p - 1)(F + B + W),
    - "zb-h1": (p - 1)(F + B - W),
    - "zb-h2", with twice the memory: (p - 1)(F + B - 2 W).

    The last two need M >= p and M >= 2 p - 1. With fewer microbatches the way of the last one counts, at
    the last stage behind all others: (M + p - 1)(F + B) + W; it is the same at these bounds.

    Sources: Huang et al. 2019 (GPipe); Narayanan et al. 2019 (1F1B); Qi et al. 2024, arXiv 2401.10241.

    Args:
        each: F, and B + W.
        weights: W.
    """
    saved = {"gpipe": 0.0, "1f1b": 0.0, "zb-h1": 2.0, "zb-h2": 3.0}[schedule]
    idle = (stages - 1) * max(each.total - saved * weights, 0.0)
    way = (microbatches + stages - 1) * (each.total - weights) + weights
    return max(microbatches * each.total + idle, way)


SCHEDULES = ("gpipe", "1f1b", "zb-h1", "zb-h2")
