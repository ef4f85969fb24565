"""The guard: a solve whose iteration did not behave is done serially instead."""

from __future__ import annotations

import math

import torch

from ..chains.chain import Adjoint, Chain, Recorder
from ..solvers import MGRIT, Serial
from ..solvers.solution import Solution
from ..steps.state import State

GROWTH_MATTERS = 1e-3
"""Relative residual below which a growing residual is rounding, not divergence."""
ROUNDINGS = 2
"""The same in units of the state's rounding, which counts for states of 16 bits."""
TOO_FAR = 0.5
"""Relative residual from which a solve is useless, even one of a single cycle."""
ALL_WRONG = 1.0
"""The same of the estimated error, which may be three times too large."""


def guarded(
    solver: Serial | MGRIT,
    chain: Chain,
    u0: State,
    guess: State | None,
    recorder: Recorder | None,
    collect: bool,
) -> Solution:
    """Solves, and propagates serially instead if the iteration did not behave."""
    watched = isinstance(solver, MGRIT) and solver.guard
    solution = solver.solve(chain, u0, guess, recorder, collect)
    reason = _misbehaved(solution) if watched else None
    if reason is None:
        return solution
    if isinstance(chain, Adjoint):
        chain.gradients()
    spent = solution.evaluations
    serial = Serial(solver.memory).solve(chain, u0, None, recorder, collect)
    serial.fallback = reason
    serial.residual_tensors = solution.residual_tensors
    serial.scale_tensor, serial.error_tensor = solution.scale_tensor, solution.error_tensor
    serial.evaluations = [spent[0] + serial.evaluations[0], *spent[1:]]
    serial.seconds = [solution.seconds[0] + serial.seconds[0], *solution.seconds[1:]]
    return serial


def _misbehaved(solution: Solution) -> str | None:
    relative = solution.relative_residual
    if not math.isfinite(relative):
        return "the residual is not finite"
    if relative > TOO_FAR:
        return f"the residual is {relative:.2g} times the states"
    residuals = solution.residual_tensors
    rounding = ROUNDINGS * torch.finfo(solution.end[0].dtype).eps
    if len(residuals) > 1 and relative > max(GROWTH_MATTERS, rounding):
        first, last = float(residuals[0]), float(residuals[-1])
        if last > first:
            return f"the residual grew from {first:.2g} to {last:.2g}"
    if relative > rounding and solution.relative_error > ALL_WRONG:
        return f"the error is estimated at {solution.relative_error:.2g} times the states"
    return None
