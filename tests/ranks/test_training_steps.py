"""Optimisers, clipping, penalties, masks and statistics of a distributed network are the network's."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from ranks.rank_cases import Case, by_layer, network
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.group import ALONE, Group
from layerparallel.training.comparison import error_of
from layerparallel.training.objective import Objective

SOLVER = lp.MGRIT(coarsening=2, relaxation=1, guard=False)
RANKS = [2, 3, 5]


def alike(ranks: list[dict[str, Tensor]], one: dict[str, Tensor], tolerance: float = 1e-11) -> None:
    """Every rank's tensors are those of the same names of one process, and all are met."""
    met = set()
    for found in ranks:
        for name, value in found.items():
            torch.testing.assert_close(value, one[name], rtol=tolerance, atol=tolerance)
            met.add(name)
    assert met == set(one)


def weights(net: lp.Network) -> dict[str, Tensor]:
    return by_layer(net, {name: p.detach().clone() for name, p in net.named_parameters()})


def stepped(
    group: Group, problem: str, kind: str, steps: int = 4
) -> tuple[dict[str, Tensor], list[float]]:
    """Some steps of training; the weights after them and the losses on the way."""
    net, x = network(Case(problem, 7, SOLVER))
    lp.distribute(net, group)
    net.train()
    target = torch.linspace(-1, 1, 10, dtype=torch.float64).view(5, 2)
    objective = Objective(nn.functional.mse_loss, tikhonov=0.1, smoothness=0.05, closing=0.2)
    if kind == "lbfgs":
        optimizer = lp.LBFGS(net.parameters(), total=net.group.total, uncounted=net.uncounted())
    elif kind == "depth groups":
        groups = lp.depth_groups(net)
        optimizer = lp.LBFGS(groups, total=net.group.total, uncounted=net.uncounted())
    elif kind == "sgd":
        optimizer = torch.optim.SGD(net.decay_groups(0.1), lr=0.1, momentum=0.9)
    else:
        optimizer = torch.optim.Adam(net.parameters(), lr=0.05, fused=True)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(net, net(x), target)
        loss.backward()
        if kind == "clipped":
            norms.append(float(net.clip_grad_norm_(0.1)))
        return loss

    losses: list[float] = []
    norms: list[float] = []
    for _ in range(steps):
        if isinstance(optimizer, lp.LBFGS):
            losses.append(optimizer.step(closure))
        else:
            losses.append(closure().item())
            optimizer.step()
    return weights(net), losses + norms


@pytest.mark.parametrize("kind", ["adam", "sgd", "clipped", "lbfgs", "depth groups"])
@pytest.mark.parametrize("problem", ["dense tanh", "tied", "unlike"])
def test_steps_of_an_optimiser(pool, problem, kind):
    one, numbers = stepped(ALONE, problem, kind)
    for ranks in RANKS:
        found = pool.run(ranks, stepped, problem, kind)
        alike([each[0] for each in found], one, 1e-9)
        for _, others in found:
            assert others == pytest.approx(numbers, rel=1e-10)


class Noisy(nn.Module):
    """A residual function with dropout and batch norm."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(width), nn.Linear(width, width)
        self.drop = nn.Dropout(0.3)

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(self.linear(self.drop(self.norm(u))))


def noisy(group: Group, kind: str, layers: list | None) -> tuple:
    """Two training forwards with masks and statistics, and an evaluation."""
    torch.manual_seed(3)
    body = {
        "stacked": lambda: lp.chain(Noisy(), 7, T=1.0, initial="independent"),
        "tied": lambda: lp.chain(Noisy(), 7, T=1.0, tied=True),
        "unlike": lambda: lp.chain([Noisy() for _ in range(7)], T=1.0),
    }[kind]()
    net = lp.Network(nn.Linear(3, 4), body, nn.Linear(4, 2), SOLVER).double()
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).view(8, 3).sin()
    lp.distribute(net, group, layers=layers)
    net.train()
    torch.manual_seed(11 + group.rank)  # masks are the first rank's, whatever the others draw
    outputs = []
    for _ in range(2):
        y = net(x)
        y.square().sum().backward()
        outputs.append(y.detach())
    gradients = by_layer(net, {name: p.grad for name, p in net.named_parameters()})
    net.eval()
    with torch.no_grad():
        outputs.append(net(x))
        with net.solved_by(SOLVER):
            outputs.append(net(x))
    return outputs, gradients, {k: v for k, v in net.state_dict().items() if "running" in k}


@pytest.mark.parametrize("kind", ["stacked", "tied", "unlike"])
@pytest.mark.parametrize("layers", [None, [3, 1, 3]])
def test_masks_and_statistics(pool, kind, layers):
    outputs, gradients, statistics = noisy(ALONE, kind, None)
    found = pool.run(3, noisy, kind, None if layers is None else [layers])
    for rank in found:
        for mine, theirs in zip(rank[0], outputs, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
    alike([rank[1] for rank in found], gradients)
    alike([rank[2] for rank in found], statistics)


def compared(group: Group) -> tuple[float, float]:
    net, x = network(Case("dense tanh", 9, lp.MGRIT(coarsening=3, forward_cycles=1, adjoint_cycles=1)))
    lp.distribute(net, group)
    return error_of(net, net.solver, lambda: net(x).square().sum())


def test_the_error_of_a_gradient_is_that_of_all_ranks(pool):
    one = compared(ALONE)
    assert one[0] > 1e-6
    for found in pool.run(3, compared):
        assert found == pytest.approx(one, rel=1e-9)


def warm(group: Group) -> list[float]:
    net, x = network(Case("dense tanh", 9, lp.MGRIT(coarsening=3, warm_start=True, guard=False)))
    lp.distribute(net, group)
    net.train()
    first = []
    for _ in range(3):
        net(x).square().sum().backward()
        assert net.solution is not None
        assert net.adjoint_solution is not None
        first += [net.solution.residuals[0], net.adjoint_solution.residuals[0]]
    return first


def test_warm_starts(pool):
    one = warm(ALONE)
    assert one[4] < one[0] / 10
    for found in pool.run(3, warm):
        assert found == pytest.approx(one, rel=1e-6, abs=1e-13)


def last_alone(group: Group) -> tuple[bool, dict[str, Tensor]]:
    net, x = network(Case("dense tanh", 9, SOLVER))
    lp.distribute(net, group, output="last")
    y = net(x)
    assert y.requires_grad
    (y.square().sum() if group.last else y).backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    return y.dim() == 2, by_layer(net, gradients)


def test_the_output_on_the_last_rank_alone(pool):
    _, one = last_alone(ALONE)
    found = pool.run(3, last_alone)
    assert [whole for whole, _ in found] == [False, False, True]
    alike([gradients for _, gradients in found], one)


def copied(group: Group) -> tuple[float, float]:
    net, x = network(Case("unlike", 5, SOLVER))
    lp.distribute(net, group)
    twin = copy.deepcopy(net)
    for p in twin.parameters():
        p.data.mul_(0.5)
    again = pickle.loads(pickle.dumps(net.state_dict()))
    twin.load_state_dict(again)
    with torch.no_grad():
        return float(net(x).square().sum()), float(twin(x).square().sum())


def test_copies(pool):
    for mine, theirs in pool.run(3, copied):
        assert mine == theirs


def loaded(group: Group, whole: dict[str, Tensor]) -> Tensor:
    net, x = network(Case("dense tanh", 9, SOLVER, seed=5))
    lp.distribute(net, group)
    assert all(name in whole for name in net.state_dict())
    net.load_state_dict(whole)
    with torch.no_grad():
        return net(x)


def test_the_state_of_a_whole_network_is_loaded_by_every_rank(pool):
    trained, _ = network(Case("dense tanh", 9, SOLVER, seed=1))
    serial = trained.to_serial()
    expected = serial(network(Case("dense tanh", 9, SOLVER, seed=5))[1])
    for found in pool.run(5, loaded, trained.state_dict()):
        torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
