"""Networks in native loops, by every solver, beside the same without."""

import copy

import pytest
import torch
from loops import Calls
from torch import nn

import layerparallel as lp
from layerparallel.chains.coarse import CoarseOperator
from layerparallel.chains.native.chain import NativeChain

SOLVERS = {
    "serial": lp.Serial(),
    "recomputed": lp.Serial(memory="recompute"),
    "two levels": lp.MGRIT(levels=2, coarsening=4),
    "picard": lp.MGRIT(levels=3, coarsening=3, relaxation=1, coarse="picard", samples=2, smallest=1),
    "mean residual": lp.MGRIT(coarsening=4, coarse="mean_residual", relaxation=1, memory="recompute"),
    "mean parameters": lp.MGRIT(coarsening=4, coarse="mean_parameters", cycle="F", levels=2),
    "split": lp.Split(forward=lp.Serial(), adjoint=lp.MGRIT(coarsening=5, adjoint_cycles=1)),
}


class Timed(nn.Module):
    """Has the time, a buffer, and a parameter that no step uses."""

    def __init__(self):
        super().__init__()
        self.linear, self.unused = nn.Linear(6, 6), nn.Linear(1, 2)
        self.register_buffer("mask", torch.linspace(0.5, 1.0, 6))

    def forward(self, u, t):
        return torch.tanh(self.linear(u * self.mask) + t)


def layer():
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh())


def gru():
    return Calls(lambda h, x, cell: cell(x, h) - h, nn.GRUCell(3, 6))


def hamiltonian():
    call = lambda u, a, b: (torch.tanh(a(u[1])), -torch.tanh(b(u[0])))  # noqa: E731
    return Calls(call, nn.Linear(3, 3), nn.Linear(3, 3))


def driven(x):
    """An input of its own for every step, not contiguous."""
    return lp.Driven(
        x[:, :6], torch.sin(x[:, None, :3] * torch.arange(1, 24)[None, :, None]).transpose(0, 1)
    )


CHAINS = {
    "stacked": lambda: lp.chain(layer(), 23, T=2.0),
    "dense": lambda: lp.chain(lp.Dense(6), 23, T=2.0),
    "timed": lambda: lp.chain(Timed(), 23, T=2.0),
    "tied": lambda: lp.chain(Timed(), 23, T=2.0, tied=True),
    "rk4": lambda: lp.chain(Timed(), 23, T=2.0, tied=True, integrator="rk4"),
    "blocks": lambda: lp.chain(nn.Sequential(layer(), nn.LayerNorm(6)), 23, integrator="block"),
    "verlet": lambda: lp.chain(hamiltonian(), 23, T=2.0, integrator="verlet"),
    "gru": lambda: lp.chain(gru(), 23, tied=True),
    "function": lambda: lp.chain(lambda u, t, dt: u + dt * torch.sin(u + t), 23, T=1.0),
}
ENDS = {
    "verlet": (lambda x: (x[:, :3], x[:, 3:]), lambda u: u[0] - u[1] ** 2),
    "gru": (driven, None),
}


def network(name):
    torch.manual_seed(0)
    return lp.Network(
        ENDS.get(name, (None,))[0], CHAINS[name](), ENDS.get(name, (None, None))[1]
    ).double()


def solved(net, x):
    x = x.clone().requires_grad_()
    y = net(x)
    y.cos().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in net.parameters())]


def fits(name, solver):
    picard = name not in ("rk4", "verlet", "function")
    return picard or getattr(solver, "coarse", None) != "picard"


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("name", CHAINS)
def test_every_solver_computes_the_same_in_native_loops(name, solver, monkeypatch):
    if not fits(name, solver):
        return
    net, x = network(name), torch.randn(9, 6, dtype=torch.float64)
    net.solver = solver
    plain = copy.deepcopy(net)
    ours = solved(net, x)
    assert net.body.loops.why is None
    monkeypatch.setenv("LAYERPARALLEL_NATIVE", "0")
    theirs = solved(plain, x)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_coarse_levels_are_native():
    net = network("stacked")
    chain = net.body.bind(net.body.tensors())
    found = net.body.fastest(chain, (torch.zeros(3, 6, dtype=torch.float64),))
    assert isinstance(found, NativeChain)
    for operator in ("inject", "mean_parameters", "mean_residual", "picard"):
        assert isinstance(found.coarsen(4, CoarseOperator(operator, 2)), NativeChain)


@pytest.mark.parametrize("batch", [1, 2, 7, 40])
def test_any_batch_goes_through_one_network(batch, monkeypatch):
    net = network("stacked")
    x = torch.randn(batch, 6, dtype=torch.float64)
    ours = solved(net, x)
    monkeypatch.setenv("LAYERPARALLEL_NATIVE", "0")
    net.zero_grad(set_to_none=True)
    for a, b in zip(ours, solved(net, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_a_graph_can_be_gone_through_twice():
    net, x = network("stacked"), torch.randn(4, 6, dtype=torch.float64)
    loss = net(x).cos().sum()
    loss.backward(retain_graph=True)
    once = [torch.clone(p.grad) for p in net.parameters() if p.grad is not None]
    loss.backward()
    for p, g in zip(net.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 2 * g)


def test_training_takes_the_same_way(monkeypatch):
    """Twenty steps of Adam, as without loops to rounding."""
    x, y = torch.randn(30, 6, dtype=torch.float64), torch.randn(30, 6, dtype=torch.float64)

    def trained():
        net = network("stacked")
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(20):
            optimiser.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            optimiser.step()
        return [p.detach() for p in net.parameters()]

    ours = trained()
    monkeypatch.setenv("LAYERPARALLEL_NATIVE", "0")
    for a, b in zip(ours, trained(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
