"""Settings of multigrid, and what follows from them for a chain of a given depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

from torch import Tensor

from ..chains.coarse import CoarseOperator
from ..errors import UnknownNameError
from ..steps.state import State, two_norm

MEMORY = ("store", "recompute")
Norm = Callable[[State], Tensor]
Coarse = Literal["inject", "mean_parameters", "mean_residual", "picard"]
"""How a coarse step stands for the steps of its interval; see `CoarseOperator`."""
CHOICES = {
    "cycle": ("V", "F", "W"),
    "coarse": get_args(Coarse),
    "start": ("coarse", "nested", "constant"),
    "memory": MEMORY,
}


@dataclass(frozen=True)
class Settings:
    """What `MGRIT` is set to; see there."""

    levels: int = 2
    coarsening: int | tuple[int, ...] = 8
    relaxation: int | tuple[int, ...] = 0
    cycle: Literal["V", "F", "W"] = "V"
    forward_cycles: int = 2
    adjoint_cycles: int = 2
    tolerance: float | None = None
    coarse: Coarse = "inject"
    samples: int | None = None
    start: Literal["coarse", "nested", "constant"] = "coarse"
    first_down: bool = False
    smallest: int = 1
    warm_start: bool = False
    memory: Literal["store", "recompute"] = "store"
    guard: bool = True
    norm: Norm = two_norm

    def __post_init__(self) -> None:
        _check_settings(self)

    @property
    def forward(self) -> Self:
        return self

    @property
    def adjoint(self) -> Self:
        """The same solver with the adjoint's number of cycles."""
        return replace(self, forward_cycles=self.adjoint_cycles)

    @property
    def operator(self) -> CoarseOperator:
        return CoarseOperator(self.coarse, self.samples)

    def factors(self, steps: int) -> list[int]:
        """The coarsening from every level to the next, for a chain of `steps` steps."""
        factors: list[int] = []
        while len(factors) < self.levels - 1:
            m = _of_level(self.coarsening, len(factors))
            if steps // m < self.smallest:
                break
            factors.append(m)
            steps //= m
        return factors

    def relaxations(self, level: int) -> int:
        return _of_level(self.relaxation, level)

    def check(self, steps: int) -> None:
        """Refuses a chain on which the coarse levels cannot be built.

        Raises:
            ValueError: the coarsening is beyond the depth, or there are more levels than it allows.
        """
        built = len(self.factors(steps)) + 1
        if 1 < built < self.levels and self.smallest == 1:
            raise ValueError(
                f"levels={self.levels} cannot be built on a chain of {steps} steps by coarsening "
                f"{self.coarsening}; use levels={built} or less, or smallest=2 to stop where it ends"
            )
        if built == 1:
            m = _of_level(self.coarsening, 0)
            raise ValueError(
                f"coarsening {m} leaves {steps // m} coarse steps of a chain of {steps}, fewer than "
                f"{self.smallest}; use a coarsening of at most {max(steps // self.smallest, 1)} or "
                "the serial solver"
            )

    def groups(self, steps: int) -> int:
        """In how many groups the intervals are recomputed; 1 if everything is stored."""
        if self.memory == "store":
            return 1
        return max(2, round((steps // self.factors(steps)[0]) ** 0.5))


def _of_level(setting: int | tuple[int, ...], level: int) -> int:
    return setting if isinstance(setting, int) else setting[min(level, len(setting) - 1)]


def _check_settings(s: Settings) -> None:
    def refuse(name: str, bound: str) -> None:
        raise ValueError(f"{name}={getattr(s, name)!r} is out of range; use {bound}")

    coarsening = s.coarsening if isinstance(s.coarsening, tuple) else (s.coarsening,)
    relaxation = s.relaxation if isinstance(s.relaxation, tuple) else (s.relaxation,)
    for name in ("levels", "forward_cycles", "adjoint_cycles", "smallest"):
        if not isinstance(getattr(s, name), int):
            refuse(name, "a whole number")
    for name, several in (("coarsening", coarsening), ("relaxation", relaxation)):
        if not all(isinstance(value, int) for value in several):
            refuse(name, "a whole number, or a tuple of one per level")
    if s.levels < 2:
        refuse("levels", "2 or more, or Serial()")
    if not coarsening or any(m < 2 for m in coarsening):
        refuse("coarsening", "2 or more")
    if not relaxation or any(nu < 0 for nu in relaxation):
        refuse("relaxation", "0 (F), 1 (FCF) or more")
    if s.forward_cycles < 1:
        refuse("forward_cycles", "1 or more, or Split(forward=Serial(), ...)")
    if s.adjoint_cycles < 1:
        refuse("adjoint_cycles", "1 or more, or Split(..., adjoint=Serial())")
    if s.tolerance is not None and not s.tolerance > 0:
        refuse("tolerance", "a positive number or None")
    for name, known in CHOICES.items():
        if getattr(s, name) not in known:
            raise UnknownNameError(name, getattr(s, name), known)
    if s.samples is not None and s.samples < 1:
        refuse("samples", "1 or more, or None for all layers of an interval")
    if s.smallest < 1:
        refuse("smallest", "1 or more")
