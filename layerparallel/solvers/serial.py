"""Serial propagation: the reference that every other solver is measured against."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from ..chains.chain import Adjoint, Chain, Intervals, Recorder
from ..errors import UnknownNameError, named_options
from ..steps.state import State
from .settings import MEMORY
from .solution import Solution


def segments(chain: Chain, parts: int) -> list[Intervals]:
    """The whole chain as consecutive pieces, in the order in which the chain runs."""
    size = -(-chain.steps // parts)
    pieces = [
        Intervals(first, 1, min(size, chain.steps - first)) for first in range(0, chain.steps, size)
    ]
    return pieces[::-1] if chain.reverse else pieces


@named_options
@dataclass(frozen=True)
class Serial:
    """One step after the other: ``u[n+1] = Phi_n(u[n])``, exact.

    Args:
        memory: ``store`` keeps what the backward pass needs of every step; ``recompute`` keeps about
            sqrt(N) states and evaluates every step twice.
    """

    memory: Literal["store", "recompute"] = "store"

    def __post_init__(self) -> None:
        if self.memory not in MEMORY:
            raise UnknownNameError("memory policy", self.memory, MEMORY)

    @property
    def forward(self) -> Serial:
        return self

    @property
    def adjoint(self) -> Serial:
        return self

    def check(self, steps: int) -> None:
        """Any chain can be propagated serially."""

    def groups(self, steps: int) -> int:
        return 1 if self.memory == "store" else max(2, round(steps**0.5))

    def solve(
        self,
        chain: Chain,
        u0: State,
        guess: State | None = None,
        recorder: Recorder | None = None,
        collect: bool = False,
    ) -> Solution:
        """Propagates u0, each part of shape (1, ...), through the chain; see `MGRIT.solve`."""
        began = time.perf_counter()
        if recorder is not None:
            recorder.restart()
            take = recorder.record
        else:
            take = chain.collect if collect and isinstance(chain, Adjoint) else chain.advance

        def work(u: State) -> State:
            for piece in segments(chain, self.groups(chain.steps)):
                u = take(u, piece)
            return u

        end = u0
        if chain.placement is None:
            end = work(u0)
        elif chain.steps:
            before, behind = chain.placement.next_to(chain.reverse)
            end = chain.placement.group.relay(u0, behind, before, work)
        seconds = [time.perf_counter() - began]
        return Solution(end=end, evaluations=[chain.steps], seconds=seconds, converged=True)
