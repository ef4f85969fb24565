"""What there is to choose in training with auxiliary variables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ...errors import InputError, UnknownNameError, named_options
from .filters import parse

CHOICES = {
    "method": ("penalty", "augmented"),
    "multiplier_step": ("estimated", "derived", "printed"),
    "scale": ("sum", "mean"),
    "schedule": ("first", "alternating"),
    "augment": ("serial", "both"),
}
SAFETY = 0.5
"""What state_rate times the slope of the violation's gradient is if none is given; below 2."""
RESTORING = 1.0
"""The same where states follow what they are to equal, and nothing else: they then do at once."""


@named_options
@dataclass(frozen=True)
class Auxiliary:
    """Settings of `AuxiliaryMethod`; see `updates` for the equations.

    Raises:
        InputError: a number is out of its bounds.
        UnknownNameError: a name is none of those there are.
    """

    stages: int | tuple[int, ...] = 2
    """Stages K of about equal cost; or the numbers of the pieces at which the network is cut."""
    method: Literal["penalty", "augmented"] = "penalty"
    """"penalty" has no multipliers, "augmented" has one for every auxiliary variable."""
    beta: float = 10.0
    """Weight of the violation in the first parallel epoch."""
    beta_growth: float = 1.0
    """Factor by which beta grows with every parallel epoch, at least 1."""
    filter: str = "none"
    """How auxiliary variables are kept, such as "pool:2" or "pool:2+int8"; see `filters.parse`."""
    scale: Literal["mean", "sum"] = "mean"
    """Squares and products over a sample's state are means, or sums as published."""
    multiplier_step: Literal["estimated", "derived", "printed"] = "estimated"
    """"estimated": κ goes η_κ of the way to what the adjoint says it should be, and λ to x; "derived":
    κ ← κ - η_κ 2β (λ - x), from the stationary point; "printed": η_κ/(2β), as in print."""
    state_rate: float | None = None
    """Learning rate η_λ of the auxiliary variables for the first beta; as beta grows it falls, so that
    their product stays. None: a quarter of what would make them diverge, or half of it where multipliers
    are estimated."""
    multiplier_rate: float | None = None
    """Learning rate η_κ of the multipliers. None: 0.3 of estimated ones, 0.1 of others: 1 is the
    textbook's step, for which every λ would have to be found first; with one step of λ at a time it
    overshoots."""
    state_decay: float = 1.0
    """Factor on η_λ with every parallel epoch, at most 1."""
    multiplier_decay: float = 1.0
    """The same on η_κ."""
    budget: int = 4 << 30
    """Bytes of memory for auxiliary variables on each process; beyond it they go to a folder."""
    serial_start: int = 1
    """Serial epochs before the first parallel one."""
    parallel: int | None = None
    """Parallel epochs m, until serial ones follow; None for all that there are."""
    serial: int = 0
    """Serial epochs n that follow them, where they alternate."""
    schedule: Literal["first", "alternating"] = "first"
    """"first": m parallel epochs, and serial ones to the end; "alternating": m and n in turn."""
    augment: Literal["serial", "both"] = "serial"
    """Which epochs see augmented samples; of parallel ones see `AuxiliaryMethod`."""
    regenerate: bool = False
    """Small networks make auxiliary variables from the inputs; none are stored. See `Generators`."""

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UnknownNameError(name, getattr(self, name), known)
        for name in ("beta", "budget"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} = {getattr(self, name)} is no positive number: give one.")
        for name in ("state_rate", "multiplier_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} = {value} is no positive number: give one, or leave it out.")
        if not 1 <= self.beta_growth < math.inf:
            raise InputError(f"beta_growth = {self.beta_growth} is no factor of at least 1: give one.")
        for name in ("state_decay", "multiplier_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(
                    f"{name} = {getattr(self, name)} is no factor of at most 1: give one above 0."
                )
        cuts = self.stages if isinstance(self.stages, tuple) else (self.stages,)
        if not all(isinstance(each, int) and each >= 1 for each in cuts):
            raise InputError(
                f"stages = {self.stages} is no whole number of at least 1, or tuple of such: give one."
            )
        for name, least in (("serial_start", 0), ("serial", 0), ("parallel", 1)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= least):
                raise InputError(f"{name} = {value} is no whole number of at least {least}: give one.")
        if self.schedule == "alternating" and not (self.parallel and self.serial):
            raise InputError(
                f"parallel = {self.parallel} and serial = {self.serial} epochs cannot alternate: give "
                "at least 1 of each."
            )
        if self.regenerate and self.method == "augmented":
            raise InputError(
                "regenerate keeps nothing per sample, and so no multipliers for the augmented method: "
                "give method penalty, or leave regenerate out."
            )
        parse(self.filter)

    # ---- the hybrid schedule --------------------------------------------------------------------

    def is_parallel(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, is a parallel one."""
        since = epoch - self.serial_start
        if since < 0 or self.parallel is None:
            return since >= 0
        if self.schedule == "first":
            return since < self.parallel
        return since % (self.parallel + self.serial) < self.parallel

    def phase(self, epoch: int) -> int:
        """The first epoch of the row of parallel ones that a parallel epoch is in."""
        while epoch > 0 and self.is_parallel(epoch - 1):
            epoch -= 1
        return epoch

    def augments(self, epoch: int) -> bool:
        """Whether the samples of an epoch are to be augmented."""
        return self.augment == "both" or not self.is_parallel(epoch)

    # ---- weights and rates ----------------------------------------------------------------------

    def beta_in(self, epoch: int) -> float:
        """β in an epoch: it has grown with every parallel epoch before.

        Raises:
            InputError: it is too large to be a number.
        """
        done = self._done(epoch)
        try:
            beta = self.beta * self.beta_growth**done
        except OverflowError:
            beta = math.inf
        if beta < math.inf:
            return beta
        raise InputError(
            f"beta = {self.beta} grown {done} times by beta_growth = {self.beta_growth} is too large "
            "for a number: give a beta_growth nearer to 1."
        )

    def _done(self, epoch: int) -> int:
        """Parallel epochs before an epoch."""
        return sum(map(self.is_parallel, range(epoch)))

    def weight(self, entries: int) -> float:
        """c, the weight of a sample's terms at an interface whose state has so many entries."""
        return 1.0 if self.scale == "sum" else 1.0 / entries

    def state_rate_in(self, epoch: int, weight: float, norm: float) -> float:
        """η_λ in an epoch, at an interface of this weight c whose filter has this norm.

        Raises:
            InputError: the violation's own gradient, of slope 2 β c norm, would make them diverge.
        """
        slope = 2 * self.beta * weight * norm
        if self.state_rate is None:
            rate = (RESTORING if self.estimates else SAFETY) / slope
        elif self.state_rate * slope < 2:
            rate = self.state_rate
        else:
            raise InputError(
                f"state_rate = {self.state_rate} times 2·beta·{weight * norm:.3g} is "
                f"{self.state_rate * slope:.3g}, at which auxiliary variables diverge: give less than "
                f"{2 / slope:.3g}, or leave it out."
            )
        return rate * self.state_decay ** self._done(epoch) * self.beta / self.beta_in(epoch)

    def multiplier_rate_in(self, epoch: int) -> float:
        """The factor of (λ - x) in a step of κ, η_κ 2β or η_κ/(2β); η_κ itself where it is estimated."""
        beta = self.beta_in(epoch)
        factor = {"estimated": 1.0, "derived": 2 * beta, "printed": 1 / (2 * beta)}[self.multiplier_step]
        rate = self.multiplier_rate
        if rate is None:
            rate = 0.3 if self.estimates else 0.1
        return rate * self.multiplier_decay ** self._done(epoch) * factor

    @property
    def estimates(self) -> bool:
        """Whether there are multipliers, and these are estimated."""
        return self.method == "augmented" and self.multiplier_step == "estimated"
