"""Multigrid reduction in time (MGRIT) in its full approximation scheme (FAS).

Solves ``u[0] = u0, u[n+1] - Phi_n(u[n]) = g[n+1]`` for all n at once. C-points are the multiples of
the coarsening m, the m steps between two of them are an interval. Two levels:

1. F-relaxation: every interval from its C-point, all at the same time; it arrives at
   ``z_i = Phi^m(u_{i-1})`` (with g added on the way).
2. optionally CF-relaxation: ``u_i <- z_i`` and another F-relaxation.
3. coarse problem: ``v_i = z_i + (Phi_c(v_{i-1}) - Phi_c(u_{i-1}))``; on more levels it is solved by
   the same cycle. The difference is taken first: it is exactly zero where ``v_{i-1} = u_{i-1}``. For
   a linear chain the correction alone is solved for.
4. ``u_i <- v_i``, F-relaxation. The last one of a cycle is the first one of the next.

Trailing steps that fill no interval (the leading ones of an adjoint) are propagated as they are.
Source: Guenther, Ruthotto, Schroder, Cyr, Gauger (2020), section 3. Its settings are in
`settings`, the cycles in `multigrid`, and what they work on in `levels`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..chains.chain import Chain, Recorder
from ..errors import named_options
from ..steps.state import State
from .multigrid import Solve
from .settings import Settings
from .solution import Solution


@named_options
@dataclass(frozen=True)
class MGRIT(Settings):
    """Layer-parallel multigrid for the forward and the adjoint propagation.

    ``MGRIT()`` fits any chain of 2 steps or more: where no coarsening is given, it is chosen by the
    depth, and so is the coarse operator if none is given either. ``factors(N)`` and ``fitted(N)`` say
    what is chosen for N steps.

    Args:
        levels: number of levels, the fine one included; an upper bound where the coarsening is chosen.
        coarsening: m, one for all levels or one per coarsening. None for the largest power of two
            with ``m**levels <= N``, and 2 at least: 8 for 64 steps and two levels, 16 for 256, 32 for
            1024.
        relaxation: number of CF-relaxations that follow the F-relaxation, one for all levels or one
            per level: 0 is F, 1 is FCF, nu is F(CF)^nu.
        cycle: "V", "F" or "W".
        forward_cycles: cycles of the forward solve.
        adjoint_cycles: cycles of the adjoint solve.
        tolerance: stop when the estimated error of the C-points, relative to the states there, is at
            most this (`Solution.relative_error`); the cycles are then an upper bound.
        coarse: coarse operator: "inject", "mean_parameters", "mean_residual" or "picard", from the
            cheapest to the most accurate; see `CoarseOperator`. None for "inject" where a coarsening is
            given; where it is chosen, for "picard" if steps are forward Euler or residual blocks, else
            for "mean_residual".
        samples: for the last two, into how many groups of layers a coarse step is divided at most;
            None for one group a layer, and for 4 groups where the operator is chosen.
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
    coarsening: int | None = None,
    forward_cycles: int = 2,
    adjoint_cycles: int = 2,
    **options: object,
) -> MGRIT:
    """Parareal (Lions, Maday, Turinici 2001): two-level MGRIT with F-relaxation.

    Every coarse step propagates a whole time slice of `coarsening` steps; None chooses it as `MGRIT`
    does. Further options are those of `MGRIT`, but for levels and relaxation.
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
