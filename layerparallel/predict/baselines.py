"""What a layer group is compared with: one rank, data parallelism and pipelines, at equal work.

One rank is measured. The others are that measurement on fewer samples and a published formula, each in
its own favour: the all-reduce is hidden behind the backward pass, messages of a pipeline behind its
steady state, and the number of microbatches is the best one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from ..group import Link
from ..solvers import Serial
from .task import Task

SECONDS = 0.3
"""At least, of the gradients of which the median counts."""


@dataclass(frozen=True)
class Pass:
    """Seconds of one gradient on one rank: forward and backward."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        return self.forward + self.backward


@dataclass
class OneRank:
    """The task on one rank with `Serial()`, on all samples or fewer; measured once for each.

    Attributes:
        weights: share of the backward pass that is parameter gradients, measured if not given.
    """

    task: Task
    weights: float | None = None
    _found: dict[int, Pass] = field(default_factory=dict)

    def __call__(self, samples: int | None = None) -> Pass:
        """Of a batch of so many samples; of the whole one if None."""
        samples = self.task.batch if samples is None else samples
        if samples not in self._found:
            self._found[samples] = self._measured(self.task.part(samples))
        return self._found[samples]

    @staticmethod
    def _measured(task: Task) -> Pass:
        found: list[tuple[float, float]] = []
        with task.network.solved_by(Serial()):
            while len(found) < task.repeats or sum(map(sum, found)) < SECONDS:
                task.gradient()
                task.network.zero_grad(set_to_none=True)
                start = time.thread_time()
                loss = task.criterion(task.network(task.x), task.y)
                middle = time.thread_time()
                loss.backward()
                found.append((middle - start, time.thread_time() - middle))
        task.network.zero_grad(set_to_none=True)
        return Pass(*(median(column) for column in zip(*found, strict=True)))

    @property
    def weight_share(self) -> float:
        """Share of the backward pass that is parameter gradients; the plain twin, with and without."""
        if self.weights is None:
            task = self.task
            twin = task.network.to_serial()
            x = task.x.detach().clone()
            if x.is_floating_point():
                x.requires_grad_()

            def backward() -> float:
                loss = task.criterion(twin(x), task.y)
                start = time.thread_time()
                loss.backward()
                return time.thread_time() - start

            def middle() -> float:
                backward()
                return median(backward() for _ in range(task.repeats))

            whole = middle()
            for parameter in twin.body.parameters():
                parameter.requires_grad_(False)
            self.weights = min(max(1 - middle() / whole, 0.0), 1.0)
        return self.weights


def all_reduce(link: Link, size: int, ranks: int) -> float:
    """Seconds to sum `size` bytes over all ranks: along a ring, or up and down a tree if quicker."""
    if ranks == 1:
        return 0.0
    ring = 2 * (ranks - 1) * link.seconds(size / ranks)
    tree = 2 * math.ceil(math.log2(ranks)) * link.seconds(size)
    return min(ring, tree)


def data_parallel(one: OneRank, ranks: int, link: Link) -> float:
    """Seconds of a gradient with the batch shared out over ranks, at most one a sample.

    The all-reduce runs behind the backward pass: the longer of the two counts.
    """
    ranks = min(ranks, one.task.batch)
    mine = one(-(-one.task.batch // ranks))
    return mine.forward + max(mine.backward, all_reduce(link, one.task.parameter_bytes, ranks))


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


@dataclass(frozen=True)
class Pipeline:
    """The quickest setting of a pipeline: seconds of a gradient with so many microbatches."""

    seconds: float
    microbatches: int


def pipeline(
    one: OneRank,
    stages: int,
    link: Link,
    schedule: str,
    stage: Callable[[int], Pass] | None = None,
) -> Pipeline:
    """The best number of microbatches, a power of two, of a pipeline with so many stages.

    At most one stage a layer. Messages are hidden but for the first and the last microbatch's way
    through all stages, and where one takes longer than the computation it is hidden behind.

    Args:
        stage: a stage's seconds for so many samples; one rank's, shared out in layers, if not given.
    """
    task = one.task
    stages = min(stages, task.depth)
    share = -(-task.depth // stages) / task.depth  # of the longest stage
    found = []
    count = 1
    while count <= task.batch:
        samples = -(-task.batch // count)
        if stage is None:
            whole = one(samples)
            mine = Pass(whole.forward * share, whole.backward * share)
        else:
            mine = stage(samples)
        message = link.seconds(task.state_bytes * samples / task.batch)
        slot = Pass(
            mine.forward, max(mine.backward, message - mine.forward)
        )  # if a message takes longer
        time = pipelined(schedule, stages, count, slot, one.weight_share * mine.backward)
        found.append(Pipeline(time + 2 * (stages - 1) * message, count))
        count *= 2
    return min(found, key=lambda each: each.seconds)
