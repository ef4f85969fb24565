"""What is wrong on one rank is told on all, in one sentence, and nobody waits for anybody."""

from __future__ import annotations

import pytest
import torch
from ranks.rank_cases import Case, network, sentence
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.group import Group


def small(group: Group, seed: int = 0, depth: int = 6) -> tuple[lp.Network, Tensor]:
    return network(Case("dense tanh", depth, lp.MGRIT(coarsening=2), seed=seed))


def disagreeing(group: Group, what: str) -> str:
    net, _ = small(group, seed=group.rank if what == "seed" else 0)
    if what == "solver" and group.rank == 1:
        net.solver = lp.MGRIT(coarsening=3)
    if what == "depth" and group.rank == 1:
        net, _ = small(group, depth=8)
    output = "last" if what == "output" and group.rank == 1 else "all"
    return sentence(lambda: lp.distribute(net, group, output=output))


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("seed", "initial weights"),
        ("solver", "solver"),
        ("depth", "network"),
        ("output", "distribution"),
    ],
)
def test_ranks_that_disagree(pool, what, named):
    found = pool.run(3, disagreeing, what)
    assert len(set(found)) == 1
    assert found[0].startswith(f"InputError: The ranks disagree on the {named}")


def refused(group: Group, what: str) -> str:
    net, _ = small(group)
    if what == "twice":
        lp.distribute(net, group)
        return sentence(lambda: lp.distribute(net, group))
    if what == "serial":
        lp.distribute(net, group)
        return sentence(net.to_serial)
    if what == "shared":
        layer = nn.Linear(4, 4).double()
        net = lp.Network(layer, lp.chain(lp.Dense(4), 4), layer)
    if what == "shared steps":
        a, b = nn.Linear(4, 4), nn.Linear(4, 4)
        b.weight = a.weight
        net = lp.Network(None, lp.chain([a, b]), None)
    layers = {"sum": [[3, 2, 2]], "first": [[0, 3, 3]], "chains": [[2, 2, 2], [1, 1, 1]]}.get(what)
    output = "first" if what == "output" else "all"
    return sentence(lambda: lp.distribute(net, group, output=output, layers=layers))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("twice", "distributed over 3 ranks already; make a new one"),
        ("serial", "save a checkpoint and load it into a network of one process"),
        ("shared", "the opening and the closing share a parameter (4, 4)"),
        ("shared steps", "share a parameter (4, 4)"),
        ("sum", "layers = [3, 2, 2] do not distribute 6 layers over 3 ranks"),
        ("first", "the first at least 1"),
        ("chains", "layers are given for 2 chains of 1; give one list for each"),
        ("output", "output = 'first' is unknown; give"),
    ],
)
def test_what_cannot_be_distributed(pool, what, text):
    found = pool.run(3, refused, what)
    assert all(text in each for each in found), found


class Failing(nn.Module):
    """Raises when told to."""

    def forward(self, u: Tensor) -> Tensor:
        raise ArithmeticError("no numbers today")


def failing(group: Group, where: str) -> str:
    net, x = small(group)
    setattr(net, where, Failing())
    lp.distribute(net, group)
    return sentence(lambda: net(x))


@pytest.mark.parametrize("where", ["opening", "closing"])
def test_a_module_that_raises_raises_on_all_ranks(pool, where):
    found = pool.run(3, failing, where)
    own = 0 if where == "opening" else 2
    for rank, heard in enumerate(found):
        if rank == own:
            assert heard == "ArithmeticError: no numbers today"
        else:
            assert heard == f"RankFailed: rank {own} raised ArithmeticError: no numbers today"


def overflowing(group: Group) -> str:
    net, x = small(group)
    with torch.no_grad():
        net.body.layer.weight.fill_(float("nan"))
    lp.distribute(net, group)
    return sentence(lambda: net(x))


def test_states_that_are_not_finite_are_refused_on_all_ranks(pool):
    found = pool.run(3, overflowing)
    assert all("the state became NaN or infinite inside the chain" in heard for heard in found), found


class Drawing(nn.Module):
    """Draws random numbers in a way that repeated evaluation cannot repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, u: Tensor) -> Tensor:
        return self.linear(u) * torch.rand(())


def random_steps(group: Group, kind: str) -> str:
    torch.manual_seed(0)
    body = lp.chain(Drawing(), 6) if kind == "stacked" else lp.chain([Drawing() for _ in range(6)])
    net = lp.Network(None, body, None, lp.MGRIT(coarsening=2))
    lp.distribute(net, group)
    return sentence(lambda: net(torch.ones(2, 4)))


@pytest.mark.parametrize("kind", ["stacked", "unlike"])
def test_steps_that_draw_random_numbers_are_refused_on_all_ranks(pool, kind):
    found = pool.run(3, random_steps, kind)
    assert all(each.startswith("ValueError: ") and "random" in each for each in found), found
