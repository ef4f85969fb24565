"""L-BFGS for inexact objectives: dense formulas, known minimisers, counted evaluations."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.training.groups import depth_groups
from layerparallel.training.optim import LBFGS, Search
from layerparallel.training.two_loop import two_loop


class Problem:
    """A function of some parameters; counts how often it and its gradient are evaluated."""

    def __init__(self, function, *start: Tensor):
        self.params = [nn.Parameter(s.clone()) for s in start]
        self.function, self.values, self.gradients = function, 0, 0

    def objective(self) -> Tensor:
        self.values += 1
        return self.function(*self.params)

    def closure(self) -> Tensor:
        for p in self.params:
            p.grad = None
        loss = self.objective()
        loss.backward()
        self.gradients += 1
        return loss

    @property
    def point(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.params])


def quadratic(size: int = 12, condition: float = 100.0, seed: int = 0):
    """f(x) = x·A x / 2 - b·x in float64, its matrix and its minimiser."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    matrix = q @ torch.diag(torch.logspace(0, math.log10(condition), size).double()) @ q.T
    b = torch.randn(size, generator=generator, dtype=torch.float64)
    start = torch.randn(size, generator=generator, dtype=torch.float64)
    return (lambda x: 0.5 * x @ matrix @ x - b @ x), matrix, torch.linalg.solve(matrix, b), start


def rosenbrock(x: Tensor) -> Tensor:
    return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()


def dense_bfgs(pairs: list[tuple[Tensor, Tensor]], size: int) -> Tensor:
    """Inverse Hessian from the BFGS formula, started from (s·y / y·y) I of the newest pair."""
    s, y = pairs[-1]
    inverse = (s @ y / (y @ y)) * torch.eye(size, dtype=s.dtype)
    for s, y in pairs:
        rho = 1 / (s @ y)
        left = torch.eye(size, dtype=s.dtype) - rho * torch.outer(s, y)
        inverse = left @ inverse @ left.T + rho * torch.outer(s, s)
    return inverse


def searched(optimizer: LBFGS) -> Search:
    assert optimizer.search is not None
    return optimizer.search


def test_two_loop_equals_the_dense_formula():
    generator = torch.Generator().manual_seed(1)
    size, count = 9, 5
    basis = torch.zeros(2 * count + 1, size, dtype=torch.float64)
    spd = torch.randn(size, size, generator=generator, dtype=torch.float64)
    spd = spd @ spd.T + torch.eye(size, dtype=torch.float64)
    for k in range(count):
        basis[2 * k] = torch.randn(size, generator=generator, dtype=torch.float64)
        basis[2 * k + 1] = spd @ basis[2 * k]
    basis[-1] = torch.randn(size, generator=generator, dtype=torch.float64)
    for order in ([], [3], [2, 4, 0], [4, 0, 1, 2, 3]):
        coefficients = two_loop((basis @ basis.T).tolist(), order, 2 * count)
        direction = torch.tensor(coefficients, dtype=torch.float64) @ basis
        pairs = [(basis[2 * k], basis[2 * k + 1]) for k in order]
        inverse = dense_bfgs(pairs, size) if pairs else torch.eye(size, dtype=torch.float64)
        torch.testing.assert_close(direction, -inverse @ basis[-1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("reuse", [False, True])
def test_a_whole_run_equals_dense_bfgs(reuse):
    """Every direction of a run, over more steps than the memory holds."""
    function, matrix, _, start = quadratic()
    problem = Problem(function, start)
    optimizer = LBFGS(problem.params, memory=4, reuse_gradient=reuse)
    points, lengths = [start.clone()], []
    for _ in range(9):
        optimizer.step(problem.closure, problem.objective)
        points.append(problem.point)
        lengths.append(searched(optimizer).step)
    steps = list(pairwise(points))
    for k in range(1, 9):
        pairs = [(b - a, matrix @ (b - a)) for a, b in steps[max(0, k - 4) : k]]
        inverse = dense_bfgs(pairs, len(start))
        expected = -lengths[k] * inverse @ torch.func.grad(function)(points[k])
        torch.testing.assert_close(points[k + 1] - points[k], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("with_objective", [False, True])
@pytest.mark.parametrize("reuse", [False, True])
def test_quadratic_ends_at_its_minimiser(with_objective, reuse):
    function, _, minimiser, start = quadratic()
    problem = Problem(function, start)
    optimizer = LBFGS(problem.params, reuse_gradient=reuse)
    for _ in range(60):
        optimizer.step(problem.closure, problem.objective if with_objective else None)
    assert (problem.point - minimiser).norm() < 1e-7 * minimiser.norm()


def test_rosenbrock():
    problem = Problem(rosenbrock, torch.full((10,), -1.2, dtype=torch.float64))
    optimizer = LBFGS(problem.params, reuse_gradient=True)
    losses = [optimizer.step(problem.closure, problem.objective) for _ in range(150)]
    assert losses[-1] < 1e-12
    assert all(later <= earlier for earlier, later in pairwise(losses))
    torch.testing.assert_close(problem.point, torch.ones(10, dtype=torch.float64), atol=1e-5, rtol=0)


def test_identity_is_steepest_descent():
    function, _, _, start = quadratic()
    problem = Problem(function, start)
    optimizer = LBFGS(problem.params, hessian="identity", lr=1e-3)
    gradient = torch.func.grad(function)(start)
    optimizer.step(problem.closure, problem.objective)
    torch.testing.assert_close(problem.point, start - 1e-3 * gradient)
    optimizer.step(problem.closure, problem.objective)
    assert searched(optimizer).pairs == 0
    assert searched(optimizer).steepest


def test_first_step_is_no_longer_than_one():
    function, _, _, start = quadratic()
    problem = Problem(lambda x: 50 * function(x), start)
    optimizer = LBFGS(problem.params)
    optimizer.step(problem.closure, problem.objective)
    length = (problem.point - start).norm().item()
    assert length == pytest.approx(0.5 ** (searched(optimizer).trials - 1), rel=1e-12)


def test_nothing_is_evaluated_twice():
    """One value and one gradient a step where gradients are kept and the first trial is taken."""
    function, _, _, start = quadratic(condition=2.0)
    problem = Problem(function, start)
    optimizer = LBFGS(problem.params, reuse_gradient=True)
    optimizer.step(problem.closure, problem.objective)  # evaluates at the start, too
    values, gradients, trials = problem.values, problem.gradients, 0
    for _ in range(5):
        optimizer.step(problem.closure, problem.objective)
        trials += searched(optimizer).trials
    assert problem.values - values == trials
    assert problem.gradients == gradients  # backward ran on the accepted trial's own graph


def test_objective_runs_without_a_graph_unless_its_gradient_is_kept():
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return x @ x

    for reuse in (False, True):
        seen.clear()
        problem = Problem(function, torch.ones(3))
        LBFGS(problem.params, reuse_gradient=reuse).step(problem.closure, problem.objective)
        assert seen[0] is True
        assert set(seen[1:]) == {reuse}


def test_forget_takes_the_gradient_of_the_new_function_and_keeps_the_pairs():
    target = torch.zeros(4, dtype=torch.float64)
    scale = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    problem = Problem(lambda x: (scale * (x - target) ** 2).sum(), torch.ones_like(target))
    optimizer = LBFGS(problem.params, reuse_gradient=True)
    for _ in range(3):
        optimizer.step(problem.closure, problem.objective)
    target += 3.0
    optimizer.forget()
    fresh = problem.objective().item()
    assert optimizer.step(problem.closure, problem.objective) == fresh
    assert not searched(optimizer).steepest
    assert searched(optimizer).pairs == 4
    for _ in range(30):
        optimizer.step(problem.closure, problem.objective)
    torch.testing.assert_close(problem.point, target, rtol=0, atol=1e-7)


def test_changed_parameters_are_noticed():
    function, _, _, start = quadratic()
    problem = Problem(function, start)
    optimizer = LBFGS(problem.params, reuse_gradient=True)
    optimizer.step(problem.closure, problem.objective)
    with torch.no_grad():
        problem.params[0].add_(1.0)
    expected = function(problem.point).item()
    assert optimizer.step(problem.closure, problem.objective) == expected


@pytest.mark.parametrize(
    ("function", "skipped"),
    [(lambda x: x.sum(), True), (lambda x: -(x @ x), True), (lambda x: x @ x, False)],
    ids=["linear", "concave", "convex"],
)
def test_pairs_without_curvature_are_skipped(function, skipped):
    problem = Problem(function, torch.ones(3, dtype=torch.float64))
    optimizer = LBFGS(problem.params, reuse_gradient=True)
    optimizer.step(problem.closure, problem.objective)
    assert searched(optimizer).accepted
    assert searched(optimizer).skipped is skipped
    assert searched(optimizer).pairs == (0 if skipped else 1)


def test_a_direction_that_does_not_descend_is_replaced():
    function, _, _, start = quadratic()
    problem = Problem(function, start)
    optimizer = LBFGS(problem.params, reuse_gradient=True)
    for _ in range(3):
        optimizer.step(problem.closure, problem.objective)
    state = optimizer.state[problem.params[0]]
    newest = state["order"][-1]
    state["gram"][2 * newest][2 * newest + 1] *= -1  # as inexact inner products might have it
    state["gram"][2 * newest + 1][2 * newest] *= -1
    before, gradient = problem.point, torch.func.grad(function)(problem.point)
    optimizer.step(problem.closure, problem.objective)
    assert searched(optimizer).steepest
    assert searched(optimizer).slope == pytest.approx(-(gradient @ gradient).item())
    taken = problem.point - before
    assert (taken @ gradient / taken.norm() / gradient.norm()).item() == pytest.approx(-1)


@pytest.mark.parametrize("error", [1e-3, lambda: 1e-3])
def test_armijo_allows_for_the_error_of_the_objective(error):
    """Noise of 1e-3 hides the decrease from 5e-4 to 0; the direction is right all the same."""
    start = torch.full((5,), 0.01, dtype=torch.float64)

    def noisy():
        signs = iter([-1, 1, 1, 1, 1, 1])  # low at the start, high at every trial
        return Problem(lambda x: x @ x + 1e-3 * next(signs), start)

    refused = noisy()
    optimizer = LBFGS(refused.params, max_trials=5, lr=0.5)
    optimizer.step(refused.closure)
    assert not searched(optimizer).accepted
    assert torch.equal(refused.point, start)
    accepted = noisy()
    optimizer = LBFGS(accepted.params, max_trials=5, lr=0.5, objective_error=error)
    optimizer.step(accepted.closure)
    assert searched(optimizer).trials == 1
    assert searched(optimizer).error == pytest.approx(2e-3, rel=1e-6)
    assert accepted.point.norm() < 1e-12


def test_failed_search_leaves_the_parameters_and_clears_the_memory():
    function, _, _, start = quadratic()
    problem = Problem(function, start)
    optimizer = LBFGS(problem.params, max_trials=4, reuse_gradient=True)
    for _ in range(2):
        optimizer.step(problem.closure, problem.objective)
    before = problem.point
    optimizer.step(problem.closure, lambda: torch.tensor(math.nan, dtype=torch.float64))
    assert not searched(optimizer).accepted
    assert searched(optimizer).trials == 4
    assert torch.equal(problem.point, before)
    optimizer.step(problem.closure, problem.objective)
    assert searched(optimizer).steepest
    assert searched(optimizer).accepted


def test_stationary_point_is_left_alone():
    problem = Problem(lambda x: x @ x, torch.zeros(3))
    optimizer = LBFGS(problem.params)
    assert optimizer.step(problem.closure) == 0.0
    assert searched(optimizer).trials == 0
    assert torch.equal(problem.point, torch.zeros(3))


def test_hooks_frame_every_trial():
    events = []

    def function(x: Tensor) -> Tensor:
        events.append("value")
        return (50 * x**2).sum() + (x**4).sum()

    problem = Problem(function, torch.full((2,), 0.01))
    optimizer = LBFGS(
        problem.params,
        lr=0.5,
        reuse_gradient=True,
        on_trial=lambda: events.append("trial"),
        on_accept=lambda: events.append("accept"),
    )
    optimizer.step(problem.closure, problem.objective)
    assert searched(optimizer).trials > 1
    assert events == ["value", *["trial", "value"] * searched(optimizer).trials, "accept"]


def test_metric_is_a_change_of_variables():
    """With M = c^2 on a group, the run is the one in variables multiplied by c."""
    function, _, _, start = quadratic()
    c = 4.0  # a power of two: scaling is then exact
    a, b = start[:7], start[7:]
    plain = Problem(lambda p, q: function(torch.cat([p / c, q])), c * a, b)
    weighted = Problem(lambda p, q: function(torch.cat([p, q])), a, b)
    one = LBFGS(plain.params, reuse_gradient=True)
    two = LBFGS(
        [{"params": weighted.params[:1], "metric": c**2}, {"params": weighted.params[1:]}],
        reuse_gradient=True,
    )
    for _ in range(8):
        one.step(plain.closure, plain.objective)
        two.step(weighted.closure, weighted.objective)
    torch.testing.assert_close(plain.params[0] / c, weighted.params[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(plain.params[1], weighted.params[1], rtol=1e-9, atol=1e-11)


def test_depth_groups_weight_the_body_by_its_step_size():
    body = lp.chain(lp.Dense(3), 4, h=0.25)
    network = lp.Network(nn.Linear(2, 3), body, nn.Linear(3, 2))
    inside, rest = depth_groups(network)
    assert inside["metric"] == 0.25
    assert inside["params"] == list(network.body.parameters())
    assert len(rest["params"]) == 4
    optimizer = LBFGS([inside, rest])
    assert [group["metric"] for group in optimizer.param_groups] == [0.25, 1.0]


def test_inner_products_go_through_total():
    """Two messages a gradient, whatever the memory; and their sum is what the method uses."""
    function, _, _, start = quadratic()
    shapes = []

    def total(partial: Tensor) -> Tensor:
        shapes.append(tuple(partial.shape))
        return 3 * partial  # as if three ranks had parameters of the same value

    problem = Problem(function, start)
    optimizer = LBFGS(problem.params, reuse_gradient=True, total=total)
    gradient = torch.func.grad(function)(start)
    optimizer.step(problem.closure, problem.objective)
    assert searched(optimizer).slope == pytest.approx(-3 * (gradient @ gradient).item())
    assert shapes == [(21, 1), (2, 2), (21, 3)]


@pytest.mark.parametrize("reuse", [False, True])
def test_state_dict_round_trip_is_bitwise(reuse):
    start = torch.full((6,), -1.2)
    unbroken = Problem(rosenbrock, start)
    optimizer = LBFGS(unbroken.params, memory=3, reuse_gradient=reuse)
    for _ in range(7):
        optimizer.step(unbroken.closure, unbroken.objective)
    saved = copy.deepcopy(optimizer.state_dict())
    resumed = Problem(rosenbrock, unbroken.point)
    other = LBFGS(resumed.params, memory=3, reuse_gradient=reuse)
    other.load_state_dict(saved)
    evaluated = resumed.values
    for _ in range(7):
        one = optimizer.step(unbroken.closure, unbroken.objective)
        two = other.step(resumed.closure, resumed.objective)
        assert one == two
    assert torch.equal(unbroken.point, resumed.point)
    assert resumed.values - evaluated > 0


def test_state_dict_is_plain_data(tmp_path):
    problem = Problem(rosenbrock, torch.full((6,), -1.2))
    optimizer = LBFGS(problem.params)
    optimizer.step(problem.closure)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    LBFGS(problem.params).load_state_dict(state)


def test_a_copy_goes_on_alone():
    problem = Problem(rosenbrock, torch.full((6,), -1.2))
    hooks: list[str] = []
    optimizer = LBFGS(problem.params, objective_error=1e-3, on_trial=lambda: hooks.append("trial"))
    optimizer.step(problem.closure)
    before, called = problem.point, len(hooks)
    pair = copy.deepcopy((problem, optimizer))
    pair[1].step(pair[0].closure)
    assert searched(pair[1]).pairs == 1
    assert searched(pair[1]).error > 1e-3
    assert torch.equal(problem.point, before)
    assert not torch.equal(pair[0].point, before)
    assert len(hooks) == called


def test_learning_rate_schedulers_set_the_initial_step():
    problem = Problem(lambda x: x @ x, torch.ones(3))
    optimizer = LBFGS(problem.params, lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.125)
    optimizer.step(problem.closure)
    scheduler.step()
    optimizer.step(problem.closure)
    assert searched(optimizer).step <= 0.125


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"lr": 0.0}, "lr = 0.0"),
        ({"memory": 0}, "memory = 0"),
        ({"armijo": 1.0}, "armijo = 1.0"),
        ({"factor": 1.0}, "factor = 1.0"),
        ({"max_trials": 0}, "max_trials = 0"),
        ({"curvature": -1.0}, "curvature = -1.0"),
        ({"hessian": "bfgs"}, "'bfgs'"),
        ({"objective_error": -1.0}, "objective_error = -1.0"),
        ({"metric": 0.0}, "metric = 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        LBFGS([nn.Parameter(torch.zeros(2))], **settings)


def test_unlike_parameters_and_groups_are_refused():
    single, double = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2).double())
    with pytest.raises(ValueError, match="one dtype"):
        LBFGS([single, double])
    with pytest.raises(ValueError, match="metric"):
        LBFGS([{"params": [single], "lr": 0.5}, {"params": [nn.Parameter(torch.zeros(2))]}])


def test_not_finite_before_the_step_is_an_error():
    problem = Problem(lambda x: x @ x * math.inf, torch.ones(2))
    with pytest.raises(RuntimeError, match="inf"):
        LBFGS(problem.params).step(problem.closure)


@pytest.mark.parametrize("reuse", [False, True])
def test_a_step_within_one_autocast_region_sees_every_trial(reuse):
    """Autocast keeps its casts of the weights until the region ends."""
    x, y = torch.linspace(-1, 1, 48).view(16, 3), torch.linspace(0, 1, 16).view(16, 1)

    def losses(around: bool) -> list[float]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        optimizer, found = LBFGS(net.parameters(), reuse_gradient=reuse), []

        def closure():
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):  # a region within one ends nothing
                loss = (net(x).float() - y).square().mean()
            loss.backward()
            found.append(loss.item())
            return loss

        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16, enabled=around):
                optimizer.step(closure)
        return found

    assert losses(around=True) == losses(around=False)
    assert losses(around=True)[-1] < 0.5 * losses(around=True)[0]
