"""How long a solver would take on P ranks, from its schedule: to choose which ones are worth a run.

`cost.schedule` lists what a solver does. A gradient takes, for every event, a time per position that is
walked, whatever the number of intervals side by side; a time per layer evaluated; and a time for what is
around it, and around a message. These few constants of a network, a batch and a machine are fitted to
gradients of a shallow network on small groups in virtual time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..group import Link
from ..solvers import MGRIT, Serial, cost
from .parallel import gradient_on
from .task import Task

MODELS = (
    MGRIT(coarsening=2, forward_cycles=1, adjoint_cycles=1),
    MGRIT(coarsening=4),
    MGRIT(coarsening=8, forward_cycles=1, adjoint_cycles=1, coarse="picard", samples=4),
    MGRIT(coarsening=16),
    MGRIT(coarsening=32, forward_cycles=1, adjoint_cycles=1),
    MGRIT(levels=3, coarsening=2),
    MGRIT(levels=3, coarsening=4, coarse="picard", samples=4, forward_cycles=3, adjoint_cycles=3),
    MGRIT(levels=5, coarsening=2),
)
"""What the constants are fitted to, with `Serial()`, where the depth allows it."""
SHALLOW = 64
"""Layers of the network they are fitted to, if the task has as many."""
GROUPS = (1, 2, 8)
"""Ranks that they are fitted on."""
REPEATS = 2
FREE = Link(0.0, 0.0)


@dataclass(frozen=True)
class Work:
    """What the rank with most to do does in a gradient; forward and backward together.

    Attributes:
        recorded: positions walked, one after the other, in the last sweep of each solve, which is
            recorded or collects gradients; and layers evaluated there.
        other: positions and layers of all else.
        events: how many events there are.
        messages: that follow one another.
    """

    recorded: tuple[int, int]
    other: tuple[int, int]
    events: int
    messages: int

    @property
    def row(self) -> NDArray[np.float64]:
        """What the constants are multiplied by."""
        return np.array([*self.recorded, *self.other, self.events, self.messages, 1], dtype=float)


@cache
def _schedule(solver: MGRIT | Serial, steps: int, adjoint: bool) -> tuple[cost.Event, ...]:
    return tuple(cost.schedule(solver, steps, adjoint))


@cache
def work(solver: MGRIT | Serial, steps: int, ranks: int) -> Work:
    """That of a chain of so many steps, its intervals shared out over the ranks.

    Messages go to the next rank after every sweep; from rank to rank along the coarsest level; and up
    and down a tree for the norms of residuals, and for the output.
    """
    totals, events, rounds = np.zeros((2, 2), dtype=int), 0, math.ceil(math.log2(ranks))
    messages = rounds
    for adjoint in (False, True):
        one = solver.adjoint if adjoint else solver.forward
        schedule = _schedule(solver, steps, adjoint)
        last = max(k for k, e in enumerate(schedule) if e.level == 0 and e.role != "rest")
        for k, event in enumerate(schedule):
            groups = 1
            if isinstance(one, MGRIT) and event.level:
                groups = one.operator.groups(math.prod(one.factors(steps)[: event.level]))
                groups *= 2 if one.coarse == "picard" and groups > 1 else 1
            mine = -(-event.intervals // ranks)
            final = k == last or (event.level == 0 and event.role == "rest")
            totals[0 if final else 1] += event.length, event.length * mine * groups
            if event.intervals == 1:
                messages += min(ranks, event.length) - 1
            elif event.role == "relaxation" and ranks > 1:
                messages += 1
        events += len(schedule)
        messages += 2 * rounds if isinstance(one, MGRIT) else 0
    (a, b), (c, d) = totals.tolist()
    return Work((a, b), (c, d), events, messages)


@dataclass(frozen=True)
class Estimator:
    """Estimates of a gradient of one batch, at any depth.

    Attributes:
        constants: seconds per position and per layer, recorded and not, per event, per message besides
            what the link takes, and once.
        deviation: the largest, relative, from what they are fitted to.
        state_bytes: of a message.
    """

    constants: tuple[float, ...]
    deviation: float
    state_bytes: int

    @classmethod
    def of(cls, task: Task) -> Estimator:
        """Measures and fits the constants; takes some tens of gradients of a shallow network."""
        from scipy.optimize import nnls

        tried: list[tuple[int, MGRIT | Serial]] = [(1, Serial())]
        for solver in MODELS:
            if len(solver.factors(task.depth)) == solver.levels - 1:
                tried += [(ranks, replace(solver, guard=False)) for ranks in GROUPS]
        times = [gradient_on(ranks, task, solver, FREE).seconds for ranks, solver in tried]
        rows = [work(solver, task.depth, ranks).row for ranks, solver in tried]
        relative = np.array(rows) / np.array(times)[:, None]
        constants = nnls(relative, np.ones(len(times)))[0]
        deviation = float(np.abs(relative @ constants - 1).max())
        return cls(tuple(constants.tolist()), deviation, task.state_bytes)

    def __call__(self, solver: MGRIT | Serial, depth: int, ranks: int, link: Link) -> float:
        """Seconds of a gradient on so many ranks."""
        found = work(solver, depth, ranks)
        computing = float(found.row @ np.array(self.constants))
        return computing + found.messages * link.seconds(self.state_bytes)


@dataclass
class Estimates:
    """Estimates of a task's gradient at any depth, on any part of its batch.

    The constants are fitted for the whole batch, and where parts are asked for, for one sample; times
    in between are on the line through the two.
    """

    task: Task
    fitted: dict[int, Estimator] = field(default_factory=dict)

    def __call__(
        self, solver: MGRIT | Serial, ranks: int, link: Link, depth: int, samples: int
    ) -> float:
        """Seconds of a gradient."""
        most = self.task.batch
        whole = self._of(most)(solver, depth, ranks, link)
        if samples == most:
            return whole
        share = (samples - 1) / (most - 1)
        return share * whole + (1 - share) * self._of(1)(solver, depth, ranks, link)

    def _of(self, samples: int) -> Estimator:
        if samples not in self.fitted:
            shallow = replace(self.task.at(min(self.task.depth, SHALLOW)), repeats=REPEATS)
            self.fitted[samples] = Estimator.of(shallow.part(samples))
        return self.fitted[samples]
