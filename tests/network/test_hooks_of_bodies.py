"""Hooks of what no solver calls are refused; those of all other modules are called."""

import pytest
import torch
from torch import nn

import layerparallel as lp

X = torch.linspace(-1, 1, 15).view(5, 3)
REGISTER = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
)


def network() -> lp.Network:
    unlike = lp.chain([nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh())])
    return lp.Network(nn.Linear(3, 3), [unlike, lp.chain(lp.Dense(3), 4)], nn.Linear(3, 2))


@pytest.mark.parametrize("register", REGISTER)
@pytest.mark.parametrize("name", ["body", "body.0", "body.0.layers", "body.1"])
def test_hooks_that_no_solver_calls_are_refused(name, register):
    net = network()
    handle = getattr(net.get_submodule(name), register)(lambda *_: None)
    for net.training in (True, False):
        with pytest.raises(TypeError, match="has hooks, which are never called"):
            net(X)
    handle.remove()
    net(X).sum().backward()


@pytest.mark.parametrize("name", ["", "opening", "closing", "body.0.layers.0", "body.0.layers.1.0"])
def test_others_are_called(name):
    net, calls = network(), []
    net.get_submodule(name).register_forward_hook(lambda *_: calls.append(1))
    net(X).sum().backward()
    assert calls
