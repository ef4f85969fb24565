"""One network, and how each family trains it: the same images, weights, optimiser and learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from case import Case, multigrid
from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

import layerparallel as lp
from layerparallel import data as data_sets
from layerparallel.data.augment import Preparation
from layerparallel.data.base import Dataset
from layerparallel.group.team import Team
from layerparallel.parareal import parareal_network
from layerparallel.recipes.base import Base, part
from layerparallel.recipes.options import Count
from layerparallel.runs import Phase
from layerparallel.staged import Staged
from layerparallel.training.auxiliary import Auxiliary, AuxiliaryMethod
from layerparallel.training.backprop import Backprop
from layerparallel.training.base import Method

Name = Literal["serial", "mgrit", "penalty", "augmented", "parareal"]
PARALLEL = 0.8
"""Share of a hybrid's epochs in which its stages train at once; the rest, behind them, are serial."""


@dataclass(frozen=True)
class Families(Base):
    """CIFAR-10 by a chain of residual layers, trained by one of the families.

    The numbers are those of so many ranks, on however many processes they are computed.
    """

    name: ClassVar[str] = "families"
    data_set: ClassVar[str] = "cifar-10"

    method: Name = "serial"
    """Who trains it. Pipelines and data parallelism are exact: their numbers are those of "serial"."""
    ranks: Count = 2
    """Over which the method shares the network."""
    interval: Count = 16
    """Layers in an interval of multigrid."""
    levels: Count = 2
    """Of multigrid."""
    holders: Literal["every", "last"] = "every"
    """Ranks that have the coarse network of a parareal network."""
    form: Literal["Serial()", "eager"] = "eager"
    """Of serial training: the library's closed form of a layer, or the plain module."""
    depth: Count = Case.depth
    """Layers."""
    channels: Count = Case.channels
    """Of every state."""
    side: Count = Case.side
    """Of every state, in pixels; images have twice as many."""
    T: float = Case.T
    """Final time: the step size is T/N."""
    training: int | None = 10_000
    """Training images, drawn by the seed."""
    validation: int | None = None
    """Test images; all if not given."""
    batch: int = Case.batch
    """Images in a mini batch."""
    learning_rate: float = 5e-3
    """Peak of the one-cycle rate of Adam."""
    filter: str = "pool:2:bilinear+int8"
    """How auxiliary variables are kept."""

    # ---- the network ----------------------------------------------------------------------------

    @property
    def case(self) -> Case:
        """What is trained."""
        return Case(self.depth, self.channels, self.side, self.batch, self.T, seed=self.seed)

    def trained(self, data: Dataset, team: Team | None = None) -> Method:
        """The method with a new network: this process's part of it."""
        team, case = team or Team(), self.case
        if self.method in ("serial", "mgrit"):
            solver = multigrid(self.depth, self.interval, self.levels)
            if self.method == "serial" and self.form == "eager":
                return self.backprop(data, case.plain(), team)
            whole = case.network(solver if self.method == "mgrit" else None)
            if not team.layer.alone:
                lp.distribute(whole, team.layer)
            return self.backprop(data, whole, team)
        example = self.prepare(data)(data.train_x[:1])
        if self.method == "parareal":
            network = parareal_network(case.plain(), self.ranks, example, seed=self.seed)
            return self.backprop(data, network.distribute(team.layer, self.holders), team)
        prepare = self.prepare(data)
        return AuxiliaryMethod(
            Staged(case.plain(), self.ranks, example).distribute(team.layer),
            self.settings,
            self.task.loss,
            self.optimizer,
            lambda index: prepare(data.train_x[index.to(data.train_x.device)]),
            len(data.train_y),
            lambda optimizer: self.scheduler(data, optimizer),
            self.batch,
        )

    def backprop(self, data: Dataset, network: nn.Module, team: Team) -> Backprop:
        """Ordinary training of whatever network."""
        optimizer = self.optimizer(list(network.parameters()))
        scheduler = self.scheduler(data, optimizer)
        return Backprop(network, optimizer, self.task.loss, scheduler, team.wrapped(network))

    @property
    def settings(self) -> Auxiliary:
        """Those of the methods with auxiliary variables: multipliers by the adjoint's estimate."""
        return Auxiliary(
            stages=self.ranks,
            method="penalty" if self.method == "penalty" else "augmented",
            filter=self.filter,
            multiplier_step="estimated",
            serial_start=0,
            parallel=self.parallel_epochs,
            serial=max(1, self.epochs - self.parallel_epochs),
            schedule="first",
        )

    @property
    def parallel_epochs(self) -> int:
        """Of a hybrid."""
        return max(1, min(round(PARALLEL * self.epochs), self.epochs - 1))

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """Adam with a short memory of squared gradients."""
        return Adam(parameters, self.learning_rate, betas=(0.9, 0.99), fused=True)

    def scheduler(self, data: Dataset, optimizer: Optimizer) -> LRScheduler:
        """One cycle over all mini batches."""
        steps = self.epochs * -(-len(data.train_y) // self.batch)
        return OneCycleLR(optimizer, self.learning_rate, total_steps=steps)

    # ---- the run --------------------------------------------------------------------------------

    def check(self) -> None:
        super().check()
        if self.method in ("penalty", "augmented") and self.epochs < 2:
            raise ValueError(f"epochs = {self.epochs} is too few for a hybrid: give at least 2.")

    def load(self) -> Dataset:
        return part(data_sets.load("cifar-10"), self.training, self.validation, self.seed)

    def prepare(self, data: Dataset) -> Preparation:
        """Normalised, and not augmented: auxiliary variables belong to images as they are."""
        return Preparation.of(data, None, self.torch_dtype)

    def phases(self, data: Dataset, team: Team) -> tuple[Phase, ...]:
        return (Phase(self.method, self.epochs, lambda _: self.trained(data, team)),)

    def serially(self, data: Dataset) -> Method:
        return self.backprop(data, self.case.plain(), Team())

    def picture(self, data: Dataset, network: nn.Module, folder: Path) -> None:
        """None."""

    def options(self) -> dict[str, Any]:
        """What makes two runs comparable: all that does not say who trains, how long, and where."""
        shared = ("depth", "channels", "side", "T", "training", "validation", "batch", "learning_rate")
        return {name: getattr(self, name) for name in shared}
