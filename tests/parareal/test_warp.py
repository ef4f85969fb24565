"""The K-warp operator is the first-order Taylor expansion of K residual units."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from problems import BY_NAME, Block, pull_back
from torch import Tensor, nn
from torch.func import jvp

import layerparallel as lp
from layerparallel.errors import InputError
from layerparallel.models import preactivation_resnet, resnet
from layerparallel.parareal import warp
from layerparallel.parareal.warp import warped

Residual = Callable[[Tensor], Tensor]


def written_out(residuals: Sequence[Residual], u: Tensor) -> Tensor:
    """u + sum F_i(u) + sum_i F_i'(u) (sum_{j<i} F_j(u)), term by term."""
    found = u + sum(F(u) for F in residuals)
    for i, F in enumerate(residuals):
        for G in residuals[:i]:
            found = found + jvp(F, (u,), (G(u),))[1]
    return found


def units(kind: str, count: int) -> tuple[nn.ModuleList, Tensor]:
    torch.manual_seed(0)
    if kind == "dense":
        layers = [nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)) for _ in range(count)]
        return nn.ModuleList(layers).double(), torch.randn(6, 4, dtype=torch.float64)
    layers = [
        nn.Sequential(
            nn.BatchNorm2d(3, track_running_stats=False),
            nn.ReLU(),
            nn.Conv2d(3, 4, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(4, 3, 1),
        )
        for _ in range(count)
    ]
    return nn.ModuleList(layers).double(), torch.randn(5, 3, 4, 4, dtype=torch.float64)


@pytest.mark.parametrize("K", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["dense", "batch norm"])
def test_the_operator_is_the_formula(kind, K):
    layers, x = units(kind, K)
    twin = copy.deepcopy(layers)
    found = pull_back(lambda u: warped(list(layers), u), x)  # type: ignore[arg-type]
    expected = pull_back(lambda u: written_out(list(twin), u), x)  # type: ignore[arg-type]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    for (name, p), q in zip(layers.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-10, msg=name)


def test_it_is_of_second_order():
    """Halved residuals: the error falls by 8, that of leaving the products out by 4."""
    layers, x = units("dense", 3)
    errors = []
    for h in (0.02, 0.01):
        exact = x
        scaled = [lambda u, F=F, h=h: h * F(u) for F in layers]
        for F in scaled:
            exact = exact + F(exact)
        errors.append(float((warped(scaled, x) - exact).detach().abs().max()))
    assert 7 < errors[0] / errors[1] < 9


@pytest.mark.parametrize("name", ["dense tanh", "block", "timed rk4", "unlike", "convolution tanh"])
@pytest.mark.parametrize("K", [1, 2, 3])
def test_chains_are_taken_k_at_a_time(name, K):
    problem = BY_NAME[name]
    net, x = problem.network(5, "independent"), problem.input(5)
    made, serial = warp(net, K), net.to_serial()
    assert list(made.state_dict()) == list(serial.state_dict())
    single = [serial.opening, *(lp.staged.Staged(serial, 1).pieces[1:-1]), serial.closing]
    steps = single[1:-1]

    def expected(x: Tensor) -> Tensor:
        u = single[0](x)
        for start in range(0, 5, K):
            u = written_out([lambda v, s=s: s(v) - v for s in steps[start : start + K]], u)
        return single[-1](u)

    found = pull_back(made, x)
    wanted = pull_back(expected, x) if K > 1 else pull_back(serial, x)  # type: ignore[arg-type]
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
    for (where, p), q in zip(made.named_parameters(), serial.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-10, msg=where)


@pytest.mark.parametrize(
    "make", [lambda: preactivation_resnet(29, width=4), lambda: resnet(20, width=2)]
)
def test_a_resnet_trains(make):
    torch.manual_seed(0)
    net = warp(make(), 2)
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(int(b) == 25 for name, b in net.named_buffers() if name.endswith("num_batches_tracked"))


def test_one_at_a_time_is_the_network():
    torch.manual_seed(0)
    net, x = preactivation_resnet(29, width=4).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(warp(net, 1)(x), net.to_serial()(x))


def test_wrong_input():
    net = nn.Sequential(nn.Linear(3, 4), Block(), Block())
    with pytest.raises(
        InputError, match="K = 0 residual units cannot be taken at a time; use 1 or more"
    ):
        warp(net, 0)
    with pytest.raises(InputError, match="has 0 chains of residual units"):
        warp(net, 2)
