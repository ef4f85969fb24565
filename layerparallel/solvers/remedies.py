"""What may help where a solve misbehaves: only what its solver is not set to already."""

from __future__ import annotations

from typing import Literal

from ..errors import alternatives
from .cost import exact_after
from .mgrit import MGRIT

Direction = Literal["forward", "adjoint"]


def remedies(solver: MGRIT, direction: Direction, steps: int, picard: bool) -> list[str]:
    """What to change about the solver of one direction, in the words of its settings; see `remedy`."""
    solver = solver.fitted(steps, picard)
    m, found = solver.factors(steps)[0], []
    if solver.forward_cycles < exact_after(solver, steps):
        found.append(f"{direction}_cycles above {solver.forward_cycles}")
    if m > 2:
        found.append(f"a coarsening below {m}")
    if picard and solver.coarse != "picard":
        found.append("coarse='picard'")
    return found


def remedy(solver: MGRIT, direction: Direction, steps: int, picard: bool = True) -> str:
    """The end of a sentence about a solve that was done serially instead.

    Args:
        solver: with the cycles of this direction as its `forward_cycles`.
        steps: N of the chain.
        picard: whether ``coarse="picard"`` is for its steps.
    """
    found = remedies(solver, direction, steps, picard)
    return f"{alternatives(found)} may help" if found else "propagate serially: solver=lp.Serial()"
