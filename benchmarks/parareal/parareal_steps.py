"""Training steps of parareal networks and of what they are compared with, timed, counted, predicted."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from layered import layer_mesh
from random_images import random_images

from layerparallel.data.base import Dataset
from layerparallel.data.batches import Batches
from layerparallel.group import Group, Link, virtual
from layerparallel.group.ranks import Ranks
from layerparallel.group.team import Team
from layerparallel.recipes.parareal import Cifar10Parareal
from layerparallel.runs.shares import share


@dataclass(frozen=True)
class Case:
    """A ResNet for images of CIFAR's size, random ones.

    Args:
        depth, width: of the network, which has (depth - 2) / 2 units.
        batch: images in a mini batch, on all processes together.
        batches: of which training images there are.
    """

    depth: int = 110
    width: int = 8
    batch: int = 64
    batches: int = 2

    def recipe(self, method: str, count: int = 1, holders: str = "every") -> Cifar10Parareal:
        """The recipe of one row."""
        chosen: dict[str, Any] = {"method": method, "subnetworks": count, "holders": holders}
        return Cifar10Parareal(depth=self.depth, width=self.width, batch=self.batch, **chosen)

    def data(self) -> Dataset:
        """As many images as the batches have."""
        return random_images(self.batch * self.batches)


class Training:
    """A call is one step: the making of a batch, forward, backward, update.

    Args:
        recipe: whose method it is.
        data: the images.
        team: the processes.
    """

    def __init__(self, recipe: Cifar10Parareal, data: Dataset, team: Team) -> None:
        self.method: Any = recipe.trained(data, team)
        generator = torch.Generator().manual_seed(0)
        self.batches = share(Batches(data, recipe.batch, generator, recipe.prepare(data)), team.data)
        self.numbers = itertools.cycle(range(len(self.batches)))
        self.method.network.train()

    def __call__(self) -> None:
        batch = self.batches[next(self.numbers)]
        self.method.step(batch.x, batch.y)


def on_processes(rank: int, case: Case, method: str, holders: str, kind: str) -> Training:
    """A training on one process, or on both, which are "layer" ranks or "data"-parallel ones."""
    team = Team()
    if kind == "layer":
        team = Team(layer=Ranks(layer_mesh()))
    elif kind == "data":
        team = Team(data=Ranks(layer_mesh(), Link(0.0, 0.0)))
    return Training(case.recipe(method, 2, holders), case.data(), team)


@dataclass(frozen=True)
class Predicted:
    """A step on so many ranks in virtual time: milliseconds, and the most bytes that one rank sends."""

    milliseconds: float
    bytes: int


def predicted(case: Case, method: str, count: int, holders: str, link: Link, rounds: int) -> Predicted:
    """A step on `count` ranks of one thread, each with a core of its own."""
    recipe, data = case.recipe(method, count, holders), case.data()

    def step(member: Group) -> None:
        assert isinstance(member, virtual.Member)
        torch.set_num_threads(1)
        team = Team() if count == 1 else Team(layer=member)
        member.timed(Training(recipe, data, team), rounds)

    found = virtual.run(count, step, link)
    return Predicted(1e3 * found.seconds, max(each.bytes for each in found.statistics))


def shared_bytes(case: Case, ranks: int) -> int:
    """What a data-parallel rank sends in a step: gradients summed in a ring.

    2 (P - 1) / P of all parameters' bytes; counted, not timed. Buffers come on top, from one
    rank.
    """
    network = case.recipe("serial").made(case.data())
    return round(2 * (ranks - 1) / ranks * sum(p.nbytes for p in network.parameters()))


def percent_off(predicted_ms: float, measured_ms: float) -> float:
    """How far a prediction is from what was measured."""
    return 100 * abs(predicted_ms - measured_ms) / measured_ms
