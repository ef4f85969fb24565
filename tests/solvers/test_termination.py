"""After as many cycles as there are intervals a solve is exact, in rounded arithmetic, too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import Affine, bound, oscillation
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.chains.chain import Chain
from layerparallel.solvers.cost import exact_after
from layerparallel.solvers.solution import Solution
from layerparallel.steps.state import State

LAYERS = {
    "identity": lambda: lp.Dense(8, "identity"),
    "relu": lambda: lp.Dense(8, "relu"),
    "affine": lambda: Affine(8),
    "tanh": lambda: Affine(8, torch.tanh),
}
"""Steps whose arithmetic is the same alone as side by side with others: at width 8 and 8 samples."""
UNLIKE_ALONE = {
    "dense tanh": lambda: lp.Dense(4, "tanh"),
    "affine": lambda: Affine(4),
    "tanh": lambda: Affine(4, torch.tanh),
}
"""Steps that are rounded otherwise alone than side by side with others."""

solvers = st.builds(
    lp.MGRIT,
    levels=st.integers(2, 4),
    coarsening=st.one_of(st.integers(3, 8), st.tuples(st.integers(3, 8), st.integers(2, 4))),
    relaxation=st.one_of(st.integers(0, 2), st.tuples(st.integers(0, 1), st.integers(0, 2))),
    cycle=st.sampled_from("VFW"),
    coarse=st.sampled_from(["inject", "mean_residual", "picard"]),
    samples=st.sampled_from([1, 2]),
    start=st.sampled_from(["coarse", "nested", "constant"]),
    first_down=st.booleans(),
    smallest=st.just(2),
    guard=st.just(False),
)


def propagated(layer: nn.Module, depth: int, solver: lp.MGRIT, turn: float) -> tuple[Chain, State]:
    """A chain whose step of the first coarse level turns by `turn`: explicit Euler grows by that."""
    net = oscillation(layer, depth, turn / solver.factors(depth)[0])
    width = net.body.get_parameter(
        "layer.weight" if isinstance(layer, lp.Dense) else "layer.linear.weight"
    )
    x = torch.randn(8, width.shape[-1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return bound(net, x)


def both_ways(chain: Chain, u0: State, solver: lp.MGRIT | lp.Serial) -> tuple[Solution, Solution]:
    """The forward solve, and that of the adjoint about the exact states."""
    with torch.no_grad():
        adjoint = chain.linearise()
        lp.Serial().solve(chain, u0, None, adjoint)
        outgoing = tuple(torch.ones_like(a) for a in u0)
        return solver.forward.solve(chain, u0), solver.adjoint.solve(adjoint, outgoing)


def terminated(solver: lp.MGRIT, depth: int) -> lp.MGRIT:
    """With the cycles that it takes to be exact."""
    cycles = exact_after(solver, depth) + (0 if solver.first_down or solver.start == "constant" else 1)
    return replace(solver, forward_cycles=cycles, adjoint_cycles=cycles)


@given(
    solver=solvers,
    layer=st.sampled_from(sorted(LAYERS)),
    depth=st.integers(24, 130),
    turn=st.floats(0.5, 4.0),
)
def test_it_ends_with_the_bits_of_serial_propagation(solver, layer, depth, turn):
    chain, u0 = propagated(LAYERS[layer](), depth, solver, turn)
    solver = terminated(solver, depth)
    exact = both_ways(chain, u0, lp.Serial())
    for found, reference in zip(both_ways(chain, u0, solver), exact, strict=True):
        assert found.residuals[-1] == 0
        assert torch.equal(found.end[0], reference.end[0])


def off(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("coarsening", [(16,), (4, 4)], ids=["two levels", "three levels"])
@pytest.mark.parametrize("relaxation", [0, 1], ids=["F", "FCF"])
@pytest.mark.parametrize("layer", sorted(UNLIKE_ALONE))
def test_rounding_does_not_grow_where_arithmetic_differs(layer, relaxation, coarsening):
    """Coarse steps grow by 3 each, which 32 of them would make 1e16 of."""
    solver = lp.MGRIT(len(coarsening) + 1, coarsening, relaxation=relaxation, guard=False)
    chain, u0 = propagated(UNLIKE_ALONE[layer](), 512, lp.MGRIT(coarsening=16), 3.1)
    exact = both_ways(chain, u0, lp.Serial())
    found = both_ways(chain, u0, terminated(solver, 512))
    for one, reference in zip(found, exact, strict=True):
        assert one.relative_residual < 1e-13
        assert off(one.end[0], reference.end[0]) < 1e-12


@pytest.mark.parametrize("relaxation", [0, 1], ids=["F", "FCF"])
def test_no_further_cycle_changes_a_bit(relaxation):
    solver = lp.MGRIT(coarsening=16, relaxation=relaxation, guard=False)
    chain, u0 = propagated(lp.Dense(8, "identity"), 512, solver, 3.1)
    solver = terminated(solver, 512)
    more = replace(
        solver, forward_cycles=solver.forward_cycles + 2, adjoint_cycles=solver.adjoint_cycles + 2
    )
    pairs = zip(both_ways(chain, u0, solver), both_ways(chain, u0, more), strict=True)
    for found, later in pairs:
        assert torch.equal(found.end[0], later.end[0])
        assert later.residuals[-3:] == [0, 0, 0]
        assert later.corrections[-2:] == [0, 0]
