"""What all recipes share: the options of a run, and the run they make."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import nn

from ..data.augment import Preparation
from ..data.base import Dataset
from ..errors import InputError
from ..group.team import Team
from ..runs import Phase, Run
from ..runs.evaluate import CLASSIFICATION, Task
from ..training.base import Method

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Base(ABC):
    """Options of every recipe, whatever it trains and how.

    A recipe says which data, which network and which picture; it overrides what defaults do not suit it.
    """

    name: ClassVar[str]
    """What the command line calls the recipe."""
    counts: ClassVar[tuple[str, ...]] = ()
    """Options of its own that are at least 1."""

    epochs: int = 10
    """Epochs."""
    batch: int = 128
    """Samples in a mini batch."""
    learning_rate: float = 0.1
    """Learning rate at the start."""
    seed: int = 0
    """Seed of the data, the initial weights and the order of the mini batches."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of all states and parameters."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train; cuda has a GPU for every process."""
    threads: int = 1
    """Threads that PyTorch may use."""
    serial_epochs: int = 0
    """Epochs for which the same network is then trained serially, to measure the ratio; on several
    ranks none."""
    evaluate_every: int = 1
    """Epochs between two evaluations."""
    checkpoint_seconds: float = 60.0
    """Seconds from one checkpoint to the next, which is what a kill loses at most; longer where writing
    one takes over a twentieth of that. 0 writes one after every step."""

    # ---- what a recipe says ---------------------------------------------------------------------

    @abstractmethod
    def load(self) -> Dataset:
        """The samples, drawn or read."""

    @abstractmethod
    def prepare(self, data: Dataset) -> Preparation:
        """How stored samples become inputs."""

    @abstractmethod
    def phases(self, data: Dataset, team: Team) -> tuple[Phase, ...]:
        """What is trained one after the other, by these processes.

        Raises:
            ValueError: no such network can be made, or these processes cannot train it so.
        """

    @abstractmethod
    def serially(self, data: Dataset) -> Method:
        """Ordinary training of the same network."""

    @abstractmethod
    def picture(self, data: Dataset, network: nn.Module, folder: Path) -> None:
        """Draw what only this recipe knows how to draw."""

    @property
    def task(self) -> Task:
        """What the network is for."""
        return CLASSIFICATION

    # ---- the run --------------------------------------------------------------------------------

    def build(self, team: Team | None = None) -> Run:
        """The run with these options.

        Args:
            team: the processes that are to do it; this one alone if None.

        Raises:
            ValueError: an option is out of its bounds.
            InputError: the data cannot be had, or the processes cannot do it.
        """
        team = team or Team()
        self.check()
        stored = self.load()
        data = stored.to(self.place) if self.device != "cpu" else stored
        return Run(
            recipe=self.name,
            options=self,
            data=data,
            phases=self.phases(data, team),
            batch=self.batch,
            seed=self.seed,
            threads=self.threads,
            evaluate_every=self.evaluate_every,
            checkpoint_seconds=self.checkpoint_seconds,
            serial=partial(self.serially, data),
            serial_epochs=self.serial_epochs,
            prepare=self.prepare(data),
            task=self.task,
            picture=partial(self._draw, stored),
            team=team,
        )

    def check(self) -> None:
        """Raises ValueError, one sentence, where an option is out of its bounds."""
        bounded(
            self,
            at_least_one=(
                "epochs",
                "batch",
                "threads",
                "evaluate_every",
                *self.counts,
            ),
            positive=("learning_rate",),
            at_least_zero=("serial_epochs", "checkpoint_seconds"),
        )

    @property
    def torch_dtype(self) -> torch.dtype:
        """Precision of all states and parameters."""
        return torch.float32 if self.dtype == "float32" else torch.float64

    @property
    def place(self) -> torch.device:
        """This process's device.

        Raises:
            InputError: there is none of this kind.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("There is no GPU that PyTorch can use here: leave out --device cuda.")
        return torch.device(self.device)

    def _draw(self, data: Dataset, network: nn.Module, folder: Path) -> None:
        self.picture(data, network.cpu(), folder)


def bounded(
    options: Base,
    at_least_one: tuple[str, ...] = (),
    positive: tuple[str, ...] = (),
    at_least_zero: tuple[str, ...] = (),
) -> None:
    """Raises ValueError, one sentence, where one of these options is out of its bounds."""
    for name in at_least_one:
        if getattr(options, name) < 1:
            raise ValueError(f"{name} = {getattr(options, name)} is below 1: give at least 1.")
    for name in positive:
        if not 0 < getattr(options, name) < math.inf:
            raise ValueError(f"{name} = {getattr(options, name)} is not a positive number: give one.")
    for name in at_least_zero:
        if not 0 <= getattr(options, name) < math.inf:
            raise ValueError(
                f"{name} = {getattr(options, name)} is not a number of at least 0: give one."
            )


def part(whole: Dataset, training: int | None, validation: int | None, seed: int) -> Dataset:
    """So many samples of each half, drawn by the seed; all of a half where None.

    Raises:
        InputError: there are not as many.
    """
    if training is None and validation is None:
        return whole
    if training is None:
        training = len(whole.train_y)
    if validation is None:
        validation = len(whole.validation_y)
    return whole.part(training, validation, seed)


def channels_last(network: Module) -> Module:
    """With weights of 2-d convolutions channels-last; their states then are so, too.

    On a CPU, with few channels, that takes a tenth to a quarter less time.
    """
    placed: Any = network  # the types of `Module.to` lack memory formats
    return placed.to(memory_format=torch.channels_last)
