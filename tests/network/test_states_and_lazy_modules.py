"""Lazy modules and states of one part: right, or refused in one sentence."""

import pytest
import torch
from torch import Tensor, nn

import layerparallel as lp

X = torch.linspace(-1, 1, 20).view(5, 4)


class Packed(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x,)


class First(nn.Module):
    """As a closing for packed states would take them: of a bare tensor it is the first sample."""

    def forward(self, u: tuple[Tensor]) -> Tensor:
        return u[0]


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.Tanh())


@pytest.mark.parametrize("kind", ["template", "tied", "unlike", "stacked"])
def test_a_lazy_module_is_refused_until_it_has_been_called(kind):
    given = lazy() if kind in ("template", "tied") else [lazy() for _ in range(4)]
    depth = 4 if isinstance(given, nn.Module) else None

    def chain() -> lp.Body:
        return lp.chain(given, depth, tied=kind == "tied", stacked=kind == "stacked")

    with pytest.raises(ValueError, match=r"0\.weight of Sequential is lazy.*call the module once"):
        chain()
    for module in [given] if isinstance(given, nn.Module) else given:
        module(X)
    lp.Network(None, chain(), None)(X).sum().backward()


def test_opening_and_closing_may_be_lazy():
    net = lp.Network(nn.LazyLinear(4), lp.chain(lp.Dense(4), 8), nn.LazyLinear(2), lp.MGRIT())
    assert net(X).shape == (5, 2)


@pytest.mark.parametrize("several", [False, True])
def test_a_state_that_is_a_tuple_of_one_is_refused(several):
    chain = lp.chain(lp.Dense(4), 8)
    body = [chain, Packed(), lp.chain(lp.Dense(4), 8)] if several else chain
    net = lp.Network(None if several else Packed(), body, First())
    with pytest.raises(TypeError, match=r"is a tuple of one tensor, .*; return it alone"):
        net(X)


def test_a_step_may_return_one():
    net = lp.Network(None, lp.chain(nn.Sequential(nn.Linear(4, 4), Packed()), 8), None)
    torch.testing.assert_close(net(X), net.to_serial()(X))
