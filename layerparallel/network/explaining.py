"""Which way every chain of a network goes, and why; and what is said of one that goes another."""

from __future__ import annotations

from collections.abc import Sequence

from ..solvers import MGRIT
from ..solvers.remedies import remedy
from .bodies import Body
from .propagate import Direction, Solver


def explained(chains: Sequence[Body], solvers: Sequence[Solver]) -> str:
    """A line for every chain: its length, its solver, and by what its steps were last evaluated."""
    lines = []
    for k, (chain, solver) in enumerate(zip(chains, solvers, strict=True)):
        way = chain.way or "not propagated yet; call the network once"
        lines.append(
            f"chain {k}: {chain.depth} steps by {chain.integrator}, {type(solver).__name__}; {way}"
        )
    return "\n".join(lines)


def fallback(direction: Direction, solver: Solver, body: Body, reason: str, count: int) -> str:
    """That a solve was done serially instead, for the `count`-th time, and what may help."""
    one = solver.forward.forward if direction == "forward" else solver.adjoint.adjoint
    advice = ""
    if isinstance(one, MGRIT):  # and not a solver of the user's own
        advice = f" ({remedy(one, direction, body.depth, body.allows_picard)})"
    return (
        f"layer-parallel {direction} solve: {reason}; this batch is propagated serially, for "
        f"the {count}. time{advice}"
    )
