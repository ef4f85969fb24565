"""Optimiser state moves between a stacked network and its serial twin without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import layerparallel as lp
from layerparallel.training import layerwise


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


# ---- with the settings: what checkpoints hold --------------------------------------------------


def _closure_steps(net: nn.Module, optimizer: lp.LBFGS, steps: int) -> None:
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)


def test_lbfgs_goes_on_where_it_stopped_in_either_twin() -> None:
    unbroken = _network().to_serial()
    _closure_steps(unbroken, lp.LBFGS(unbroken.parameters(), memory=2), 7)
    first, second = _network(), _network().to_serial()
    optimizer = lp.LBFGS(first.parameters(), memory=2)
    _closure_steps(first, optimizer, 4)
    state = layerwise.optimizer_state_dict(first, optimizer)
    assert state["state"]["body.3.weight"]["basis"].shape == (5, 4, 4)
    second.load_state_dict(first.state_dict())
    other = lp.LBFGS(second.parameters(), memory=2)
    layerwise.load_optimizer_state_dict(second, other, state)
    _closure_steps(second, other, 3)
    for name, value in second.state_dict().items():
        torch.testing.assert_close(value, unbroken.state_dict()[name], rtol=1e-7, atol=1e-9)


def test_settings_come_back_group_by_group() -> None:
    net = _network()
    optimizer = torch.optim.SGD(net.decay_groups(0.1), lr=0.5, momentum=0.9)
    _train(net, optimizer, 2)
    optimizer.param_groups[1]["lr"] = 0.25
    state = layerwise.optimizer_state_dict(net, optimizer)
    other = torch.optim.SGD(net.decay_groups(0.0), lr=0.1)
    layerwise.load_optimizer_state_dict(net, other, state)
    assert [group["lr"] for group in other.param_groups] == [0.5, 0.25]
    assert [group["weight_decay"] for group in other.param_groups] == [0.1, 0.0]
    for parameter, kept in optimizer.state.items():
        assert torch.equal(other.state[parameter]["momentum_buffer"], kept["momentum_buffer"])
    with pytest.raises(ValueError, match="2 groups of parameters and the optimiser 1"):
        layerwise.load_optimizer_state_dict(net, torch.optim.SGD(net.parameters()), state)


def test_a_fresh_state_clears_that_of_the_optimiser() -> None:
    net = _network()
    optimizer = torch.optim.Adam(net.parameters())
    fresh = layerwise.optimizer_state_dict(net, optimizer)
    _train(net, optimizer, 2)
    layerwise.load_optimizer_state_dict(net, optimizer, fresh)
    assert not optimizer.state


def test_what_cannot_be_split_by_layer_is_kept_for_as_many_ranks() -> None:
    """Adafactor factors the stack of the biases, (N, d), as if it were a matrix."""
    net = _network()
    optimizer = torch.optim.Adafactor(net.parameters())
    _train(net, optimizer, 2)
    with pytest.raises(ValueError, match=r"Adafactor keeps .* cannot be split by layer"):
        lp.optimizer_state(net, optimizer)
    state = layerwise.optimizer_state_dict(net, optimizer)
    other = torch.optim.Adafactor(net.parameters())
    layerwise.load_optimizer_state_dict(net, other, state)
    for parameter, kept in optimizer.state.items():
        assert all(torch.equal(other.state[parameter][key], kept[key]) for key in kept)
    elsewhere = {"whole": {"1 of 2": state["whole"]["0 of 1"]}}
    with pytest.raises(ValueError, match="it fits rank 1 of 2, not 0 of 1"):
        layerwise.load_optimizer_state_dict(net, other, elsewhere)


def test_parameters_without_a_gradient_have_no_state() -> None:
    net = _network()
    net.closing.requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters())
    _train(net, optimizer, 2)
    state = layerwise.optimizer_state_dict(net, optimizer)
    assert "closing.weight" not in state["state"]
    other = torch.optim.Adam(net.parameters())
    layerwise.load_optimizer_state_dict(net, other, state)
    assert other.state.keys() == optimizer.state.keys()
    del state["state"]["body.2.weight"]
    with pytest.raises(ValueError, match=r"no entry 'body\.2\.weight'"):
        layerwise.load_optimizer_state_dict(net, other, state)
