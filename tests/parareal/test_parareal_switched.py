"""Parts computed in one batch whose modules are switched over, all alike, after they were compared."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layerparallel.parareal import parareal_network

SWITCHES = {"elsewhere": False}


class Switched(nn.Module):
    """Does more when it is switched on."""

    def __init__(self, more: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.on, self.more, self.drop = nn.Linear(8, 8), False, more, nn.Dropout(0.0)

    def forward(self, u: Tensor) -> Tensor:
        v = u + 0.3 * self.drop(torch.tanh(self.fc(u)))
        return self.more(self, v) if self.on or SWITCHES["elsewhere"] else v


def dropped(block: Any, v: Tensor) -> Tensor:
    return nn.functional.dropout(v, 0.5, block.training)


def hooked(block: Any, v: Tensor) -> Tensor:
    if v.requires_grad:
        v.register_hook(lambda g: 0.5 * g)
    return v


def branching(block: Any, v: Tensor) -> Tensor:
    return v if float(v.detach().sum()) > 0 else 0.5 * v


def auxiliary(block: Any, v: Tensor) -> Tensor:
    block.auxiliary = v.square().mean()
    return v


def cached(block: Any, v: Tensor) -> Tensor:
    if not hasattr(block, "kept"):
        block.kept = v.detach().mean()
    return v * block.kept


def made(more: Callable[[Any, Tensor], Tensor]) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    whole = nn.Sequential(nn.Linear(8, 8), *[Switched(more) for _ in range(8)], nn.Linear(8, 3))
    net = parareal_network(whole, 8, x, opening=1, closing=9)
    assert net.alike == (range(8),)
    return net, x


def results(net: Any, x: Tensor) -> list[Tensor]:
    net.zero_grad()
    torch.manual_seed(1)
    out = net(x)
    (out.square().sum() + sum(getattr(part, "auxiliary", 0) for part in net.modules())).backward()
    return [out, *(torch.zeros(()) if p.grad is None else p.grad.clone() for p in net.parameters())]


@pytest.mark.parametrize("more", [dropped, hooked, branching, auxiliary, cached])
def test_parts_that_are_switched_over_are_compared_again(more):
    net, x = made(more)
    twin, _ = made(more)
    for a, b in zip(results(net, x), results(twin, x), strict=True):
        torch.testing.assert_close(a, b)
    twin.alike = ()
    for part in (*net.modules(), *twin.modules()):
        if isinstance(part, Switched):
            part.on = True
    for _ in range(2):
        for a, b in zip(results(net, x), results(twin, x), strict=True):
            torch.testing.assert_close(a, b)
    assert net.alike == ()


@pytest.mark.parametrize("more", [dropped, branching])
def test_what_vmap_cannot_do_any_more_is_done_in_turn(more, monkeypatch):
    net, x = made(more)
    twin, _ = made(more)
    twin.alike = ()
    monkeypatch.setitem(SWITCHES, "elsewhere", True)
    for a, b in zip(results(net, x), results(twin, x), strict=True):
        torch.testing.assert_close(a, b)


def test_dropout_that_is_switched_on_later():
    net, x = made(dropped)
    for part in net.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
    with torch.inference_mode():
        net(x)
    first, again = net(x), net(x)
    assert net.alike == ()
    assert not torch.equal(first, again)
