"""Solvers worth trying on a network, the likely good ones first."""

from __future__ import annotations

import math
from dataclasses import replace

from ..solvers import MGRIT, Serial
from ..solvers.variants import Solver, Solvers, is_serial
from .bodies import Body, StackedBody, TiedBody, UnlikeBody
from .network import Network

Operator = tuple[str, int | None]
"""A coarse operator and its samples."""

TWO_LEVELS = (8, 16, 32, 64)
THREE_LEVELS = ((8, 4), (16, 4))
FEWEST = 4
"""Steps of the coarsest level: with fewer there is next to nothing to do at the same time."""
MOST_CYCLES = 3


def candidates(network: Network) -> list[Solvers]:
    """Settings of multigrid with one cycle that every chain of the network can take.

    A chain that is too short for a setting is propagated serially in it. There are none for chains of
    less than 8 steps.

    Args:
        network: after a forward pass, which has told the chains whether they have an input per step.
    """
    chains = network.chains
    least = max(FEWEST, network.group.size)
    sizes = _sizes(max(body.depth for body in chains), least)
    known = [_operators(body) for body in chains]
    places = [
        (k + place, size, place)
        for k, size in enumerate(sizes)
        for place in range(max(len(operators) for operators in known))
    ]
    found: list[Solvers] = []
    for _, size, place in sorted(places, key=lambda each: each[0]):
        parts = [
            _fitted(body, size, operators[min(place, len(operators) - 1)], least)
            for body, operators in zip(chains, known, strict=True)
        ]
        memory = [each.forward.memory for each in network.solvers]
        several = tuple(replace(s, memory=m) for s, m in zip(parts, memory, strict=True))
        solver: Solvers = several[0] if len(set(several)) == 1 else several
        if not is_serial(solver) and solver not in found:
            found.append(solver)
    return found


def with_one_more(solver: Solvers) -> Solvers | None:
    """With one more cycle, of the forward and the adjoint solve in turn; None beyond three of each."""
    if isinstance(solver, tuple):
        each = [part if is_serial(part) else with_one_more(part) for part in solver]
        return None if None in each else tuple(each)  # type: ignore[return-value]
    if not isinstance(solver, MGRIT) or solver.adjoint_cycles == MOST_CYCLES:
        return None
    if solver.forward_cycles == solver.adjoint_cycles:
        return replace(solver, forward_cycles=solver.forward_cycles + 1)
    return replace(solver, adjoint_cycles=solver.adjoint_cycles + 1)


def _sizes(depth: int, least: int) -> list[tuple[int, ...]]:
    """Coarsenings from level to level; intervals of about sqrt(N) steps come first."""
    two = [(m,) for m in TWO_LEVELS if depth // m >= least]
    three = [ms for ms in THREE_LEVELS if depth // math.prod(ms) >= 2 * least]
    small = [(m,) for m in (4, 2) if depth // m >= least][:1]
    return sorted([*two, *three] or small, key=lambda ms: abs(math.log(math.prod(ms) ** 2 / depth)))


def _operators(body: Body) -> list[Operator]:
    """The coarse operators that the body's chain can take and that differ on it."""
    picard = body.allows_picard
    if isinstance(body, StackedBody) and picard:
        return [
            ("picard", 4),
            ("mean_parameters", None),
            ("mean_residual", None),
            ("inject", None),
            ("picard", None),
        ]
    if isinstance(body, StackedBody):
        return [("mean_parameters", None), ("inject", None), ("mean_residual", None)]
    if isinstance(body, UnlikeBody):
        return [("inject", None), ("mean_residual", 4), *[("picard", 4)] * picard]
    if isinstance(body, TiedBody):
        inputs: list[Operator] = [("mean_residual", None)] * body.driven
        return [("inject", None), *[("picard", None)] * picard, *inputs]
    return [("inject", None)]


def _fitted(body: Body, size: tuple[int, ...], operator: Operator, least: int) -> Solver:
    """Multigrid of as many of these levels as the chain has steps for."""
    while size and body.depth // math.prod(size) < least:
        size = size[:-1]
    if not size:
        return Serial()
    coarse, samples = operator
    return MGRIT(
        levels=len(size) + 1,
        coarsening=size[0] if len(size) == 1 else size,
        forward_cycles=1,
        adjoint_cycles=1,
        coarse=coarse,  # type: ignore[arg-type]
        samples=samples if samples is not None and samples < size[0] else None,
    )
