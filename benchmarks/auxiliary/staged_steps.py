"""Training steps to be timed: serial on one process, and in two stages on two."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import torch
from layered import layer_mesh
from random_images import random_images

from layerparallel.data.base import Dataset
from layerparallel.data.batches import Batches
from layerparallel.group.ranks import Ranks
from layerparallel.group.team import Team
from layerparallel.recipes.cifar import Cifar10


@dataclass(frozen=True)
class Case:
    """A ResNet for CIFAR-10, random images, and how auxiliary variables are kept in the DS rows.

    Args:
        depth, width: of the network.
        batch: images in a mini batch.
        batches: of which training images there are.
        filter: of the DS rows.
    """

    depth: int = 20
    width: int = 16
    batch: int = 128
    batches: int = 8
    filter: str = "pool:2"

    def recipe(self, method: str, filter_: str, **more: Any) -> Cifar10:
        """The recipe of one row; its first epoch is serial, its second parallel."""
        chosen: dict[str, Any] = {"method": method, "filter": filter_, "serial_start": 1, **more}
        return Cifar10(depth=self.depth, width=self.width, batch=self.batch, **chosen)

    def data(self) -> Dataset:
        """As many images as the batches have."""
        return random_images(self.batch * self.batches)


class Training:
    """A call is one step of an epoch: the making of a batch, and the training on it.

    Args:
        rank: of this process.
        case: what is trained.
        method: "serial", on one process; "penalty" or "augmented", a parallel epoch on two; "relayed", a
            serial epoch of the hybrid on the same two.
        how: the filter, or of serial training the network, "eager" or "Serial()".
    """

    def __init__(self, rank: int, case: Case, method: str, how: str) -> None:
        data = case.data()
        self.method: Any
        if method == "serial":
            recipe = case.recipe("serial", "none")
            network = recipe.made()
            self.method = recipe.backprop(data, network if how == "Serial()" else network.to_serial())
            augmented = True
        else:
            recipe = case.recipe("penalty" if method == "relayed" else method, how)
            self.method = recipe.trained(data, Team(layer=Ranks(layer_mesh())))
            augmented = method == "relayed"
            self.method.begin_epoch(0 if augmented else 1)
        prepare = replace(recipe, augment="serial" if augmented else "none").prepare(data)
        self.batches = Batches(data, case.batch, torch.Generator().manual_seed(0), prepare)
        self.numbers = itertools.cycle(range(len(self.batches)))
        self.more = getattr(self.method, "wants_batch", False)
        self.method.network.train()

    def __call__(self) -> None:
        batch = self.batches[next(self.numbers)]
        self.method.step(batch.x, batch.y, **({"batch": batch} if self.more else {}))


class Filling:
    """A call begins a parallel phase: all images are propagated once, and what is met is kept."""

    def __init__(self, rank: int, case: Case) -> None:
        recipe = case.recipe("penalty", case.filter, hybrid="1:1", alternating=True)
        self.method: Any = recipe.trained(case.data(), Team(layer=Ranks(layer_mesh())))
        self.parallel = itertools.count(1, 2)  # every other epoch

    def __call__(self) -> None:
        self.method.begin_epoch(next(self.parallel))


def memory(case: Case, method: str, filter_: str) -> int:
    """Bytes of auxiliary variables and multipliers of one image."""
    return case.recipe(method, filter_).bytes_per_sample()
