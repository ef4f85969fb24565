"""Multigrid reduction in time (MGRIT) in its full approximation scheme (FAS).

Solves ``u[0] = u0, u[n+1] - Phi_n(u[n]) = g[n+1]`` for all n at once. C-points are the multiples of
the coarsening m, the m steps between two of them are an interval. Two levels:

1. F-relaxation: every interval from its C-point, all at the same time; it arrives at
   ``z_i = Phi^m(u_{i-1})`` (with g added on the way).
2. optionally CF-relaxation: ``u_i <- z_i`` and another F-relaxation.
3. coarse problem: ``v_i = Phi_c(v_{i-1}) + tau_i`` with ``tau_i = z_i - Phi_c(u_{i-1})``; on more
   levels it is solved by the same cycle. For a linear chain the correction alone is solved for.
4. ``u_i <- v_i``, F-relaxation. The last one of a cycle is the first one of the next.

Trailing steps that fill no interval (the leading ones of an adjoint) are propagated as they are.
Source: Guenther, Ruthotto, Schroder, Cyr, Gauger (2020), section 3. Here are its settings; in
`multigrid` the cycles, and in `levels` what they work on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import Tensor

from ..chain import Chain, CoarseOperator, Recorder, State, two_norm
from ..errors import UnknownNameError, named_options
from ..solution import Solution
from .levels import gathered_is_quicker
from .multigrid import Solve
from .serial import MEMORY, Serial

Norm = Callable[[State], Tensor]
Coarse = Literal["inject", "mean_parameters", "mean_residual", "picard"]
"""How a coarse step stands for the steps of its interval; see `CoarseOperator`."""
CHOICES = {
    "cycle": ("V", "F", "W"),
    "coarse": get_args(Coarse),
    "start": ("coarse", "nested", "constant"),
    "memory": MEMORY,
}


@named_options
@dataclass(frozen=True)
class MGRIT:
    """Layer-parallel multigrid for the forward and the adjoint propagation.

    Args:
        levels: number of levels, the fine one included.
        coarsening: m, one for all levels or one per coarsening.
        relaxation: number of CF-relaxations that follow the F-relaxation, one for all levels or one
            per level: 0 is F, 1 is FCF, nu is F(CF)^nu.
        cycle: "V", "F" or "W".
        forward_cycles: cycles of the forward solve.
        adjoint_cycles: cycles of the adjoint solve.
        tolerance: stop when the residual at the C-points, relative to the states there, is at most
            this; the cycles are then an upper bound.
        coarse: coarse operator: "inject", "mean_parameters", "mean_residual" or "picard", from the
            cheapest to the most accurate; see `CoarseOperator`.
        samples: for the last two, into how many groups of layers a coarse step is divided at most;
            None for one group a layer.
        start: first guess: "coarse" solves the coarsest level and interpolates, "nested" adds one
            V-cycle on every level on the way up (full multigrid), "constant" puts u[0] everywhere.
        first_down: whether the first cycle has a down part. If not, it is the coarse start and one
            fine sweep. A guess that is given (warm start) always gets its down part.
        smallest: fewest steps of the coarsest level. With 2 or more, `levels` is an upper bound:
            levels that would have fewer steps are left out; with 1 it is an error if they have none.
        warm_start: begin from the states of the last solve with the same batch (see `Network`).
        memory: "store" keeps what the adjoint needs of every step; "recompute" keeps the C-points.
        guard: fall back to the serial solver, for this batch, when residuals grow or are not finite.
        norm: norm of residuals, of an array of states (points, ...) in the chain's own layout.
    """

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
    def forward(self) -> MGRIT:
        return self

    @property
    def adjoint(self) -> MGRIT:
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
                "Serial()"
            )

    def groups(self, steps: int) -> int:
        """In how many groups the intervals are recomputed; 1 if everything is stored."""
        if self.memory == "store":
            return 1
        return max(2, round((steps // self.factors(steps)[0]) ** 0.5))

    def solve(
        self,
        chain: Chain,
        u0: State,
        guess: State | None = None,
        recorder: Recorder | None = None,
        collect: bool = False,
    ) -> Solution:
        """Propagates u0 through the chain.

        Args:
            chain: a forward chain or an adjoint.
            u0: the known state at the chain's beginning (its right end for an adjoint), (1, ...).
            guess: array of C-point states 0..K of level 0 to start from.
            recorder: an adjoint that records the last sweep, its linearisation.
            collect: the last sweep of an adjoint chain also collects the parameter gradients.
        """
        return Solve(self, chain, u0, recorder, collect).run(guess)


def Parareal(
    coarsening: int = 8, forward_cycles: int = 2, adjoint_cycles: int = 2, **options: object
) -> MGRIT:
    """Parareal (Lions, Maday, Turinici 2001): two-level MGRIT with F-relaxation.

    Every coarse step propagates a whole time slice of `coarsening` steps. Further options are those
    of `MGRIT`, but for levels and relaxation.
    """
    fixed = {"levels": 2, "relaxation": 0}
    for name in fixed.keys() & options.keys():
        raise TypeError(f"Parareal has {name}={fixed[name]}; use MGRIT to choose another value")
    return MGRIT(
        coarsening=coarsening,
        forward_cycles=forward_cycles,
        adjoint_cycles=adjoint_cycles,
        **fixed,  # type: ignore[arg-type]
        **options,
    )


def _of_level(setting: int | tuple[int, ...], level: int) -> int:
    return setting if isinstance(setting, int) else setting[min(level, len(setting) - 1)]


def _check_settings(s: MGRIT) -> None:
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


__all__ = ["MGRIT", "Parareal", "Serial", "gathered_is_quicker"]
