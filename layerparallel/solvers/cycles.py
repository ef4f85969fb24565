"""Solvers with other numbers of cycles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .mgrit import MGRIT
from .serial import Serial, Split


def multigrid_parts(solver: Serial | MGRIT | Split) -> list[MGRIT]:
    """The multigrid solvers that a solver is made of."""
    parts = (solver.forward, solver.adjoint) if isinstance(solver, Split) else (solver,)
    return [part for part in parts if isinstance(part, MGRIT)]


def cycles_of(solver: Serial | MGRIT | Split) -> tuple[int | None, int | None]:
    """Cycles of the forward and of the adjoint solve; None for one that is serial."""
    forward, adjoint = solver.forward, solver.adjoint  # each says its own as `forward_cycles`
    return (
        forward.forward_cycles if isinstance(forward, MGRIT) else None,
        adjoint.forward_cycles if isinstance(adjoint, MGRIT) else None,
    )


def with_cycles(solver: Serial | MGRIT | Split, change: Callable[[int], int]) -> Serial | MGRIT | Split:
    """The solver with other numbers of cycles, the forward one's changed first."""
    if isinstance(solver, MGRIT):
        forward = change(solver.forward_cycles)
        return replace(solver, forward_cycles=forward, adjoint_cycles=change(solver.adjoint_cycles))
    if isinstance(solver, Split):
        forward = _part_with_cycles(solver.forward, change)
        return replace(solver, forward=forward, adjoint=_part_with_cycles(solver.adjoint, change))
    return solver


def _part_with_cycles(part: Serial | MGRIT, change: Callable[[int], int]) -> Serial | MGRIT:
    changed = with_cycles(part, change)
    assert not isinstance(changed, Split)
    return changed
