"""One gradient on a layer group in virtual time: the real algorithm, timed rank by rank."""

from __future__ import annotations

import copy
import statistics
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..group import Link
from ..group.member import Member, Statistics
from ..group.virtual import run
from ..network.distribution import distribute
from ..network.network import Network
from ..solvers.variants import Solvers
from .task import Task


@dataclass(frozen=True)
class Predicted:
    """One gradient on P ranks: measured computing, the median of several rounds, and modelled messages.

    Attributes:
        ranks: P.
        seconds: until the last rank has its gradient.
        compute: seconds of computing of the rank that computes most.
        waiting: seconds that the ranks wait for messages, on average.
        messages, bytes: sent by all ranks together.
        fallback: why a solve was done serially instead, or None.
    """

    ranks: int
    seconds: float
    compute: float
    waiting: float
    messages: int
    bytes: int
    fallback: str | None = None


def gradient_on(ranks: int, task: Task, solver: Solvers, link: Link) -> Predicted:
    """A gradient of the task on a layer group of so many ranks.

    Raises:
        ValueError: the solver does not fit the depth, or there are too many ranks.
    """
    whole = task.network  # made once, before the ranks share it

    def work(member: Member) -> tuple[Statistics, list[str]]:
        mine = shared(whole)
        mine.solver = solver
        distribute(mine, member)
        task.gradient(mine)  # once more than `timed` does: memory that the first one has given back
        member.timed(lambda: task.gradient(mine), task.repeats)
        solved = [*mine.solutions, *mine.adjoint_solutions]
        return member.statistics, [s.fallback for s in solved if s.fallback]

    results = run(ranks, work, link).results
    found: list[Statistics] = [each for each, _ in results]
    return Predicted(
        ranks=ranks,
        seconds=max(s.seconds for s in found),
        compute=max(s.compute for s in found),
        waiting=statistics.mean(s.waiting for s in found),
        messages=sum(s.messages for s in found),
        bytes=sum(s.bytes for s in found),
        fallback=next((why for _, reasons in results for why in reasons), None),
    )


def shared(network: Network) -> Network:
    """A copy with parameters of its own that have their entries with the original, not copied.

    A rank makes one, and keeps its block: a network that fills the memory is not copied P times.
    """
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), p.requires_grad) for p in network.parameters()
    }
    return copy.deepcopy(network, memo)
