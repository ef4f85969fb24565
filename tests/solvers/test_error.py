"""The estimate of a solve's error, beside the error."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from problems import Affine, batch, bound, c_points, oscillation, small

import layerparallel as lp

WIDTH, SAMPLES = 8, 16


def solved(net: lp.Network, solver: lp.MGRIT, x: torch.Tensor) -> list[tuple[float, float, float]]:
    """Residual, estimate and error of the forward and of the adjoint solve, relative."""
    with torch.no_grad():
        chain, u0 = bound(net, x)
        adjoint = chain.linearise()
        lp.Serial().solve(chain, u0, None, adjoint)
        found = []
        for one, begin, part in (
            (chain, u0, solver),
            (adjoint, (torch.ones_like(u0[0]),), solver.adjoint),
        ):
            solution = part.solve(one, begin)
            assert solution.points is not None
            points, exact = solution.points[0], c_points(one, begin, solver.factors(one.steps)[0])
            error = float((points - exact).norm() / points.norm())
            found.append((solution.relative_residual, solution.relative_error, error))
    return found


def states(seed: int = 1) -> torch.Tensor:
    return torch.randn(
        SAMPLES, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def turning(turn: float, damping: float = 0.0, alike: bool = False) -> lp.Network:
    """512 layers that turn states about axes of their own, or all about the same."""
    net = oscillation(lp.Dense(WIDTH, "tanh"), 512, turn, damping + turn**2 / 2)
    if alike:
        with torch.no_grad():
            weight = net.body.get_parameter("layer.weight")
            weight.copy_(weight[:1].expand_as(weight))
    return net


@pytest.mark.parametrize("cycles", [1, 2, 3])
@pytest.mark.parametrize("relaxation", [0, 1], ids=["F", "FCF"])
@pytest.mark.parametrize("alike", [False, True], ids=["unlike", "alike"])
@pytest.mark.parametrize("damping", [0.0, 0.01, -0.005], ids=["undamped", "damped", "growing"])
def test_it_is_of_the_size_of_the_error(damping, alike, relaxation, cycles):
    solver = lp.MGRIT(
        coarsening=16,
        relaxation=relaxation,
        coarse="picard",
        forward_cycles=cycles,
        adjoint_cycles=cycles,
    )
    for residual, estimate, error in solved(turning(0.04, damping, alike), solver, states()):
        assert 1 / 3 < estimate / error < 3
        assert residual < error / 1.5


def test_residuals_of_an_undamped_chain_hide_its_error():
    """64 intervals miss by 1 % each, and the states are wrong by a third."""
    solver = lp.MGRIT(coarsening=8, coarse="mean_parameters", forward_cycles=1, adjoint_cycles=1)
    for residual, estimate, error in solved(turning(0.02, alike=True), solver, states()):
        assert error > 20 * residual
        assert 1 / 3 < estimate / error < 3


def test_it_is_zero_once_the_solve_is_exact():
    net = oscillation(Affine(WIDTH), 64, 0.1)
    solver = lp.MGRIT(coarsening=8, forward_cycles=9, adjoint_cycles=9)
    for residual, estimate, _ in solved(net, solver, states()):
        assert residual == estimate == 0


def test_a_tolerance_is_of_the_error():
    net = oscillation(lp.Dense(WIDTH, "tanh"), 512, 0.04)
    solver = lp.MGRIT(
        coarsening=8, coarse="picard", tolerance=1e-4, forward_cycles=12, adjoint_cycles=12
    )
    for _, estimate, error in solved(net, solver, states()):
        assert estimate <= 1e-4
        assert error < 3e-4


def test_the_guard_knows_states_that_are_all_wrong():
    """Of a residual that it lets pass."""
    net = oscillation(lp.Dense(WIDTH, "tanh"), 512, 0.1)
    net.solver = lp.MGRIT(coarsening=16, coarse="mean_parameters", forward_cycles=1, adjoint_cycles=1)
    with pytest.warns(RuntimeWarning, match="the error is estimated at [0-9.]+ times the states"):
        net(states())
    assert net.solution is not None
    assert net.solution.relative_residual < 0.5
    assert net.solution.relative_error > 1
    with net.solved_by(replace(net.solver, guard=False)):
        found = net(states())
    with net.solved_by(lp.Serial()):
        exact = net(states())
    assert (found - exact).norm() > 0.5 * exact.norm()


def test_a_solution_says_it():
    net = small(lp.MGRIT(coarsening=4), 32)
    net(batch())
    solution = net.solution
    assert solution is not None
    assert f"relative_error={solution.relative_error:.2e})" in repr(solution)
    assert "converged" not in repr(solution)
    net.solver = lp.MGRIT(coarsening=4, tolerance=1e-2, forward_cycles=9)
    net(batch())
    assert "converged=True" in repr(net.solution)
    solution.error_tensor = None  # of a solver that estimates nothing
    assert solution.relative_error == solution.relative_residual
