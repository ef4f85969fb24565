"""Optimiser state moves between a stacked network and its serial twin without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import layerparallel as lp


def _network() -> lp.Network:
    torch.manual_seed(0)
    return lp.Network(nn.Linear(3, 4), lp.chain(lp.Dense(4), 6), nn.Linear(4, 2)).double()


def _train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
@pytest.mark.parametrize("forth", [True, False])
def test_training_goes_on_where_it_stopped(kind: type, forth: bool) -> None:
    """Three steps, change of twin, three steps: as six steps without the change."""
    net = _network()
    unbroken: nn.Module = net.to_serial()
    _train(unbroken, kind(unbroken.parameters(), lr=0.01), 6)
    first: nn.Module = net if forth else net.to_serial()
    second: nn.Module = net.to_serial() if forth else _network()
    optimizer = kind(first.parameters(), lr=0.01)
    _train(first, optimizer, 3)
    second.load_state_dict(first.state_dict())
    other = kind(second.parameters(), lr=0.01)
    lp.load_optimizer_state(second, other, lp.optimizer_state(first, optimizer))
    _train(second, other, 3)
    wanted = unbroken.state_dict()
    for name, value in second.state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-9, atol=1e-12)


def test_state_of_another_depth_is_refused() -> None:
    net = _network()
    optimizer = torch.optim.Adam(net.parameters())
    _train(net, optimizer, 1)
    deeper = lp.Network(nn.Linear(3, 4), lp.chain(lp.Dense(4), 7), nn.Linear(4, 2)).double()
    with pytest.raises(ValueError, match=r"body\.6\.weight"):
        lp.load_optimizer_state(
            deeper, torch.optim.Adam(deeper.parameters()), lp.optimizer_state(net, optimizer)
        )
