"""Solvers with other numbers of cycles, and with what they choose written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .mgrit import MGRIT
from .serial import Serial
from .split import Split

Solver = Serial | MGRIT | Split
Solvers = Solver | tuple[Solver, ...]
"""One solver for all chains of a network, or one for each."""


def fitted(solver: Solver, steps: int, picard: bool = True) -> Solver:
    """The solver with all that it chooses for a chain written out; see `MGRIT.fitted`."""
    if isinstance(solver, Split):
        return replace(
            solver,
            forward=_fitted_part(solver.forward, steps, picard),
            adjoint=_fitted_part(solver.adjoint, steps, picard),
        )
    return _fitted_part(solver, steps, picard)


def _fitted_part(part: Serial | MGRIT, steps: int, picard: bool) -> Serial | MGRIT:
    return part.fitted(steps, picard) if isinstance(part, MGRIT) else part


def multigrid_parts(solver: Solvers) -> list[MGRIT]:
    """The multigrid solvers that a solver is made of."""
    if isinstance(solver, tuple):
        return [part for each in solver for part in multigrid_parts(each)]
    parts = (solver.forward, solver.adjoint) if isinstance(solver, Split) else (solver,)
    return [part for part in parts if isinstance(part, MGRIT)]


def serially(solver: Solvers) -> Solvers:
    """Serial solvers with the memory policy of those given."""
    if isinstance(solver, tuple):
        return tuple(Serial(each.forward.memory) for each in solver)
    return Serial(solver.forward.memory)


def is_serial(solver: Solvers) -> bool:
    """Whether nothing is iterated."""
    return not multigrid_parts(solver)


def cycles_of(solver: Solvers) -> tuple[int | None, int | None]:
    """Cycles of the forward and of the adjoint solve, the most of all chains; None if all are serial."""
    if isinstance(solver, tuple):
        found = [cycles_of(each) for each in solver]
        forward, adjoint = ([c for c in column if c is not None] for column in zip(*found, strict=True))
        return max(forward, default=None), max(adjoint, default=None)
    forward, adjoint = solver.forward, solver.adjoint  # each says its own as `forward_cycles`
    return (
        forward.forward_cycles if isinstance(forward, MGRIT) else None,
        adjoint.forward_cycles if isinstance(adjoint, MGRIT) else None,
    )


def all_cycles(solver: Solvers) -> list[int]:
    """Cycles of every solve that is iterated, forward and adjoint, of all chains."""
    each = solver if isinstance(solver, tuple) else (solver,)
    return [c for one in each for c in cycles_of(one) if c is not None]


def with_cycles(solver: Solvers, change: Callable[[int], int]) -> Solvers:
    """The solver with other numbers of cycles, the forward one's changed first."""
    if isinstance(solver, tuple):
        return tuple(_one_with_cycles(each, change) for each in solver)
    return _one_with_cycles(solver, change)


def _one_with_cycles(solver: Solver, change: Callable[[int], int]) -> Solver:
    if isinstance(solver, MGRIT):
        forward = change(solver.forward_cycles)
        return replace(solver, forward_cycles=forward, adjoint_cycles=change(solver.adjoint_cycles))
    if isinstance(solver, Split):
        forward = _part_with_cycles(solver.forward, change)
        return replace(solver, forward=forward, adjoint=_part_with_cycles(solver.adjoint, change))
    return solver


def _part_with_cycles(part: Serial | MGRIT, change: Callable[[int], int]) -> Serial | MGRIT:
    changed = _one_with_cycles(part, change)
    assert not isinstance(changed, Split)
    return changed
