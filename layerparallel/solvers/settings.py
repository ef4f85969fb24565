"""Settings of multigrid, and what follows from them for a chain of a given depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

from torch import Tensor

from ..chains.coarse import CoarseOperator
from ..errors import UnknownNameError, alternatives
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
GROUPS = 4
"""Groups of layers in a coarse step whose operator is chosen, too."""


@dataclass(frozen=True)
class Settings:
    """What `MGRIT` is set to; see there."""

    levels: int = 2
    coarsening: int | tuple[int, ...] | None = None
    relaxation: int | tuple[int, ...] = 0
    cycle: Literal["V", "F", "W"] = "V"
    forward_cycles: int = 2
    adjoint_cycles: int = 2
    tolerance: float | None = None
    coarse: Coarse | None = None
    samples: int | None = None
    start: Literal["coarse", "nested", "constant"] = "coarse"
    first_down: bool = False
    smallest: int = 1
    warm_start: bool = False
    memory: Literal["store", "recompute"] = "store"
    guard: bool = True
    norm: Norm = two_norm

    def __post_init__(self) -> None:
        if self.coarse is None and self.coarsening is not None:  # nothing is left to be chosen
            object.__setattr__(self, "coarse", "inject")
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
        """That of a solver which leaves none to be chosen; see `fitted`."""
        assert self.coarse is not None
        return CoarseOperator(self.coarse, self.samples)

    def fitted(self, steps: int, picard: bool = True) -> Self:
        """This solver with all that it chooses written out, for a chain of `steps` steps.

        Args:
            picard: whether ``coarse="picard"`` is for these steps; "mean_residual" is taken if not.

        Raises:
            ValueError: the chain is too short for a coarse level.
        """
        if self.coarsening is not None:
            return self
        self.check(steps)
        factors, coarse, samples = self.factors(steps), self.coarse, self.samples
        if coarse is None:
            coarse, samples = "picard" if picard else "mean_residual", samples or GROUPS
        levels = len(factors) + 1
        return replace(self, levels=levels, coarsening=factors[0], coarse=coarse, samples=samples)

    def factors(self, steps: int) -> list[int]:
        """The coarsening from every level to the next, for a chain of `steps` steps."""
        coarsening, fewest = self.coarsening, self.smallest
        if coarsening is None:
            coarsening = self._chosen(steps)
        factors: list[int] = []
        while len(factors) < self.levels - 1:
            m = _of_level(coarsening, len(factors))
            if steps // m < fewest:
                break
            factors.append(m)
            steps //= m
            if self.coarsening is None:
                fewest = max(2, self.smallest)  # a further level of one step is of no use
        return factors

    def _chosen(self, steps: int) -> int:
        """The largest power of two m with ``m**levels <= steps`` that leaves `smallest` steps, or 2.

        All levels then have about as many steps in a row: on two, m in an interval and at least as many
        coarse ones, each at most ``T / sqrt(N)`` long or so.
        """
        m = 2
        while (2 * m) ** self.levels <= steps and steps // (2 * m) >= self.smallest:
            m *= 2
        return m

    def relaxations(self, level: int) -> int:
        return _of_level(self.relaxation, level)

    def check(self, steps: int) -> None:
        """Refuses a chain on which the coarse levels cannot be built.

        Raises:
            ValueError: the coarsening is beyond the depth, or there are more levels than it allows.
        """
        factors = self.factors(steps)
        if not factors:
            raise ValueError(self._no_coarse_level(steps))
        built = len(factors) + 1
        if built < self.levels and self.smallest == 1 and self.coarsening is not None:
            stop = ", or smallest=2 to stop where it ends" if steps // factors[0] > 1 else ""
            raise ValueError(
                f"levels={self.levels} cannot be built on a chain of {steps} steps by coarsening "
                f"{self.coarsening}; use levels={built} or less{stop}"
            )

    def _no_coarse_level(self, steps: int) -> str:
        """A sentence for a chain on which not even the first coarse level can be built."""
        fewest, m, remedies = self.smallest, 2, ["the serial solver"]
        if self.coarsening is None:
            said = f"no coarsening leaves {fewest} or more coarse steps of a chain of {steps}"
        else:
            m = _of_level(self.coarsening, 0)
            said = f"coarsening {m} leaves {steps // m} coarse steps of a chain of {steps}"
            said += f", fewer than {fewest}"
            if steps // fewest > 1:
                remedies.insert(0, f"a coarsening of at most {steps // fewest}")
        if steps // m:
            remedies.insert(0, f"smallest={steps // m} or less")
        return f"{said}; use {alternatives(remedies)}"

    def groups(self, steps: int) -> int:
        """In how many groups the intervals are recomputed; 1 if everything is stored."""
        if self.memory == "store":
            return 1
        return max(2, round((steps // self.factors(steps)[0]) ** 0.5))


def _of_level(setting: int | tuple[int, ...], level: int) -> int:
    return setting if isinstance(setting, int) else setting[min(level, len(setting) - 1)]


def _entries(setting: int | tuple[int, ...]) -> tuple[int, ...]:
    return setting if isinstance(setting, tuple) else (setting,)


def _check_settings(s: Settings) -> None:
    def refuse(name: str, bound: str) -> None:
        raise ValueError(f"{name}={getattr(s, name)!r} is out of range; use {bound}")

    coarsening = _entries(2 if s.coarsening is None else s.coarsening)
    relaxation = _entries(s.relaxation)
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
        if getattr(s, name) not in known and (name != "coarse" or s.coarse is not None):
            raise UnknownNameError(name, getattr(s, name), known)
    if s.samples is not None and s.samples < 1:
        refuse("samples", "1 or more, or None for all layers of an interval")
    if s.smallest < 1:
        refuse("smallest", "1 or more")
