"""Training steps of all methods: on real processes, timed and weighed; on ranks in virtual time."""

from __future__ import annotations

import ctypes
import gc
import itertools
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from baselines import CompiledBlocks
from families_recipe import Families
from layered import layer_mesh
from pipelines import Pipeline
from random_images import random_images

from layerparallel.data.base import Dataset
from layerparallel.data.batches import Batches
from layerparallel.group import Group, Link, virtual
from layerparallel.group.ranks import Ranks
from layerparallel.group.team import Team
from layerparallel.runs.shares import share

MIB = 2**20


def images(recipe: Families) -> Dataset:
    """Random ones, as many as the recipe trains on."""
    assert recipe.training is not None
    return random_images(recipe.training)


class Step:
    """A call is one training step: the making of a batch, forward, backward, exchange, update.

    Args:
        recipe: whose method it is.
        data: the images.
        team: the processes.
        relayed: the step of a serial epoch of a hybrid, in which one stage waits for the other.
    """

    def __init__(self, recipe: Families, data: Dataset, team: Team, relayed: bool = False) -> None:
        self.method: Any = recipe.trained(data, team)
        self.more = getattr(self.method, "wants_batch", False)
        if self.more:
            self.method.begin_epoch(recipe.parallel_epochs if relayed else 0)
        generator = torch.Generator().manual_seed(0)
        batches = Batches(data, recipe.batch, generator, recipe.prepare(data))
        self.batches = share(batches, team.data)
        self.numbers = itertools.cycle(range(len(self.batches)))
        self.method.network.train()

    def __call__(self) -> None:
        batch = self.batches[next(self.numbers)]
        self.method.step(batch.x, batch.y, **({"batch": batch} if self.more else {}))


class Piped(Pipeline):
    """A step by `torch.distributed.pipelining`, the batches as everywhere, Adam on either stage."""

    def __init__(self, rank: int, recipe: Families, schedule: str, microbatches: int, closed: bool):
        super().__init__(rank, recipe.case, schedule, microbatches, closed)
        data = images(recipe)
        generator = torch.Generator().manual_seed(0)
        self.batches = Batches(data, recipe.batch, generator, recipe.prepare(data))
        self.numbers = itertools.cycle(range(len(self.batches)))
        self.optimizer = recipe.optimizer(list(self.module.parameters()))

    def __call__(self) -> None:
        batch = self.batches[next(self.numbers)]
        self.x, self.y = batch.x, batch.y
        super().__call__()
        self.optimizer.step()


class Compiled(Step):
    """Serial training with blocks of layers that are compiled as one function."""

    def __init__(self, recipe: Families, data: Dataset) -> None:
        super().__init__(replace(recipe, form="eager"), data, Team())
        plain = self.method.network
        self.method.model = CompiledBlocks(plain)


class Fill:
    """A call begins a parallel phase: all images are propagated once."""

    def __init__(self, recipe: Families, data: Dataset, team: Team) -> None:
        self.make = partial(recipe.trained, data, team)

    def __call__(self) -> None:
        method: Any = self.make()
        method.begin_epoch(0)


def on_processes(rank: int, recipe: Families, kind: str, what: str = "step") -> Any:
    """What this process does of a method.

    Args:
        recipe: the method.
        kind: what the processes are: "alone", "layer" ranks or "data"-parallel ones.
        what: "step", "relayed", "fill", or "compiled".
    """
    torch.set_num_threads(1)
    team, data = Team(), images(recipe)
    if kind == "layer":
        team = Team(layer=Ranks(layer_mesh()))
    elif kind == "data":
        team = Team(data=Ranks(layer_mesh(), Link(0.0, 0.0)))
    if what == "compiled":
        return Compiled(recipe, data)
    if what == "fill":
        return Fill(recipe, data, team)
    return Step(recipe, data, team, what == "relayed")


# ---- memory -------------------------------------------------------------------------------------


class Weighed:
    """A step, and the memory that the process then needs beyond what it had before.

    In a process that has done nothing else yet; a smaller step goes before, so that code is there.
    """

    def __init__(self, rank: int, make: Any, small: tuple[Any, ...], whole: tuple[Any, ...]) -> None:
        first = make(rank, *small)
        first()
        del first
        self.before = resident()
        self.step = make(rank, *whole)

    def __call__(self) -> None:
        self.step()

    def peak(self) -> float:
        """MiB at the peak of all calls so far, over what there was before."""
        return _status("VmHWM") - self.before


def resident() -> float:
    """MiB that the process has now; the peak counts from here on."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


# ---- virtual time -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Foreseen:
    """A step on ranks in virtual time: milliseconds, and the most bytes that a rank sends."""

    milliseconds: float
    bytes: int


def foreseen(recipe: Families, link: Link, rounds: int, what: str = "step") -> Foreseen:
    """A step on the recipe's ranks, each with one thread and a core of its own."""
    data = images(recipe)

    def step(member: Group) -> None:
        assert isinstance(member, virtual.Member)
        torch.set_num_threads(1)
        team = Team() if recipe.ranks == 1 else Team(layer=member)
        if what == "fill":
            member.timed(Fill(recipe, data, team), 1)
        else:
            member.timed(Step(recipe, data, team, what == "relayed"), rounds)

    found = virtual.run(recipe.ranks, step, link)
    return Foreseen(1e3 * found.seconds, max(each.bytes for each in found.statistics))
