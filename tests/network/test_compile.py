"""torch.compile of a step: the batched step is compiled, and nothing else changes."""

import shutil

import pytest
import torch
from problems import compare
from torch import nn

import layerparallel as lp


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on a CPU")
def test_a_compiled_step_gives_the_gradients_of_the_plain_one():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    net = lp.Network(nn.Linear(3, 4), lp.chain(torch.compile(layer), 12, T=1.0), None).double()
    assert "body.11.0.weight" in net.state_dict()
    solver = lp.MGRIT(coarsening=4, forward_cycles=4, adjoint_cycles=4)
    assert compare(net, torch.randn(5, 3, dtype=torch.float64), solver).worst < 1e-10
