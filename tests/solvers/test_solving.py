"""What a solve does by itself: it guards, starts warm, stops by tolerance, and says how it went."""

import math
import warnings

import pytest
import torch
from problems import batch, compare, gradients, small
from torch import Tensor

import layerparallel as lp

FEW = lp.MGRIT(coarsening=4, forward_cycles=2, adjoint_cycles=2)


# ---- guard ---------------------------------------------------------------------------------------


def steep() -> lp.Network:
    """Weights for which a coarse step says nothing about the fine ones."""
    net = small(lp.MGRIT(coarsening=8), 32, h=1.0, T=None, initial="independent")
    with torch.no_grad():
        net.body.get_parameter("layer.weight").mul_(4)
    return net


def test_guard_falls_back_to_serial():
    net = steep()
    with pytest.warns(RuntimeWarning, match="propagated serially"):
        errors = compare(net, batch(), net.solver)
    assert errors.worst < 1e-9
    assert net.solution is not None
    assert net.adjoint_solution is not None
    fallbacks = [net.solution.fallback, net.adjoint_solution.fallback]
    assert fallbacks[0] is not None
    assert net.fallbacks == sum(f is not None for f in fallbacks)
    assert net.solution.residuals  # what it saw
    assert net.solution.evaluations[0] >= 2 * 32  # both solves are counted


def test_guard_can_be_switched_off():
    net = steep()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        errors = compare(net, batch(), lp.MGRIT(coarsening=8, guard=False))
    assert errors.worst > 1e-3
    assert net.fallbacks == 0


def test_guard_leaves_a_good_iteration_alone():
    net = small(FEW, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(batch()).sum().backward()
    assert net.fallbacks == 0
    assert net.solution is not None
    assert net.solution.fallback is None


def test_guard_in_the_adjoint_alone():
    """A forward chain of small states may have a stiff adjoint: it has its own guard."""
    net = steep()
    net.solver = lp.Split(lp.Serial(), lp.MGRIT(coarsening=8, adjoint_cycles=1))
    with pytest.warns(RuntimeWarning, match="adjoint solve"):
        errors = compare(net, batch(), net.solver)
    assert errors.worst < 1e-9
    assert net.fallbacks == 1


# ---- warm starts ---------------------------------------------------------------------------------

WARM = lp.MGRIT(coarsening=4, forward_cycles=1, adjoint_cycles=1, warm_start=True)


def test_warm_start_goes_on_from_the_last_states():
    net, x = small(WARM, 32), batch()
    forward, adjoint = [], []
    for _ in range(8):
        net.zero_grad()
        net(x).sum().backward()
        assert net.solution is not None
        assert net.adjoint_solution is not None
        forward.append(net.solution.residuals[-1])
        adjoint.append(net.adjoint_solution.residuals[-1])
    for residuals in (forward, adjoint):
        assert residuals[1] < residuals[0] / 3
        assert residuals[-1] < 1e-9 * residuals[0]
    cold = small(lp.Serial(), 32)
    cold(x).sum().backward()
    for a, b in zip(gradients(net), gradients(cold), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_warm_starts_by_key():
    net = small(WARM, 32)
    residuals: dict[str, list[float]] = {"a": [], "b": []}
    for _ in range(3):
        for seed, key in enumerate(residuals):
            net(batch(seed=seed), key=key)
            assert net.solution is not None
            residuals[key].append(net.solution.residuals[-1])
    for found in residuals.values():
        assert found[2] < found[1] < found[0]
    net.forget_guesses()
    net(batch(seed=0), key="a")
    assert net.solution is not None
    assert net.solution.residuals[-1] == residuals["a"][0]


def test_warm_start_of_a_smaller_batch_and_of_another_coarsening():
    """What does not fit is not started from."""
    net = small(WARM, 32)
    for size, solver in (
        (5, WARM),
        (3, WARM),
        (5, WARM),
        (5, lp.MGRIT(coarsening=8, warm_start=True)),
        (5, lp.MGRIT(levels=3, coarsening=4, warm_start=True)),
    ):
        net.solver = solver
        net(batch(size)).sum().backward()
    cold = small(lp.MGRIT(coarsening=8), 32)
    net.solver = lp.MGRIT(coarsening=8, warm_start=True)
    torch.testing.assert_close(net(batch()), cold(batch()), rtol=0, atol=0)


def test_warm_start_of_one_direction_alone():
    net, x = small(lp.Split(WARM, lp.MGRIT(coarsening=4)), 32), batch()
    found = []
    for _ in range(2):
        net(x).sum().backward()
        assert net.adjoint_solution is not None
        found.append(net.adjoint_solution)
    assert len(found[0].residuals) == len(found[1].residuals)
    assert found[1].residuals[-1] > 0.2 * found[0].residuals[-1]


@pytest.mark.parametrize("guard", [True, False])
def test_warm_start_recovers_from_an_overflow(guard: bool):
    """An infinite loss must not poison the batches after it."""
    net, x = small(lp.MGRIT(coarsening=4, warm_start=True, guard=guard), 32), batch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (net(x).sum() * math.inf).backward()
    net.zero_grad()
    net(x).sum().backward()
    assert net.adjoint_solution is not None
    assert net.adjoint_solution.finite
    assert all(bool(torch.isfinite(g).all()) for g in gradients(net))


# ---- what a solution tells -----------------------------------------------------------------------


def test_solution_fields():
    net = small(lp.MGRIT(levels=3, coarsening=4, forward_cycles=3, adjoint_cycles=2), 35)
    assert net.solution is None
    y = net(batch())
    solution = net.solution
    assert solution is not None
    assert net.adjoint_solution is None
    y.sum().backward()
    adjoint = net.adjoint_solution
    assert adjoint is not None
    assert len(solution.residuals) == 3
    assert len(solution.corrections) == 2
    assert len(adjoint.residuals) == 2
    assert solution.residuals[2] < solution.residuals[1] < solution.residuals[0]
    assert solution.convergence_factor == pytest.approx(
        (solution.residuals[2] / solution.residuals[0]) ** 0.5
    )
    assert 0 < solution.relative_residual < 1e-2
    assert solution.relative_residual < solution.relative_error < 0.1
    assert solution.finite
    assert solution.converged is None
    assert len(solution.evaluations) == 3
    assert solution.step_evaluations == sum(solution.evaluations)
    assert solution.points is not None
    assert solution.points[0].shape[0] == 9


def test_serial_solution_fields():
    net = small(lp.Serial(), 35)
    net(batch()).sum().backward()
    for solution in (net.solution, net.adjoint_solution):
        assert solution is not None
        assert solution.evaluations == [35]
        assert solution.residuals == []
        assert solution.relative_residual == solution.relative_error == 0
        assert solution.converged
        assert solution.convergence_factor is None
        assert solution.points is None


def test_tolerance_stops_the_cycles_and_says_whether_it_was_met():
    net = small(FEW, depth=64)
    net.solver = lp.MGRIT(coarsening=4, tolerance=1e-6, forward_cycles=12, adjoint_cycles=12)
    net(batch()).sum().backward()
    for solution in (net.solution, net.adjoint_solution):
        assert solution is not None
        assert solution.converged
        assert solution.relative_residual < solution.relative_error <= 1e-6
        assert 2 <= len(solution.residuals) < 12
    net.solver = lp.MGRIT(coarsening=4, tolerance=1e-12, forward_cycles=2, adjoint_cycles=2)
    net(batch()).sum().backward()
    for solution in (net.solution, net.adjoint_solution):
        assert solution is not None
        assert not solution.converged
        assert len(solution.residuals) == 2


def test_norm_of_residuals_is_a_parameter():
    def largest(state: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([part.abs().max() for part in state]).max()

    net, x = small(FEW, 32), batch()
    net(x)
    two = net.solution
    net.solver = lp.MGRIT(coarsening=4, norm=largest)
    net(x)
    assert two is not None
    assert net.solution is not None
    for a, b in zip(net.solution.residuals, two.residuals, strict=True):
        assert a < b < a * math.sqrt(8 * 4 * 5)
