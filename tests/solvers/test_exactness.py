"""Every solver equals ordinary autograd: outputs, and the gradient of every parameter."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import BY_NAME, PROBLEMS, Problem, bound, c_points, compare, last_cycle
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.chains.chain import Intervals
from layerparallel.network.propagate import Solver
from layerparallel.solvers.settings import CHOICES

CONVERGED = 1e-12
TERMINATED = 1e-10
OPERATORS = CHOICES["coarse"]
LEVELS = [2, 3, *(pytest.param(levels, marks=pytest.mark.slow) for levels in (4, 5))]


# ---- where the iteration contracts ---------------------------------------------------------------

SOLVERS: dict[str, Solver] = {
    "serial": lp.Serial(),
    "serial, recompute": lp.Serial("recompute"),
    "two levels": lp.MGRIT(coarsening=4, forward_cycles=9, adjoint_cycles=9),
    "recompute": lp.MGRIT(
        levels=3, coarsening=2, forward_cycles=12, adjoint_cycles=12, memory="recompute"
    ),
    "F-cycle, samples": lp.MGRIT(
        levels=3,
        coarsening=(3, 2),
        relaxation=(0, 1),
        cycle="F",
        forward_cycles=10,
        adjoint_cycles=10,
        coarse="mean_residual",
        samples=2,
    ),
    "tolerance": lp.MGRIT(
        levels=3,
        coarsening=2,
        relaxation=1,
        start="nested",
        tolerance=1e-14,
        forward_cycles=15,
        adjoint_cycles=15,
    ),
    "tolerance, recompute": lp.MGRIT(
        coarsening=3, tolerance=1e-14, forward_cycles=15, adjoint_cycles=15, memory="recompute"
    ),
    "parareal": lp.Parareal(4, 9, 9, first_down=True),
    "adjoint alone": lp.Split(lp.Serial(), lp.MGRIT(coarsening=4, adjoint_cycles=9)),
    "forward alone": lp.Split(lp.MGRIT(coarsening=4, forward_cycles=9), lp.Serial()),
    "adjoint alone, recompute": lp.Split(
        lp.Serial("recompute"), lp.MGRIT(coarsening=4, adjoint_cycles=9, memory="recompute")
    ),
    "forward alone, recompute": lp.Split(
        lp.MGRIT(coarsening=4, forward_cycles=9, memory="recompute"), lp.Serial("recompute")
    ),
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_every_problem_by_every_solver(problem: Problem, solver: Solver):
    for depth in (24, 29):
        net, x = problem.network(depth), problem.input(depth)
        with problem.layout():
            errors = compare(net, x, solver)
        assert errors.worst < CONVERGED, depth
        assert net.fallbacks == 0


@pytest.mark.parametrize("coarse", OPERATORS)
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("relaxation", [0, 1], ids=["F", "FCF"])
@pytest.mark.parametrize("cycle", ["V", "F", "W"])
@pytest.mark.parametrize("name", ["dense tanh", "convolution tanh"])
def test_converged(name: str, cycle: Any, relaxation: int, levels: int, coarse: Any):
    """Fewer cycles than would end the iteration whatever the weights: it must contract."""
    cycles = 8 if relaxation else 11
    solver = lp.MGRIT(
        levels=levels,
        coarsening=2,
        relaxation=relaxation,
        cycle=cycle,
        coarse=coarse,
        forward_cycles=cycles,
        adjoint_cycles=cycles,
    )
    problem = BY_NAME[name]
    for depth in (36, 39):
        assert len(solver.factors(depth)) == levels - 1
        assert cycles < last_cycle(solver, depth)
        net = problem.network(depth)
        assert compare(net, problem.input(depth), solver).worst < CONVERGED
        assert net.fallbacks == 0
        assert net.solution is not None
        assert len(net.solution.residuals) == cycles


def test_too_few_cycles_are_not_exact():
    """The measure used above does see an error."""
    problem = BY_NAME["dense tanh"]
    solver = lp.MGRIT(coarsening=8, forward_cycles=1, adjoint_cycles=1)
    errors = compare(problem.network(32), problem.input(32), solver)
    assert errors.output > 1e-2
    assert errors.gradient > 1e-2


@pytest.mark.parametrize("coarse", ["inject", "mean_residual"])
def test_unlike_layers_have_no_mean_of_parameters(coarse: Any):
    problem = BY_NAME["unlike"]
    solver = lp.MGRIT(coarsening=4, coarse=coarse, forward_cycles=9, adjoint_cycles=9)
    assert compare(problem.network(24), problem.input(24), solver).worst < CONVERGED
    with pytest.raises(ValueError, match="mean_parameters"):
        compare(
            problem.network(24),
            problem.input(24),
            replace(solver, coarse="mean_parameters"),
        )


# ---- finite termination --------------------------------------------------------------------------


def independent(kind: str, depth: int) -> tuple[lp.Network, Tensor]:
    """Weights on which the iteration gains nothing before its last cycle: h = 1, large gain."""
    torch.manual_seed(1 if kind == "dense" else 0)
    layer = lp.Dense(6) if kind == "dense" else lp.Convolution(2)
    shape = (4, 6) if kind == "dense" else (2, 2, 4, 4)
    net = lp.Network(None, lp.chain(layer, depth, h=1.0, initial="independent"), None).double()
    with torch.no_grad():
        net.body.get_parameter("layer.weight").mul_(4 if kind == "dense" else 5)
    return net, torch.randn(shape, dtype=torch.float64)


def off(points: Tensor, exact: Tensor) -> float:
    return float((points - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("coarse", OPERATORS)
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("relaxation", [0, 1], ids=["F", "FCF"])
@pytest.mark.parametrize("cycle", ["V", "F", "W"])
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_finite_termination(kind: str, cycle: Any, relaxation: int, levels: int, coarse: Any):
    """Exact at cycle ceil(floor(N/m) / (nu + 1)), for any number of levels, and not before it."""
    depth = 35 if levels % 2 else 32
    net, x = independent(kind, depth)
    solver = lp.MGRIT(
        levels=levels,
        coarsening=(4, 2),
        relaxation=relaxation,
        cycle=cycle,
        coarse=coarse,
        start="constant",
        guard=False,
    )
    last = last_cycle(solver, depth)
    assert last == (4 if relaxation else 8)
    early = replace(solver, forward_cycles=last - 1)
    exact = replace(solver, forward_cycles=last, adjoint_cycles=last)
    with torch.no_grad():
        chain, u0 = bound(net, x)
        adjoint = chain.linearise()
        expected = c_points(chain, u0, 4)
        solved = exact.solve(chain, u0, None, adjoint)
        assert solved.points is not None
        assert off(solved.points[0], expected) < TERMINATED
        wrong = early.solve(chain, u0).points
        assert wrong is not None
        assert off(wrong[0], expected) > 1e-3

        outgoing = (torch.randn_like(u0[0]),)
        expected = c_points(adjoint, outgoing, 4)
        solved = exact.solve(adjoint, outgoing)
        assert solved.points is not None
        assert off(solved.points[0], expected) < TERMINATED
        wrong = early.solve(adjoint, outgoing).points
        assert wrong is not None
        assert off(wrong[0], expected) > 1e-3
    assert compare(net, x, exact).worst < TERMINATED


@pytest.mark.parametrize(
    "settings",
    [{"first_down": True}, {"first_down": True, "start": "nested"}, {"relaxation": 2}],
    ids=["coarse start", "nested start", "F(CF)^2"],
)
def test_finite_termination_from_other_starts(settings: dict):
    net, x = independent("dense", 35)
    solver = lp.MGRIT(
        **({"levels": 3, "coarsening": (4, 2), "start": "constant", "guard": False} | settings)
    )
    last = last_cycle(solver, 35)
    with torch.no_grad():
        chain, u0 = bound(net, x)
        expected = c_points(chain, u0, 4)
        found = [
            replace(solver, forward_cycles=cycles).solve(chain, u0).points for cycles in (last - 1, last)
        ]
    assert found[0] is not None
    assert found[1] is not None
    assert off(found[0][0], expected) > 1e-3
    assert off(found[1][0], expected) < TERMINATED


def test_first_sweep_without_a_down_part_counts_as_a_cycle():
    """By default the first cycle is the coarse start and a sweep: one correction fewer."""
    net, x = independent("dense", 32)
    with torch.no_grad():
        chain, u0 = bound(net, x)
        down = lp.MGRIT(coarsening=4, forward_cycles=3, first_down=True).solve(chain, u0)
        short = lp.MGRIT(coarsening=4, forward_cycles=4).solve(chain, u0)
    assert len(down.corrections) == len(short.corrections) == 3
    assert down.residuals == short.residuals
    assert torch.equal(down.end[0], short.end[0])


# ---- the linear scalar problem -------------------------------------------------------------------


@pytest.mark.parametrize("nu", [0, 1, 2])
@pytest.mark.parametrize("remainder", [0, 3])
@pytest.mark.parametrize("lam", [-1.5, 0.8])
def test_error_propagation_of_the_scalar_problem(nu: int, remainder: int, lam: float):
    """u' = lambda u: after k cycles the error at the C-points is E^k times the first guess's.

    E_ij = (phi^m - phi_c) phi_c^(i-j-1-nu) phi^(m nu) for i-j > nu, else 0; in both directions.
    """
    m, count, h = 4, 10, 0.1
    steps = m * count + remainder
    body = lp.chain(lp.Dense(1, "identity"), steps, h=h).double()
    with torch.no_grad():
        body.get_parameter("layer.weight").fill_(lam)
        body.get_parameter("layer.bias").zero_()
    phi, coarsely = 1 + h * lam, 1 + m * h * lam
    E = torch.zeros(count + 1, count + 1, dtype=torch.float64)
    for i in range(count + 1):
        for j in range(i - nu):
            E[i, j] = (phi**m - coarsely) * coarsely ** (i - j - 1 - nu) * phi ** (m * nu)
    torch.manual_seed(0)
    guess = torch.randn(count + 1, 1, 1, dtype=torch.float64)
    first = torch.ones(1, 1, 1, dtype=torch.float64)
    powers = torch.arange(count + 1, dtype=torch.float64)
    with torch.no_grad():
        chain = body.bind(body.tensors())
        adjoint = chain.linearise()
        lp.Serial().solve(chain, (first,), None, adjoint)
        for direction in (chain, adjoint):
            backward = direction is adjoint
            # an adjoint's trailing steps come first
            exact = phi ** (m * powers + (remainder if backward else 0))
            error = (guess.flip(0) if backward else guess).flatten() - exact
            error[0] = 0
            for cycle in range(1, 4):
                solver = lp.MGRIT(coarsening=m, relaxation=nu, forward_cycles=cycle, guard=False)
                points = solver.solve(direction, (first,), (guess,)).points
                assert points is not None
                found = points[0].flatten().flip(0) if backward else points[0].flatten()
                error = E @ error
                assert error.abs().max() > 1e-6  # there is something to compare
                torch.testing.assert_close(found - exact, error, rtol=0, atol=1e-10)


def test_convergence_factor_and_residuals_of_the_scalar_problem():
    """r = e_i - phi^m e_(i-1) at the C-points; the factor is its mean reduction."""
    m, count, h, lam = 4, 8, 0.1, -1.0
    body = lp.chain(lp.Dense(1, "identity"), m * count, h=h).double()
    with torch.no_grad():
        body.get_parameter("layer.weight").fill_(lam)
        body.get_parameter("layer.bias").zero_()
        chain = body.bind(body.tensors())
        first = torch.ones(1, 1, 1, dtype=torch.float64)
        solution = lp.MGRIT(coarsening=m, forward_cycles=4).solve(chain, (first,))
    phi, coarsely = 1 + h * lam, 1 + m * h * lam
    i = torch.arange(count + 1, dtype=torch.float64)
    error = coarsely**i - phi ** (m * i)  # of the coarse start
    residual = error[1:] - phi**m * error[:-1]
    assert solution.residuals[0] == pytest.approx(float(residual.norm()), rel=1e-12)
    factor = (solution.residuals[3] / solution.residuals[0]) ** (1 / 3)
    assert solution.convergence_factor == pytest.approx(factor)
    assert 0 < factor < 1
    scale = float((phi ** (m * i)).norm())
    assert solution.relative_residual == pytest.approx(solution.residuals[-1] / scale, rel=1e-3)


# ---- gradcheck -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense tanh", "convolution gelu", "verlet", "recurrence", "block"])
def test_gradcheck(name: str):
    """Finite differences of the whole network, in the input and every parameter."""
    problem = BY_NAME[name]
    net, x = problem.network(7), problem.input(7)
    net.solver = lp.MGRIT(coarsening=2, forward_cycles=4, adjoint_cycles=4)
    names = [n for n, _ in net.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in net.parameters()]

    def output(x: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(net, given, (x,))

    assert torch.autograd.gradcheck(output, (x.requires_grad_(), *values), fast_mode=True)


def test_gradcheck_of_every_entry():
    torch.manual_seed(0)
    net = lp.Network(None, lp.chain(lp.Dense(2), 6, T=1.0), None).double()
    net.solver = lp.MGRIT(levels=2, coarsening=3, forward_cycles=3, adjoint_cycles=3)
    weight, bias = (p.detach().clone().requires_grad_() for p in net.parameters())
    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)

    def output(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        given = {"body.layer.weight": weight, "body.layer.bias": bias}
        return torch.func.functional_call(net, given, (x,))

    assert torch.autograd.gradcheck(output, (x, weight, bias))


# ---- anything that fits together -----------------------------------------------------------------


@pytest.mark.slow
@given(
    depth=st.integers(4, 45),
    coarsening=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    levels=st.integers(2, 4),
    relaxation=st.lists(st.integers(0, 2), min_size=1, max_size=3),
    cycle=st.sampled_from(["V", "F", "W"]),
    coarse=st.sampled_from(OPERATORS),
    samples=st.one_of(st.none(), st.integers(1, 4)),
    start=st.sampled_from(["coarse", "nested", "constant"]),
    first_down=st.booleans(),
    memory=st.sampled_from(["store", "recompute"]),
    batch=st.integers(1, 4),
    kind=st.sampled_from(["dense", "convolution", "template"]),
)
def test_any_setting_terminates(
    depth: int,
    coarsening: list[int],
    levels: int,
    relaxation: list[int],
    cycle: Any,
    coarse: Any,
    samples: int | None,
    start: Any,
    first_down: bool,
    memory: Any,
    batch: int,
    kind: str,
):
    solver = lp.MGRIT(
        levels=levels,
        coarsening=tuple(coarsening),
        relaxation=tuple(relaxation),
        cycle=cycle,
        coarse=coarse,
        samples=samples,
        start=start,
        first_down=first_down,
        memory=memory,
        guard=False,
    )
    if coarsening[0] > depth:
        with pytest.raises(ValueError, match=f"coarsening {coarsening[0]}"):
            solver.check(depth)
        return
    while len(solver.factors(depth)) < solver.levels - 1:
        solver = replace(solver, levels=solver.levels - 1)
    torch.manual_seed(depth)
    layer, shape = {
        "dense": (lp.Dense(3), (batch, 3)),
        "convolution": (lp.Convolution(2), (batch, 2, 3, 3)),
        "template": (nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)), (batch, 3)),
    }[kind]
    net = lp.Network(None, lp.chain(layer, depth, T=2.0, initial="independent"), None).double()
    x = torch.randn(shape, dtype=torch.float64)
    cycles = last_cycle(solver, depth) + 1  # the coarse start may take the place of one
    exact = replace(solver, forward_cycles=cycles, adjoint_cycles=cycles)
    assert compare(net, x, exact).worst < TERMINATED


def test_c_points_by_single_steps_are_the_serial_states():
    """The reference of the tests above, against the plain module."""
    net, x = independent("dense", 9)
    with torch.no_grad():
        chain, u0 = bound(net, x)
        points = c_points(chain, u0, 3)
        u, expected = x, [x]
        twin = net.to_serial().body
        assert isinstance(twin, nn.ModuleList)
        for n, layer in enumerate(twin):
            u = u + layer(u)
            if (n + 1) % 3 == 0:
                expected.append(u)
        array = tuple(torch.empty(10, *u0[0].shape[1:], dtype=torch.float64) for _ in u0)
        chain.advance(u0, Intervals(0, 1, 9), into=array)
    torch.testing.assert_close(points.transpose(1, 2), torch.stack(expected))
    torch.testing.assert_close(array[0][3::3], points[1:])
