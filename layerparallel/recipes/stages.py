"""What recipes of networks in stages share: residual networks trained by auxiliary variables."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from layerparallel import data as data_sets
from layerparallel.data.augment import Augmentation, Preparation
from layerparallel.data.base import Dataset
from layerparallel.distribution import distribute
from layerparallel.errors import InputError
from layerparallel.evaluate import logits
from layerparallel.models import resnet, wide_resnet
from layerparallel.network import Network
from layerparallel.recipes import pictures
from layerparallel.staged import Staged
from layerparallel.team import Team
from layerparallel.trainer import Phase, Run
from layerparallel.training.auxiliary import Auxiliary, AuxiliaryMethod, parse
from layerparallel.training.backprop import Backprop
from layerparallel.training.base import Method

AT_LEAST_ONE = ("width", "widen", "stages", "epochs", "batch", "threads", "evaluate_every")
AT_LEAST_ONE += ("checkpoint_every",)
POSITIVE = ("learning_rate", "beta", "budget", "checkpoint_seconds")
AT_LEAST_ZERO = ("momentum", "decay", "serial_start", "serial_epochs")
DROPS = 4
"""Equal parts of a training, from one to the next of which the rate "steps" falls to a tenth."""
PICTURE_IMAGES = 50


@dataclass(frozen=True)
class Stages:
    """Options of every recipe whose stages train at once, from auxiliary variables.

    Sun et al., "A Practical Layer-Parallel Training Algorithm for Residual Networks", 2021. The network
    is cut into K stages, one for each of K processes, or in turn on one, with the same numbers. Parallel
    epochs are followed by serial ones with augmented images. SGD on the cross-entropy. A recipe says
    which images; it overrides what defaults do not suit it.
    """

    name: ClassVar[str]
    """What the command line calls the recipe."""
    data_set: ClassVar[str]
    """What `data.load` calls its images."""
    shape: ClassVar[tuple[int, int, int]]
    """Of an image: channels, height, width."""
    classes: ClassVar[int] = 10
    """Outputs of the network."""
    augmentation: ClassVar[Augmentation] = Augmentation()
    """Crops and flips of training images."""

    family: Literal["resnet", "wide"] = "resnet"
    """ResNet (He et al. 2015), or a wide one with pre-activation (Zagoruyko, Komodakis 2016)."""
    depth: int = 20
    """Layers with weights: 6 n + 2 of a ResNet, 6 n + 4 of a wide one."""
    width: int = 16
    """Channels behind the first convolution."""
    widen: int = 4
    """Factor on the channels of all blocks of a wide network."""
    training: int | None = None
    """Training images, drawn by the seed; all if None."""
    validation: int | None = None
    """Test images, drawn by the seed; all if None."""
    augment: Literal["none", "serial", "both"] = "serial"
    """Which epochs see random crops and flips: none, the serial ones, or the parallel ones, too."""
    method: Literal["serial", "penalty", "augmented"] = "penalty"
    """Back-propagation, the penalty method, or the augmented Lagrangian."""
    stages: int = 2
    """Stages K, of about the same cost."""
    cut: tuple[int, ...] = ()
    """Numbers of the pieces at which the network is cut instead, K-1 of them."""
    filter: str = "pool:2"
    """How auxiliary variables are kept: none, pool:2, pool:4:bilinear or lowrank:8, each with +bf16 or
    +int8 behind it."""
    hybrid: str = "4:1"
    """Parallel to serial epochs, m:n; 1:0 has no serial ones but those at the start."""
    alternating: bool = False
    """m parallel and n serial epochs in turn, rather than the parallel ones first."""
    serial_start: int = 1
    """Serial epochs before the first parallel one; they count as serial ones."""
    beta: float = Auxiliary.beta
    """Weight of the constraints' violation."""
    beta_growth: float = Auxiliary.beta_growth
    """Factor by which beta grows with every parallel epoch."""
    scale: Literal["mean", "sum"] = Auxiliary.scale
    """Violations are means over a state, or sums as published."""
    state_rate: float | None = None
    """Learning rate of the auxiliary variables; None for a quarter of the largest there can be."""
    multiplier_rate: float = Auxiliary.multiplier_rate
    """Learning rate of the multipliers."""
    multiplier_step: Literal["derived", "printed"] = Auxiliary.multiplier_step
    """The multipliers' step by the method's derivation, or as printed in the paper."""
    budget: float = 4.0
    """GB of memory that a process may take for auxiliary variables."""
    folder: Path | None = None
    """Folder for auxiliary variables beyond the budget; without one they are refused."""
    keep: Literal["host", "device"] = "host"
    """Which memory has them: the host's, or, on a GPU with room for them, its own."""
    epochs: int = 10
    """Epochs, parallel and serial ones."""
    batch: int = 128
    """Images in a mini batch."""
    learning_rate: float = 0.1
    """Learning rate at the start."""
    rate: Literal["steps", "cosine"] = "steps"
    """How it falls: to a tenth after every quarter of the epochs, or as a cosine to 0."""
    momentum: float = 0.9
    """Of SGD."""
    decay: float = 1e-4
    """Weight decay."""
    seed: int = 0
    """Seed of the initial weights, the order of the images, their crops and flips."""
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
    checkpoint_every: int = 5
    """Epochs between two checkpoints."""
    checkpoint_seconds: float = 300.0
    """Seconds after which a checkpoint is due within an epoch, too."""

    # ---- the run --------------------------------------------------------------------------------

    def build(self, team: Team | None = None) -> Run:
        """The run with these options.

        Args:
            team: the processes that are to do it, as many as stages; this one alone if None.

        Raises:
            ValueError: an option is out of its bounds.
            InputError: the data cannot be had, or the network cannot be cut so.
        """
        self.check()
        team = team or Team()
        if not team.data.alone and self.method != "serial":
            raise InputError(
                f"Auxiliary variables belong to one process per stage, and there are {team.data.size} "
                "data-parallel ranks: use as many layer ranks as processes."
            )
        stored = self.load()
        self.bytes_per_sample()  # what cannot be cut, or kept, is said before anything begins
        data = stored.to(self._place)
        return Run(
            recipe=self.name,
            options=self,
            data=data,
            phases=(Phase(self.method, self.epochs, lambda _: self.trained(data, team)),),
            batch=self.batch,
            seed=self.seed,
            threads=self.threads,
            evaluate_every=self.evaluate_every,
            checkpoint_every=self.checkpoint_every,
            checkpoint_seconds=self.checkpoint_seconds,
            serial=lambda: self.backprop(data, self.made().to_serial()),
            serial_epochs=self.serial_epochs,
            prepare=self.prepare(data),
            picture=partial(self.picture, stored),
            team=team,
        )

    def check(self) -> None:
        """Raises ValueError, one sentence, where an option is out of its bounds."""
        for name in AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} is below 1: give at least 1.")
        for name in POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)} is not a positive number: give one.")
        for name in AT_LEAST_ZERO:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)} is below 0: give at least 0.")
        if self.method != "serial":
            self.settings()

    def load(self) -> Dataset:
        """The published images, or as many of them as asked for."""
        whole = data_sets.load(self.data_set)
        if self.training is None and self.validation is None:
            return whole
        training = len(whole.train_y) if self.training is None else self.training
        validation = len(whole.validation_y) if self.validation is None else self.validation
        return whole.part(training, validation, self.seed)

    def prepare(self, data: Dataset) -> Preparation:
        """Normalised by the training images, channel by channel, and augmented where wanted."""
        augmentation = None if self.augment == "none" else self.augmentation
        dtype = torch.float32 if self.dtype == "float32" else torch.float64
        return Preparation.of(data, augmentation, dtype)

    @property
    def _place(self) -> torch.device:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("There is no GPU that PyTorch can use here: leave out --device cuda.")
        return torch.device(self.device)

    # ---- the network ----------------------------------------------------------------------------

    def made(self) -> Network:
        """The network with the weights of the seed.

        Raises:
            ValueError: there is none of this depth.
        """
        torch.manual_seed(self.seed)
        channels, classes, width = self.shape[0], self.classes, self.width
        if self.family == "resnet":
            network = resnet(self.depth, classes, in_channels=channels, width=width)
        else:
            network = wide_resnet(self.depth, self.widen, classes, in_channels=channels, width=width)
        dtype = torch.float32 if self.dtype == "float32" else torch.float64
        return network.to(self._place, dtype)

    def staged(self) -> Staged:
        """The network in its stages.

        Raises:
            InputError: it has no such stages.
        """
        network = self.made()
        parameter = next(network.parameters())
        return Staged(network, self.cut or self.stages, parameter.new_zeros(1, *self.shape))

    def bytes_per_sample(self) -> int:
        """Bytes kept of one training sample, of all interfaces together; 0 of serial training.

        Raises:
            ValueError: the network cannot be made or cut, or the filter does not fit a state.
        """
        if self.method == "serial":
            self.made()
            return 0
        staged, found = self.staged().eval(), 0
        state: Tensor = next(staged.parameters()).new_zeros(1, *self.shape)
        filter_, kinds = parse(self.filter), 2 if self.method == "augmented" else 1
        with torch.no_grad():
            for k in range(staged.count - 1):
                state = staged.stage(k)(state)
                found += kinds * filter_.bytes(tuple(state.shape[1:]), state.dtype)
        return found

    # ---- the training ---------------------------------------------------------------------------

    def trained(self, data: Dataset, team: Team | None = None) -> Method:
        """The method with a new network: this process's part of it."""
        team = team or Team()
        if self.method == "serial":
            whole = self.made()
            alone = team.layer.alone
            network = whole.to_serial() if alone else distribute(whole, team.layer)
            return self.backprop(data, network, team.wrapped(network))
        prepare = self.prepare(data)
        return AuxiliaryMethod(
            self.staged().distribute(team.layer),
            self.settings(),
            nn.functional.cross_entropy,
            self.optimizer,
            lambda index: prepare(data.train_x[index.to(data.train_x.device)]),
            len(data.train_y),
            partial(self.scheduler, data),
            self.batch,
            self.folder,
            "cpu" if self.keep == "host" else self._place,
        )

    def backprop(self, data: Dataset, network: nn.Module, model: nn.Module | None = None) -> Backprop:
        """Serial training of a network."""
        optimizer = self.optimizer(list(network.parameters()))
        return Backprop(
            network, optimizer, nn.functional.cross_entropy, self.scheduler(data, optimizer), model
        )

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """SGD over the parameters of a network or a stage."""
        return SGD(parameters, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.decay)

    def scheduler(self, data: Dataset, optimizer: Optimizer) -> LRScheduler:
        """The learning rate of every mini batch."""
        steps = self.epochs * -(-len(data.train_y) // self.batch)
        if self.rate == "cosine":
            return CosineAnnealingLR(optimizer, steps)
        return StepLR(optimizer, max(1, -(-steps // DROPS)), 0.1)

    def settings(self) -> Auxiliary:
        """Those of the method with auxiliary variables.

        Raises:
            InputError: an option is out of its bounds, or there are too few epochs for the hybrid.
        """
        parallel, serial = self._hybrid()
        return Auxiliary(
            stages=self.cut or self.stages,
            method="augmented" if self.method == "augmented" else "penalty",
            beta=self.beta,
            beta_growth=self.beta_growth,
            filter=self.filter,
            scale=self.scale,
            multiplier_step=self.multiplier_step,
            state_rate=self.state_rate,
            multiplier_rate=self.multiplier_rate,
            budget=int(self.budget * 1e9),
            serial_start=self.serial_start,
            parallel=parallel,
            serial=serial,
            schedule="alternating" if self.alternating else "first",
            augment="both" if self.augment == "both" else "serial",
        )

    def _hybrid(self) -> tuple[int | None, int]:
        """Parallel epochs, None for all, and the serial ones that follow them.

        Where the parallel ones come first, their share of all epochs is m/(m + n).
        """
        m, colon, n = self.hybrid.partition(":")
        if not (colon and m.isdigit() and n.isdigit() and int(m)):
            raise InputError(
                f"hybrid = {self.hybrid!r} is no ratio of parallel to serial epochs: give such as 4:1."
            )
        parallel, serial = int(m), int(n)
        if not serial:
            parallel = None
        elif not self.alternating:
            left = self.epochs - self.serial_start - 1  # the last is serial
            parallel = min(round(self.epochs * parallel / (parallel + serial)), left)
        if self.epochs <= self.serial_start or (parallel is not None and parallel < 1):
            raise InputError(
                f"{self.epochs} epochs are too few for {self.serial_start} serial ones at the start and "
                f"a hybrid of {self.hybrid}: give at least {self.serial_start + 1 + bool(serial)}."
            )
        return parallel, serial

    # ---- pictures -------------------------------------------------------------------------------

    def picture(self, data: Dataset, network: nn.Module, folder: Path) -> None:
        """Images that the network misses, the surest first."""
        output = logits(network.cpu(), data.validation_x, prepare=self.prepare(data))
        sureness, found = output.softmax(dim=-1).max(dim=-1)
        wrong = torch.nonzero(found != data.validation_y).squeeze(1)
        shown = wrong[sureness[wrong].argsort(descending=True)][:PICTURE_IMAGES]
        pictures.missed(
            folder / "missed.png",
            data.validation_x[shown].numpy(),
            data.validation_y[shown].numpy(),
            found[shown].numpy(),
            data.classes,
            title=f"{len(wrong)} of {len(found)} test images missed; the surest first",
        )
