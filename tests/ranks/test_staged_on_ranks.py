"""One stage on each rank: the same network as on one process, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import BY_NAME
from ranks.rank_cases import sentence, several_chains
from torch import Tensor, nn

from layerparallel.group import ALONE, Group, Link, virtual
from layerparallel.models import resnet
from layerparallel.models.vae import Reconstruction, resnet_vae, vae_loss
from layerparallel.recipes.base import channels_last
from layerparallel.staged import Staged

STATES = ["dense tanh", "unlike", "verlet", "timed rk4", "convolution tanh", "step function"]
SLOW = Link(1e-3, 1e-6)


def made(kind: str, stages: int | Sequence[int], seed: int = 0) -> tuple[Staged, Tensor]:
    """A network in stages, and an input, that every process can make for itself."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    if kind in BY_NAME:
        return Staged(BY_NAME[kind].network(6, seed=seed), stages), BY_NAME[kind].input(6)
    if kind in ("resnet", "channels last"):
        net, shape = resnet(14, width=2), (6, 3, 8, 8)
    elif kind == "vae":
        net, shape = resnet_vae(14, 3, size=8, width=2), (6, 1, 8, 8)
    else:
        net, shape = several_chains(4), (5, 3)
    x = torch.rand(shape, dtype=torch.float64, generator=generator)
    staged = Staged(net.double(), stages, x)
    return channels_last(staged) if kind == "channels last" else staged, x


def pull_back(output: Any, x: Tensor) -> Tensor:
    """A loss that weighs every output differently, back-propagated."""
    if isinstance(output, Reconstruction):
        loss = vae_loss(output, x)
    else:
        weights = torch.linspace(-1.0, 2.0, output.numel(), dtype=output.dtype).view(output.shape)
        loss = (weights * output + output.square() / 2).sum()
    loss.backward()
    return loss.detach()


@dataclass
class Found:
    """What one rank has after some steps of training."""

    mine: range
    losses: list[Tensor]
    norms: list[Tensor]
    evaluated: list[Tensor]
    gradients: dict[str, Tensor | None]
    state: dict[str, Tensor]
    own: list[int]


def trained(group: Group, kind: str, stages: int | Sequence[int], frozen: bool = False) -> Found:
    """Two steps of training, and an evaluation, on a rank of the group."""
    staged, x = made(kind, stages)
    if frozen:
        for p in staged.parameters_of(0):
            p.requires_grad_(False)
    staged.distribute(group)
    optimizer = torch.optim.SGD(staged.parameters(), lr=0.01, momentum=0.9)
    losses, norms = [], []
    torch.manual_seed(2)
    for step in range(2):
        optimizer.zero_grad()
        losses.append(pull_back(staged(x[step:]), x[step:]))
        norms.append(staged.gradient_norm().double())
        optimizer.step()
    staged.eval()
    with torch.no_grad():
        output = staged(x)
    return Found(
        staged.mine,
        losses,
        norms,
        [*output] if isinstance(output, tuple) else [output],
        {name: p.grad for name, p in staged.named_parameters()},
        {name: value.detach() for name, value in staged.state_dict().items()},
        [len(staged.parameters_of(k)) for k in range(staged.count)],
    )


def alike(ranks: list[Found], one: Found) -> None:
    """Every rank has the outputs of one process, and all together its gradients and states."""
    for found in ranks:
        for mine, theirs in zip(
            [*found.losses, *found.evaluated], [*one.losses, *one.evaluated], strict=True
        ):
            assert torch.equal(mine, theirs)
        torch.testing.assert_close(found.norms, one.norms, rtol=1e-12, atol=0)  # of all ranks' gradients
    for what in ("gradients", "state"):
        expected, met = getattr(one, what), set()
        for found in ranks:
            here = getattr(found, what)
            assert not met & set(here), "on two ranks"
            met |= set(here)
            for name, value in here.items():
                assert (value is None) == (expected[name] is None), name
                assert value is None or torch.equal(value, expected[name]), name
        assert met == set(expected)
    for rank, found in enumerate(ranks):
        assert found.mine == range(rank, rank + 1)
        assert found.own == [n if k == rank else 0 for k, n in enumerate(one.own)]


@pytest.mark.parametrize("kind", ["resnet", "channels last", "vae", "several chains"])
@pytest.mark.parametrize("stages", [2, 3])
def test_training_on_ranks_is_that_of_one_process(pool, kind, stages):
    alike(pool.run(stages, trained, kind, stages), trained(ALONE, kind, stages))


@settings(max_examples=15)
@given(data=st.data())
def test_any_cuts_of_any_chain(pool, data):
    kind = data.draw(st.sampled_from(STATES))
    # in front of the closing, which may have no parameters
    inside = st.integers(1, 6 if kind != "step function" else 1)
    cuts = sorted(data.draw(st.lists(inside, min_size=1, max_size=4, unique=True)))
    alike(pool.run(len(cuts) + 1, trained, kind, cuts), trained(ALONE, kind, cuts))


@pytest.mark.parametrize("stages", [2, 4])
def test_on_virtual_ranks(stages):
    found = virtual.run(stages, trained, SLOW, "dense tanh", stages, measured=False).results
    alike(found, trained(ALONE, "dense tanh", stages))


def test_a_frozen_stage_is_passed_by(pool):
    found = pool.run(3, trained, "dense tanh", 3, True)
    one = trained(ALONE, "dense tanh", 3, True)
    assert sum(g is None for g in one.gradients.values()) >= 2
    alike(found, one)


def loaded(group: Group) -> list[Tensor]:
    """A whole network's state, taken by all ranks; and what they then say."""
    staged, x = made("resnet", group.size)
    staged.distribute(group)
    other, _ = made("resnet", group.size, seed=5)
    staged.load_state_dict(other.state_dict())
    return [staged(x).detach(), other(x).detach()]


def test_the_state_of_a_whole_network_is_taken(pool):
    for mine, theirs in pool.run(3, loaded):
        assert torch.equal(mine, theirs)


# ---- what cannot be -----------------------------------------------------------------------------


def refused(group: Group, what: str) -> str:
    other = group.rank == 1
    stages = {"few": 2, "cuts": [1, 3] if other else [1, 2]}.get(what, 3)
    staged, _ = made("dense tanh", stages, seed=1 if what == "seed" and other else 0)
    if what == "twice":
        staged.distribute(group)
    return sentence(lambda: staged.distribute(group))


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (
            "few",
            "InputError: 2 stages, one on each rank, do not fit 3 ranks; start 2 ranks, or cut the "
            "network into 3 stages.",
        ),
        ("cuts", "InputError: The ranks disagree on the stages"),
        ("seed", "InputError: The ranks disagree on the initial weights"),
        ("twice", "InputError: The network is distributed over 3 ranks already; make a new one."),
    ],
)
def test_what_cannot_be_distributed(pool, what, text):
    found = pool.run(3, refused, what)
    assert len(set(found)) == 1
    assert found[0].startswith(text)


class Failing(nn.Linear):
    """Raises when called."""

    def forward(self, input: Tensor) -> Tensor:
        raise ArithmeticError("no numbers today")


class Named(nn.Linear):
    """Returns what is no state."""

    def forward(self, input: Tensor) -> Any:
        return {"state": super().forward(input)}


def failing(group: Group, kind: type[nn.Module], at: int) -> str:
    torch.manual_seed(0)
    layers = [kind(3, 3) if n == at else nn.Linear(3, 3) for n in range(group.size)]
    staged = Staged(layers, group.size).distribute(group)
    return sentence(lambda: staged(torch.ones(2, 3)))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_stage_that_raises_raises_on_all_ranks(pool, at):
    for rank, heard in enumerate(pool.run(3, failing, Failing, at)):
        own = "ArithmeticError: no numbers today"
        assert heard == (own if rank == at else f"RankFailed: rank {at} raised {own}")


def test_a_state_that_is_none_is_refused_on_all_ranks(pool):
    found = pool.run(3, failing, Named, 1)
    assert found[1].startswith("TypeError: the last state of stage 1 must be a tensor or a plain tuple")
    assert all(found[1] in found[rank] for rank in (0, 2))


def relayed_on(mesh: Any) -> Tensor:
    staged, x = made("dense tanh", 2)
    return staged.distribute(mesh["layer"])(x).detach()


def test_a_device_mesh_will_do(pool):
    net, x = made("dense tanh", 2)
    assert all(torch.equal(found, net(x)) for found in pool.run_mesh((1, 2), relayed_on))


def elsewhere(group: Group) -> str:
    staged, x = made("dense tanh", group.size)
    staged.distribute(group)
    return sentence(lambda: staged.stage(1 - group.rank)(x))


def test_the_stage_of_another_rank_cannot_be_called(pool):
    for rank, heard in enumerate(pool.run(2, elsewhere)):
        other = 1 - rank
        assert heard == (
            f"RuntimeError: stage {other} is on rank {other}; call the whole network on all ranks"
        )
