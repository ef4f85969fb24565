"""torch.compile of a step: the batched step is compiled, and nothing else changes."""

import shutil
from typing import cast

import pytest
import torch
from problems import compare
from torch import nn

import layerparallel as lp


@pytest.fixture(autouse=True)
def _nothing_compiled():
    """Code that was compiled for too many networks is left alone by torch.compile."""
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on a CPU")
def test_a_compiled_step_gives_the_gradients_of_the_plain_one():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    net = lp.Network(nn.Linear(3, 4), lp.chain(torch.compile(layer), 12, T=1.0), None).double()
    assert "body.11.0.weight" in net.state_dict()
    solver = lp.MGRIT(coarsening=4, forward_cycles=4, adjoint_cycles=4)
    assert compare(net, torch.randn(5, 3, dtype=torch.float64), solver).worst < 1e-10


def networks(kind: str) -> lp.Network:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh()) for _ in range(4)]
    plain = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    bodies = {
        "dense": lambda: lp.chain(lp.Dense(4), 8),
        "template": lambda: lp.chain(plain, 8),
        "unlike": lambda: lp.chain(layers),
        "tied": lambda: lp.chain(plain, 8, tied=True),
        "function": lambda: lp.chain(lambda u, t, dt: u + dt * torch.tanh(u), 8),
        "several": lambda: [lp.chain(plain, 4), nn.Linear(4, 4), lp.chain(layers)],
        "compiled too": lambda: lp.chain(torch.compile(plain, backend="aot_eager"), 8),
    }
    solver = lp.MGRIT(coarsening=2, forward_cycles=1, adjoint_cycles=1)
    return lp.Network(nn.Linear(3, 4), bodies[kind](), nn.Linear(4, 2), solver).double()


def two_steps(model: nn.Module, net: lp.Network, x: torch.Tensor) -> list[torch.Tensor]:
    """Values, and what they make of the weights."""
    optimiser, found = torch.optim.SGD(net.parameters(), lr=0.1), []
    for _ in range(2):
        optimiser.zero_grad()
        value = model(x)
        value.square().sum().backward()
        optimiser.step()
        found.append(value.detach())
    with torch.no_grad():
        found.append(model.eval()(x))
    return [*found, *(p.detach() for p in net.parameters())]


def compiled(model: nn.Module, backend: str) -> nn.Module:
    return cast(nn.Module, torch.compile(model, backend=backend))


def compiled_is_plain(kind: str, backend: str) -> None:
    x = torch.randn(5, 3, dtype=torch.float64)
    net, other = networks(kind), networks(kind)
    expected = two_steps(net, net, x)
    found = two_steps(compiled(other, backend), other, x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "kind", ["dense", "template", "unlike", "tied", "function", "several", "compiled too"]
)
def test_a_compiled_network_is_the_plain_one(kind):
    compiled_is_plain(kind, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on a CPU")
@pytest.mark.parametrize("kind", ["template", "several"])
def test_so_is_one_compiled_by_inductor(kind):
    compiled_is_plain(kind, "inductor")


def test_a_model_around_a_network_is_compiled():
    x = torch.randn(5, 3, dtype=torch.float64)
    net, other = networks("template"), networks("template")
    expected = two_steps(nn.Sequential(net, nn.Tanh()), net, x)
    model = compiled(nn.Sequential(other, nn.Tanh()), "aot_eager")
    for a, b in zip(two_steps(model, other, x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_without_a_graph_break_the_reason_is_told():
    model = torch.compile(networks("template"), backend="aot_eager", fullgraph=True)
    with pytest.raises(RuntimeError, match=r"a chain is propagated by a solver; compile its layer"):
        model(torch.randn(5, 3, dtype=torch.float64))
