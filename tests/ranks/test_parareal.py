"""One subnetwork on each rank: the parareal network of one process, with every gradient."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import BY_NAME
from ranks.rank_cases import sentence
from torch import Tensor, nn
from torch.nn import functional

from layerparallel.group import ALONE, Group, Link, virtual
from layerparallel.group.team import Team
from layerparallel.models import preactivation_resnet, resnet, vgg16
from layerparallel.parareal import PararealNetwork, parareal_network
from layerparallel.recipes.base import channels_last
from layerparallel.runs import checkpoint
from layerparallel.runs.checkpoint import Moment
from layerparallel.training import layerwise

HOLDERS = ["every", "last"]
SLOW = Link(1e-3, 1e-6)


def made(kind: str, count: int, seed: int = 0) -> tuple[PararealNetwork, Tensor]:
    """A parareal network and an input, that every process can make for itself."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(1)
    if kind in BY_NAME:
        net, x = BY_NAME[kind].network(7, "independent", seed), BY_NAME[kind].input(7)
        return parareal_network(net, count, x), x
    net = {
        "resnet": lambda: resnet(20, width=2),
        "channels-last": lambda: channels_last(resnet(20, width=2).to_serial()),
        "preactivation": lambda: preactivation_resnet(29, width=4),
        "vgg": lambda: vgg16(width=2, dropout=0.0),
    }[kind]()
    size = 32 if kind == "vgg" else 8
    x = torch.rand((6, 3, size, size), dtype=torch.float64, generator=generator)
    return parareal_network(net.double(), count, x), x


def pull_back(output: Tensor) -> Tensor:
    """A loss that weighs every output differently, back-propagated."""
    weights = torch.linspace(-1.0, 2.0, output.numel(), dtype=output.dtype).view(output.shape)
    loss = (weights * output + output.square() / 2).mean()
    loss.backward()
    return loss.detach()


@dataclass
class Found:
    """What one rank has after some steps of training; behind every loss the norm of all gradients."""

    losses: list[Tensor]
    evaluated: Tensor
    gradients: dict[str, Tensor | None]
    state: dict[str, Tensor]


def trained(group: Group, kind: str, count: int, holders: Any = "every", frozen: int = 0) -> Found:
    """Two steps of training, and an evaluation, on a rank of the group."""
    net, x = made(kind, count)
    if frozen:
        for piece in (*net.pieces("opening"), *net.pieces(frozen)):
            piece.module.requires_grad_(False)
    net.distribute(group, holders)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for step in range(2):
        optimizer.zero_grad()
        losses.append(pull_back(net(x[step:])))
        losses.append(net.clip_grad_norm_(0.1).double())
        optimizer.step()
    net.eval()
    with torch.no_grad():
        output = net(x)
    return Found(
        losses,
        output,
        {name: p.grad for name, p in net.named_parameters()},
        {name: value.detach() for name, value in net.state_dict().items()},
    )


def alike(ranks: list[Found], one: Found, holders: str) -> None:
    """Every rank has the outputs of one process, and all together its gradients and states."""
    for found in ranks:
        for mine, theirs in zip(
            [*found.losses, found.evaluated], [*one.losses, one.evaluated], strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    for what in ("gradients", "state"):
        expected, met = getattr(one, what), dict[str, Any]()
        for found in ranks:
            for name, value in getattr(found, what).items():
                assert (value is None) == (expected[name] is None), name
                if value is not None:
                    torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-10)
                if name in met:  # what every rank has is the same to the bit
                    assert holders == "every"
                    assert name.startswith(("coarse.", "closing.", "classifier.")), name
                    assert value is None or torch.equal(value, met[name]), name
                met[name] = value
        assert set(met) == set(expected)


@pytest.mark.parametrize("holders", HOLDERS)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    "kind", ["resnet", "channels-last", "preactivation", "vgg", "dense tanh", "verlet"]
)
def test_training_on_ranks_is_that_of_one_process(pool, kind, count, holders):
    alike(pool.run(count, trained, kind, count, holders), trained(ALONE, kind, count), holders)


def orders(group: Group, kind: str, holders: Any) -> list[bool]:
    """Whether the states and gradients of a step lie channels-last: around F^j, and of y_j."""
    net, x = made(kind, 3)
    net.distribute(group, holders)
    found = []

    def look(a: Tensor) -> None:
        found.append(a.is_contiguous(memory_format=torch.channels_last))

    def around(module: nn.Module, given: tuple[Tensor], value: Tensor) -> None:
        look(given[0])
        look(value)

    for part in net.coarse.values():
        part.register_forward_hook(around)
    fine = net.fine

    def watched(j: int, state: Any) -> Any:
        value = fine(j, state)
        if j < 3:  # that of y_3 comes from the closing
            value.register_hook(look)
        return value

    net.fine = watched
    pull_back(net(x))
    return found


@pytest.mark.parametrize("holders", HOLDERS)
def test_states_keep_their_order_in_memory(pool, holders):
    for kind, last in (("channels-last", True), ("preactivation", False)):
        for rank, found in enumerate(pool.run(3, orders, kind, holders)):
            assert len(found) == (rank < 2) + 4 * (holders == "every" or rank == 2)
            assert found == [last] * len(found)


@pytest.mark.parametrize("holders", HOLDERS)
def test_more_ranks(pool, holders):
    alike(pool.run(5, trained, "unlike", 5, holders), trained(ALONE, "unlike", 5), holders)


class Masked(nn.Linear):
    """Dropout that is no module."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.dropout(super().forward(input), 0.5, self.training)


def masked(group: Group) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Masks inside the subnetworks, in the coarse network and behind them, on ranks seeded unlike."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.1 * n)) for n in range(4)]
    net = parareal_network(
        nn.Sequential(*blocks, nn.Dropout(0.5), Masked(4, 2)).double(),
        group.size,
        x := torch.randn(6, 4, dtype=torch.float64),
        closing=12,
        coarse=lambda *_: Masked(4, 4).double(),
    ).distribute(group)
    torch.manual_seed(group.rank)
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=0.5), []
    for _ in range(5):
        optimizer.zero_grad()
        losses.append(pull_back(net(x)))
        optimizer.step()
    return {name: p.detach() for name, p in net.named_parameters()}, losses


def test_masks_are_the_same_where_every_rank_has_the_part(pool):
    (first, mine), (second, theirs) = pool.run(2, masked)
    assert mine == theirs
    assert len({float(loss) for loss in mine}) == 5
    common = first.keys() & second.keys()
    assert len(common) == 4  # F^1 and h
    assert all(torch.equal(first[name], second[name]) for name in common)


@pytest.mark.parametrize("holders", HOLDERS)
def test_a_frozen_subnetwork(pool, holders):
    one = trained(ALONE, "dense tanh", 3, frozen=1)
    assert sum(g is None for g in one.gradients.values()) > 2
    alike(pool.run(3, trained, "dense tanh", 3, holders, 1), one, holders)


@pytest.mark.parametrize("holders", HOLDERS)
def test_on_virtual_ranks(holders):
    found = virtual.run(4, trained, SLOW, "dense tanh", 4, holders, measured=False)
    assert found.unread == 0
    alike(found.results, trained(ALONE, "dense tanh", 4), holders)


def counted(group: Any, count: int, holders: Any) -> list[tuple[int, int]]:
    """Messages and bytes sent by this rank in a forward and in a backward pass."""
    net, x = made("dense tanh", count)
    net.distribute(group, holders)
    before = []
    group.restart()
    output = net(x)
    before.append((group.statistics.messages, group.statistics.bytes))
    pull_back(output)
    after = group.statistics
    return [before[0], (after.messages - before[0][0], after.bytes - before[0][1])]


def test_one_exchange_in_each_direction():
    """Besides small objects: x_j and y_j to the last rank, and as many bytes back; or to every rank."""
    state = 5 * 4 * 8
    last = virtual.run(3, counted, SLOW, 3, "last", measured=False).results
    assert [each[1] for each in last] == [(0, 0), (0, 0), (3, 3 * state)]
    every = virtual.run(3, counted, SLOW, 3, "every", measured=False).results
    assert [each[1] for each in every] == [(0, 0)] * 3


# ---- data parallel ------------------------------------------------------------------------------


def on_mesh(mesh, holders: Any) -> dict[str, Tensor]:
    team = Team.of(mesh)
    net, x = made("unlike", 2)
    net.distribute(mesh["layer"], holders)
    return steps(net, team.wrapped(net), x[:4].chunk(2)[mesh["data"].get_local_rank()])


def steps(net: nn.Module, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return {name: p.detach().clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("holders", HOLDERS)
def test_beside_data_parallelism(pool, holders):
    net, x = made("unlike", 2)
    one = steps(net, net, x[:4])
    met = set()
    for found in pool.run_mesh((2, 2), on_mesh, holders):
        for name, value in found.items():
            torch.testing.assert_close(value, one[name], rtol=1e-10, atol=1e-10)
            met.add(name)
    assert met == set(one)


# ---- checkpoints --------------------------------------------------------------------------------


class Job:
    """A parareal network in training, on a layer group."""

    def __init__(self, group: Group, kind: str, count: int, holders: Any = "every", seed: int = 0):
        self.group = group
        self.net, self.x = made(kind, count, seed)
        self.net.distribute(group, holders)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.01)

    def train(self) -> None:
        for _ in range(2):
            self.optimizer.zero_grad()
            pull_back(self.net(self.x))
            self.optimizer.step()

    def save(self, folder: str) -> None:
        optimizer = layerwise.optimizer_state_dict(self.net, self.optimizer)
        state = {"network": self.net.state_dict(), "optimizer": optimizer}
        checkpoint.save(Path(folder), Moment(0, 1, 0), state, layers={}, group=self.group)

    def load(self, folder: str) -> None:
        found = checkpoint.latest(Path(folder), self.group)
        assert found is not None
        state = found.of(self.net.state_dict())
        self.net.load_state_dict(state["network"])
        layerwise.load_optimizer_state_dict(self.net, self.optimizer, state["optimizer"])


def begun(group: Group, folder: str, *case: Any) -> None:
    job = Job(group, *case)
    job.train()
    job.save(folder)


def ended(group: Group, folder: str, *case: Any) -> dict[str, Tensor]:
    job = Job(group, *case, seed=3)  # other weights, which are all replaced
    job.load(folder)
    job.train()
    return dict(job.net.state_dict())


def whole(kind: str, count: int) -> dict[str, Tensor]:
    job = Job(ALONE, kind, count)
    job.train()
    job.train()
    return dict(job.net.state_dict())


@pytest.mark.parametrize("holders", HOLDERS)
@pytest.mark.parametrize("kind", ["preactivation", "dense tanh"])
@pytest.mark.parametrize("way", ["one to ranks", "ranks to one", "ranks to ranks"])
def test_a_checkpoint_goes_on_with_anywhere(pool, tmp_path, kind, holders, way):
    one = whole(kind, 3)
    if way == "one to ranks":
        begun(ALONE, str(tmp_path), kind, 3)
    else:
        pool.run(3, begun, str(tmp_path), kind, 3, holders)
    if way == "ranks to one":
        found = [ended(ALONE, str(tmp_path), kind, 3)]
    else:
        other = holders if way == "one to ranks" else "last"
        found = pool.run(3, ended, str(tmp_path), kind, 3, other)
    met = set()
    for each in found:
        for name, value in each.items():
            torch.testing.assert_close(value, one[name], rtol=1e-9, atol=1e-9)
            met.add(name)
    assert met == set(one)


# ---- what cannot be -----------------------------------------------------------------------------


def refused(group: Group, what: str) -> str:
    other = group.rank == 1
    kind = {"shared": "tied"}.get(what, "dense tanh")
    net, _ = made(kind, 2 if what == "few" else 3, seed=int(what == "seed" and other))
    holders: Any = "all" if what == "unknown" else "every"
    if what == "twice":
        net.distribute(group)
    if what == "holders" and other:
        holders = "last"
    return sentence(lambda: net.distribute(group, holders))


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (
            "few",
            "InputError: 2 subnetworks, one on each rank, do not fit 3 ranks; start 2 ranks, or make 3 "
            "subnetworks.",
        ),
        ("seed", "InputError: The ranks disagree on the initial weights"),
        ("holders", "InputError: The ranks disagree on the holders of the coarse network"),
        ("twice", "InputError: The network is distributed over 3 ranks already; make a new one."),
        ("unknown", "UnknownNameError: There is no way to hold the coarse network 'all'"),
        (
            "shared",
            "InputError: subnetwork 1 and subnetwork 2 share a parameter of shape (3, 4), and are on "
            "different ranks of the layer group; give each its own, or cut elsewhere.",
        ),
    ],
)
def test_what_cannot_be_distributed(pool, what, text):
    found = pool.run(3, refused, what)
    assert len(set(found)) == 1
    assert found[0].startswith(text)


class Failing(nn.Linear):
    """Raises when it is trained."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            raise ArithmeticError("no numbers today")
        return super().forward(input)


def failing(group: Group, part: str, holders: Any) -> str:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 3) for _ in range(5)]
    if part == "fine":
        layers[3] = Failing(3, 3)
    coarse = (lambda j, a, b: Failing(3, 3)) if part == "coarse" else None
    options: dict[str, Any] = {"cuts": [2, 3], "opening": 1, "closing": 4, "coarse": coarse}
    net = parareal_network(layers, 3, torch.ones(2, 3), **options)
    net.train().distribute(group, holders)
    return sentence(lambda: net(torch.ones(2, 3)))


@pytest.mark.parametrize("holders", HOLDERS)
def test_a_part_that_raises_raises_on_all_ranks(pool, holders):
    own = "ArithmeticError: no numbers today"
    for rank, heard in enumerate(pool.run(3, failing, "fine", holders)):
        assert heard == (own if rank == 2 else f"RankFailed: rank 2 raised {own}")
    for rank, heard in enumerate(pool.run(3, failing, "coarse", holders)):
        assert heard == (own if rank == 2 or holders == "every" else f"RankFailed: rank 2 raised {own}")


def elsewhere(group: Group) -> str:
    net, x = made("dense tanh", group.size)
    net.distribute(group)
    return sentence(lambda: net.prepared(2 - group.rank, x))


def test_the_subnetwork_of_another_rank_cannot_be_called(pool):
    for rank, heard in enumerate(pool.run(2, elsewhere)):
        assert heard == (
            f"RuntimeError: subnetwork {2 - rank} is on rank {1 - rank}; call the whole network on all "
            "ranks"
        )
