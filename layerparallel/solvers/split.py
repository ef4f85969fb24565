"""One solver forward and another for the adjoint."""

from __future__ import annotations

from dataclasses import dataclass

from .mgrit import MGRIT
from .serial import Serial


@dataclass(frozen=True)
class Split:
    """One solver for the forward and another for the adjoint propagation.

    For example ``Split(forward=Serial(), adjoint=MGRIT(levels=2, coarsening=8))``.
    """

    forward: Serial | MGRIT
    adjoint: Serial | MGRIT

    def __post_init__(self) -> None:
        if self.forward.memory != self.adjoint.memory:
            raise ValueError(
                f"the forward solver's memory policy is {self.forward.memory!r} and the adjoint "
                f"solver's {self.adjoint.memory!r}; give both the same"
            )

    @property
    def memory(self) -> str:
        return self.forward.memory

    def check(self, steps: int) -> None:
        self.forward.check(steps)
        self.adjoint.check(steps)
