"""What all recipes share: the options of a run, and the run they make."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
from torch import nn

from ..data.augment import Preparation
from ..data.base import Dataset
from ..data.sets import About, about
from ..errors import InputError
from ..group.team import Team
from ..runs import Phase, Run
from ..runs.evaluate import CLASSIFICATION, Task
from ..training.base import Method
from .options import Bound, Count, NotNegative, Positive, check_bounds

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Base(ABC):
    """Options of every recipe, whatever it trains and how.

    A recipe says which data, which network and which picture; it overrides what defaults do not suit it.
    """

    name: ClassVar[str]
    """What the command line calls the recipe."""
    data_set: ClassVar[str]
    """What `data.load` calls its samples."""
    sections: ClassVar[dict[str, str]] = {"epochs": "Training", "training": "Data", "seed": "Run"}
    """In the help an option named here begins a section, or goes on with one; the options below it in
    its class belong to it, too."""

    epochs: Count = 10
    """Epochs."""
    batch: Count = 128
    """Samples in a mini batch."""
    learning_rate: Positive = 0.1
    """Learning rate at the start."""
    training: Count | None = None
    """Training samples, drawn by the seed; all if not given."""
    validation: Count | None = None
    """Validation samples, drawn by the seed; all if not given. Of a published set with a test part they
    are its test samples."""
    seed: Annotated[int, Bound(least=0, most=2**32 - 1)] = 0
    """Seed of the data, the initial weights and the order of the mini batches."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of all states and parameters."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train; cuda has a GPU for every process."""
    threads: Annotated[int, Bound(least=1, most=1024)] = 1
    """Threads that PyTorch may use."""
    serial_epochs: Annotated[int, Bound(least=0)] = 0
    """Epochs for which the same network is then trained serially, to measure the ratio; on several
    ranks none."""
    evaluate_every: Count = 1
    """Epochs between two evaluations."""
    checkpoint_seconds: NotNegative = 60.0
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

        What cannot be made, or trained by them, `fits` has refused.
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
        self.fits(team)
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
        """Raises ValueError where an option is out of its bounds; reads and makes nothing."""
        check_bounds(self)
        known = self.known
        for half, most in (("training", known.training), ("validation", known.validation)):
            if most is not None and (getattr(self, half) or 0) > most:
                raise ValueError(f"{half} = {getattr(self, half)} is out of bounds: give 1 to {most}.")

    def fits(self, team: Team) -> None:
        """What else can be refused before the data are read.

        Raises:
            ValueError: no such network can be made.
            InputError: these processes cannot train it so, or there is no such device.
        """
        self.place  # noqa: B018  raises

    @property
    def known(self) -> About:
        """What is known of the samples before they are read."""
        return about(self.data_set)

    @classmethod
    def needs(cls) -> str:
        """In a few words, what data it needs."""
        known = cls().known
        return f"downloads {known.megabytes} MB" if known.comes == "downloaded" else known.comes

    @classmethod
    def remarks(cls) -> dict[str, str]:
        """Of options whose bounds come from elsewhere, what these are by default."""
        known = cls().known
        halves = {"training": known.training, "validation": known.validation}
        return {half: f"there are {most}" for half, most in halves.items() if most is not None}

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


def black(shape: tuple[int, ...], classes: int) -> Dataset:
    """One black image of this shape in each half, of so many classes."""
    image, label = torch.zeros((1, *shape), dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    return Dataset("black", image, label, image, label, tuple(map(str, range(classes))))


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
