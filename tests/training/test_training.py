"""Simultaneous training and the adaptive mode, on small networks in float64."""

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import layerparallel as lp
from layerparallel.network.propagate import Solver
from layerparallel.training.adaptive import Adaptive, Decision
from layerparallel.training.backprop import Backprop
from layerparallel.training.groups import depth_groups
from layerparallel.training.objective import Objective
from layerparallel.training.one_shot import OneShot
from layerparallel.training.optim import LBFGS

WARM = lp.MGRIT(levels=2, coarsening=4, forward_cycles=1, adjoint_cycles=1, warm_start=True)


def network(
    solver: Solver = WARM, depth: int = 16, T: float = 2.0, initial: Any = "smooth", seed: int = 0
) -> lp.Network:
    torch.manual_seed(seed)
    body = lp.chain(lp.Dense(4), depth=depth, T=T, initial=initial)
    return lp.Network(nn.Linear(2, 4), body, nn.Linear(4, 3), solver=solver).double()


def batch(seed: int = 0, size: int = 40) -> tuple[Tensor, Tensor]:
    """Points of the plane, classed by their distance from the origin."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 2, generator=generator, dtype=torch.float64)
    return x, torch.bucketize(x.norm(dim=1), torch.tensor([0.8, 1.5], dtype=torch.float64))


def exact_loss(net: lp.Network, x: Tensor, y: Tensor) -> float:
    with torch.no_grad(), net.solved_by(lp.Serial()):
        return F.cross_entropy(net(x), y).item()


def searched(method: OneShot):
    assert isinstance(method.optimizer, LBFGS)
    assert method.optimizer.search is not None
    return method.optimizer.search


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


OPTIMIZERS: dict[str, Callable[[lp.Network], torch.optim.Optimizer]] = {
    "adam": lambda net: torch.optim.Adam(net.parameters(), lr=0.03),
    "sgd": lambda net: torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9),
    "lbfgs": lambda net: LBFGS(depth_groups(net), reuse_gradient=True),
    "lbfgs, no reuse": lambda net: LBFGS(net.parameters()),
    "identity": lambda net: LBFGS(net.parameters(), lr=4.0, hessian="identity"),
}


# ---- simultaneous -------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_one_shot_lowers_the_exact_loss(optimizer):
    net, (x, y) = network(), batch()
    objective = Objective(F.cross_entropy, tikhonov=1e-2, closing=1e-2)
    method = OneShot(net, optimizer(net), objective)

    def objective_serially() -> float:
        with torch.no_grad(), net.solved_by(lp.Serial()):
            return objective(net, net(x), y).item()

    before = objective_serially()
    for _ in range(60):
        record = method.step(x, y)
    after = objective_serially()
    assert after < 0.7 * before
    # states and parameters have converged together: one cycle's loss is the exact one
    assert method.step(x, y).loss.item() == pytest.approx(after, rel=1e-2)
    assert net.fallbacks == 0
    assert record.forward_error is not None
    assert record.adjoint_error is not None


def test_states_converge_while_parameters_stay():
    """With the parameters fixed, a cycle a step is the multigrid iteration itself."""
    net, (x, y) = network(initial="independent"), batch()
    method = OneShot(net, torch.optim.SGD(net.parameters(), lr=0.0), F.cross_entropy)
    losses, residuals = [], []
    for _ in range(5):
        record = method.step(x, y)
        losses.append(record.loss.item())
        residuals.append(record.forward_error or 0.0)
    exact = exact_loss(net, x, y)
    assert residuals[0] > 1e-4
    assert all(later < 0.5 * earlier for earlier, later in pairwise(residuals))
    assert abs(losses[-1] - exact) < 1e-12  # depth 16 in intervals of 4 ends at the 4th cycle


@pytest.mark.parametrize("name", ["lbfgs", "lbfgs, no reuse"])
def test_trials_start_from_the_states_of_the_accepted_iterate(name):
    """Every trial's value is what one cycle from there gives, whatever trials went before."""
    net, (x, y) = network(initial="independent"), batch()
    seen: list[tuple[list[Tensor], float]] = []

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        loss = F.cross_entropy(output, target)
        seen.append(([p.detach().clone() for p in net.parameters()], loss.item()))
        return loss

    method = OneShot(net, OPTIMIZERS[name](net), criterion)
    for _ in range(3):
        method.step(x, y)
    method.optimizer.param_groups[0]["lr"] = 64.0  # far too long: several trials are refused
    seen.clear()
    start = net.guesses()
    method.step(x, y)
    search = searched(method)
    assert search.trials > 3
    trials, ended = list(seen[-search.trials :]), net.guesses()
    if len(seen) > search.trials:  # the gradient was taken anew, and took the states further
        net.restore_guesses(start)
        _set(net, seen[0][0])
        F.cross_entropy(net(x), y).backward()
        start = net.guesses()
    for parameters, value in trials:
        net.restore_guesses(start)
        _set(net, parameters)
        assert F.cross_entropy(net(x), y).item() == value
    final = net.guesses()[None][0].forward
    kept = ended[None][0].forward
    assert final is not None
    assert kept is not None
    assert all(torch.equal(a, b) for a, b in zip(final, kept, strict=True))


def _set(net: nn.Module, values: list[Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(net.parameters(), values, strict=True):
            p.copy_(value)


def test_failed_search_goes_back_to_the_accepted_states():
    net, (x, y) = network(), batch()
    optimizer = LBFGS(net.parameters(), reuse_gradient=True, max_trials=1)
    method = OneShot(net, optimizer, F.cross_entropy)
    method.step(x, y)
    before, start = flat(net), net.guesses()[None][0].forward
    optimizer.param_groups[0]["lr"] = 1e4
    method.step(x, y)
    after = net.guesses()[None][0].forward
    assert not searched(method).accepted
    assert torch.equal(flat(net), before)
    assert start is not None
    assert after is not None
    assert all(a is b for a, b in zip(start, after, strict=True))


def test_line_search_allows_for_the_error_of_the_states():
    net, (x, y) = network(initial="independent"), batch()
    method = OneShot(net, OPTIMIZERS["lbfgs"](net), F.cross_entropy)
    assert method.state_error() == 0.0
    method.step(x, y)
    net.forget_guesses()
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    estimate = method.state_error()
    error = abs(loss.item() - exact_loss(net, x, y))
    assert 1e-8 < error < 2 * estimate
    assert estimate < 100 * error
    assert searched(method).error > 0.01 * estimate
    net.solver = lp.Serial()
    F.cross_entropy(net(x), y).backward()
    assert method.state_error() == 0.0


def test_own_objective_error_is_kept():
    net = network()
    optimizer = LBFGS(net.parameters(), objective_error=0.125)
    OneShot(net, optimizer, F.cross_entropy)
    assert optimizer.objective_error == 0.125


def test_record_is_of_the_iterate_before_the_step():
    net, (x, y) = network(lp.Serial()), batch()
    for name, make in OPTIMIZERS.items():
        method = OneShot(net, make(net), F.cross_entropy)
        for _ in range(3):
            with torch.no_grad():
                output = net(x)
            record = method.step(x, y)
            assert record.loss.item() == pytest.approx(F.cross_entropy(output, y).item()), name
            assert record.correct.item() == (output.argmax(1) == y).sum().item(), name


def test_another_batch_is_noticed():
    net, (x, y), (u, v) = network(lp.Serial()), batch(0), batch(1)
    method = OneShot(net, OPTIMIZERS["lbfgs"](net), F.cross_entropy)
    for inputs, targets in ((x, y), (u, v), (u, v), (x, y)):
        expected = exact_loss(net, inputs, targets)
        assert method.step(inputs, targets).loss.item() == pytest.approx(expected, rel=1e-12)
    u.neg_()
    method.step(u, v)
    u.neg_()  # the same tensor with other values
    expected = exact_loss(net, u, v)
    assert method.step(u, v).loss.item() == pytest.approx(expected, rel=1e-12)


def test_each_key_has_its_own_states():
    net = network()
    method = OneShot(net, OPTIMIZERS["adam"](net), F.cross_entropy)
    batches = {"a": batch(0), "b": batch(1, size=24)}
    residuals = {key: [] for key in batches}
    for _ in range(6):
        for key, (x, y) in batches.items():
            residuals[key].append(method.step(x, y, key=key).forward_error)
    assert set(net.guesses()) == {"a", "b"}
    for found in residuals.values():
        assert found[-1] < 0.5 * found[0]


def test_objective_is_what_is_minimised():
    (x, y), objective = batch(), Objective(F.cross_entropy, tikhonov=10.0)
    net = network(lp.Serial())
    method = OneShot(net, OPTIMIZERS["lbfgs"](net), objective)
    with torch.no_grad():
        expected = objective(net, net(x), y).item()
    before = flat(net.body).norm()
    assert method.step(x, y).loss.item() == pytest.approx(expected, rel=1e-12)
    for _ in range(40):
        method.step(x, y)
    assert flat(net.body).norm() < 1e-2 * before


@pytest.mark.parametrize("solver", [lp.Serial(), WARM], ids=["serial", "warm"])
@pytest.mark.parametrize("name", ["adam", "lbfgs", "lbfgs, no reuse"])
def test_one_shot_resumes_bitwise(name, solver, tmp_path):
    x, y = batch()
    net = network(solver)
    method = OneShot(net, OPTIMIZERS[name](net), F.cross_entropy)
    for _ in range(4):
        method.step(x, y, key="all")
    torch.save(method.state_dict(), tmp_path / "state.pt")
    other = network(solver, seed=1)
    resumed = OneShot(other, OPTIMIZERS[name](other), F.cross_entropy)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(4):
        one, two = method.step(x, y, key="all"), resumed.step(x, y, key="all")
        assert one == two
    assert torch.equal(flat(net), flat(other))


# ---- adaptive -----------------------------------------------------------------------------------


def slow(forward: int = 1, adjoint: int = 1, **options) -> lp.MGRIT:
    return lp.MGRIT(levels=2, coarsening=4, forward_cycles=forward, adjoint_cycles=adjoint, **options)


def adaptive(solver=None, target: float = 1e-2, T: float = 4.0, **options) -> Adaptive:
    net = network(solver if solver is not None else slow(), depth=32, T=T, initial="independent")
    method = Backprop(net, torch.optim.SGD(net.parameters(), lr=1e-3), F.cross_entropy)
    return Adaptive(method, F.cross_entropy, target=target, **options)


def cycles(decision: Decision) -> tuple[int | None, int | None]:
    return decision.forward_cycles, decision.adjoint_cycles


def test_measured_error_is_that_of_the_gradient():
    mode, (x, y) = adaptive(), batch()
    decision = mode.compare(x, y)
    gradients = []
    for solver in (lp.Serial(), slow()):
        mode.network.zero_grad()
        with mode.network.solved_by(solver):
            F.cross_entropy(mode.network(x), y).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in mode.network.parameters()]))  # pyright: ignore[reportOptionalMemberAccess]
    exact, inexact = gradients
    error = ((inexact - exact).norm() / exact.norm()).item()
    assert error > 1e-3
    assert decision.relative_error == pytest.approx(error, rel=1e-9)
    assert decision.cosine == pytest.approx(F.cosine_similarity(exact, inexact, dim=0).item())


def test_cycles_rise_until_the_error_is_below_the_target():
    mode, (x, y) = adaptive(target=1e-6, every=2, lower_factor=0.0), batch()
    for _ in range(16):
        mode.step(x, y)
    assert [d.step for d in mode.decisions] == list(range(0, 16, 2))
    rising = [d for d in mode.decisions if d.action == "raise"]
    assert len(rising) >= 2
    assert [cycles(d) for d in rising] == [(k, k) for k in range(2, len(rising) + 2)]
    assert mode.decisions[-1].action == "keep"
    assert mode.decisions[-1].relative_error <= 1e-6
    solver = mode.network.solver
    assert isinstance(solver, lp.MGRIT)
    assert solver.forward_cycles == solver.adjoint_cycles == len(rising) + 1
    assert mode.serial_switches == 0


def test_cycles_fall_where_they_are_not_needed_but_not_below_the_minimum():
    mode, (x, y) = adaptive(slow(6, 5), target=10.0, minimum=2), batch()
    actions = [mode.compare(x, y) for _ in range(5)]
    assert [d.action for d in actions] == ["lower"] * 4 + ["keep"]
    assert [cycles(d) for d in actions] == [(5, 4), (4, 3), (3, 2), (2, 2), (2, 2)]


def test_between_the_bounds_nothing_changes():
    mode, (x, y) = adaptive(slow(2, 2)), batch()
    error = mode.compare(x, y).relative_error
    mode.network.solver = mode._parallel = slow(2, 2)
    mode.target, mode.lower_factor = 2 * error, 0.25
    assert mode.compare(x, y).action == "keep"


def test_serial_where_the_maximum_does_not_suffice_and_back():
    mode, (x, y) = adaptive(target=1e-9, maximum=2), batch()
    assert [mode.compare(x, y).action for _ in range(3)] == ["raise", "serial", "keep"]
    assert mode.network.solver == lp.Serial()
    assert mode.serial_switches == 1
    assert cycles(mode.decisions[-1]) == (None, None)
    assert mode.decisions[-1].relative_error > 1e-9  # of the parallel gradient, not of the serial
    mode.target = 10.0
    decision = mode.compare(x, y)
    assert decision.action == "return"
    assert cycles(decision) == (2, 2)
    assert mode.network.solver == slow(2, 2)


def test_a_solve_that_falls_back_counts_as_wrong():
    """Its gradient is exact, because it was serial: the cycles are too few all the same."""
    mode, (x, y) = adaptive(T=400.0), batch()
    with pytest.warns(RuntimeWarning, match="serially"):
        decision = mode.compare(x, y)
    assert decision.relative_error == math.inf
    assert decision.action == "raise"
    assert mode.network.fallbacks == 0  # the comparison is apart from training


def test_comparisons_leave_training_as_it_is():
    (x, y), mode = batch(), adaptive(target=10.0, lower_factor=0.0, every=1)
    mode.network.opening = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.2)).double()
    plain = copy.deepcopy(mode.network)
    mode.method = Backprop(
        mode.network, torch.optim.SGD(mode.network.parameters(), lr=0.1), F.cross_entropy
    )
    method = Backprop(plain, torch.optim.SGD(plain.parameters(), lr=0.1), F.cross_entropy)
    for train in (mode, method):
        torch.manual_seed(7)
        for _ in range(4):
            train.step(x, y)
    assert len(mode.decisions) == 4
    assert 0 < mode.decisions[0].relative_error < 1  # both gradients had the same dropout mask
    assert torch.equal(flat(mode.network), flat(plain))
    for one, two in zip(mode.network.buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, two)


def test_adaptive_over_one_shot_keeps_the_warm_start():
    """Comparisons start from the states of training and put them back."""
    (x, y), net = batch(), network()
    method = OneShot(net, OPTIMIZERS["lbfgs"](net), F.cross_entropy)
    mode = Adaptive(method, method.objective, every=4, target=0.5, lower_factor=0.0)
    plain = network()
    other = OneShot(plain, OPTIMIZERS["lbfgs"](plain), F.cross_entropy)
    for _ in range(9):
        mode.step(x, y, key=1)
        other.step(x, y, key=1)
    assert [d.action for d in mode.decisions] == ["keep"] * 3
    assert mode.decisions[-1].relative_error < mode.decisions[0].relative_error
    assert torch.equal(flat(net), flat(plain))


def test_split_solvers_are_adapted_in_both_parts():
    split = lp.Split(forward=slow(1), adjoint=slow(1))
    mode, (x, y) = adaptive(split, target=1e-9), batch()
    assert cycles(mode.compare(x, y)) == (2, 2)
    half = lp.Split(forward=lp.Serial(), adjoint=slow(1))
    mode = adaptive(half, target=1e-9)
    assert cycles(mode.compare(x, y)) == (None, 2)


@pytest.mark.parametrize("target", [1e-6, 1e-14])
def test_adaptive_resumes_where_it_was(target):
    x, y = batch()
    mode = adaptive(target=target, every=2, maximum=3)
    for _ in range(7):
        mode.step(x, y)
    state = copy.deepcopy(mode.state_dict())
    other = adaptive(target=target, every=2, maximum=3)
    other.load_state_dict(state)
    assert other.network.solver == mode.network.solver
    assert other.decisions == mode.decisions
    for _ in range(4):
        mode.step(x, y)
        other.step(x, y)
    assert other.decisions == mode.decisions
    assert other.serial_switches == mode.serial_switches
    assert torch.equal(flat(mode.network), flat(other.network))


def test_every_decision_is_reported():
    told: list[Decision] = []
    mode, (x, y) = adaptive(every=3, on_decision=told.append), batch()
    for _ in range(7):
        mode.step(x, y)
    assert len(told) == 3
    assert told == mode.decisions


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"every": 0}, "every = 0"),
        ({"target": 0.0}, "target = 0.0"),
        ({"lower_factor": 1.0}, "lower_factor = 1.0"),
        ({"minimum": 0}, "minimum = 0"),
        ({"minimum": 3, "maximum": 2}, "maximum = 2"),
        ({"solver": lp.Serial()}, "MGRIT"),
    ],
)
def test_adaptive_refuses_what_it_cannot_use(options, text):
    with pytest.raises(ValueError, match=text):
        adaptive(**options)
