"""What recipes of networks in stages share: how they are trained by auxiliary variables."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from .. import data as data_sets
from ..data.base import Dataset
from ..errors import InputError
from ..group.team import Team
from ..network.distribution import distribute
from ..network.network import Network
from ..runs import Phase
from ..staged import Staged
from ..training.auxiliary import Auxiliary, AuxiliaryMethod, parse
from ..training.backprop import Backprop
from ..training.base import Method
from .base import Base, part
from .options import Bound, Count, Positive

DROPS = 4
"""Equal parts of a training, from one to the next of which the rate "steps" falls to a tenth."""


@dataclass(frozen=True)
class Stages(Base):
    """Options of every recipe whose stages train at once, from auxiliary variables.

    Sun et al., "A Practical Layer-Parallel Training Algorithm for Residual Networks", 2021. The network
    is cut into K stages, one for each of K processes, or in turn on one, with the same numbers. Parallel
    epochs are followed by serial ones. A recipe says which images, which network and which optimiser;
    it overrides what defaults do not suit it.
    """

    sections: ClassVar[dict[str, str]] = {
        "method": "Stages",
        "filter": "Auxiliary variables",
        "hybrid": "Parallel and serial epochs",
        "beta": "Auxiliary variables",
        "rate": "Training",
    }

    method: Literal["serial", "penalty", "augmented"] = "augmented"
    """Back-propagation, the penalty method, or the augmented Lagrangian."""
    stages: Count = 2
    """Stages K, of about the same cost."""
    cut: tuple[Count, ...] = ()
    """Numbers of the pieces at which the network is cut instead, K-1 of them."""
    filter: str = "pool:2:bilinear+int8"
    """How auxiliary variables are kept: none, pool:2, pool:4:bilinear or lowrank:8, each with +bf16 or
    +int8 behind it."""
    hybrid: str = "4:1"
    """Parallel to serial epochs, m:n; 1:0 has no serial ones but those at the start."""
    alternating: bool = False
    """m parallel and n serial epochs in turn, rather than the parallel ones first."""
    serial_start: Annotated[int, Bound(least=0)] = 0
    """Serial epochs before the first parallel one; they count as serial ones."""
    beta: Positive = Auxiliary.beta
    """Weight of the constraints' violation."""
    beta_growth: Annotated[float, Bound(least=1)] = Auxiliary.beta_growth
    """Factor by which beta grows with every parallel epoch."""
    scale: Literal["mean", "sum"] = Auxiliary.scale
    """Violations are means over a state, or sums as published."""
    state_rate: Positive | None = None
    """Learning rate of the auxiliary variables; if not given a quarter of the largest there can be, or
    half of it where multipliers are estimated."""
    multiplier_rate: Positive | None = Auxiliary.multiplier_rate
    """Learning rate of the multipliers; if not given 0.3 of estimated ones and 0.1 of others."""
    multiplier_step: Literal["estimated", "derived", "printed"] = Auxiliary.multiplier_step
    """The multipliers' step: to the adjoint's estimate, by the method's derivation, or as printed in the
    paper."""
    regenerate: bool = False
    """Small networks make auxiliary variables from the images; none are stored. They need a larger beta:
    1000, say."""
    budget: Positive = 4.0
    """GB of memory that a process may take for auxiliary variables."""
    folder: Path | None = None
    """Folder for auxiliary variables beyond the budget; without one they are refused."""
    keep: Literal["host", "device"] = "host"
    """Which memory has them: the host's, or, on a GPU with room for them, its own."""
    rate: Literal["steps", "cosine"] = "cosine"
    """How the learning rate falls: to a tenth after every quarter of the epochs, or as a cosine to 0."""

    # ---- what a recipe says ---------------------------------------------------------------------

    @abstractmethod
    def network(self) -> Network:
        """The network with fresh weights.

        Raises:
            ValueError: there is none of this depth.
        """

    @abstractmethod
    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """The optimiser of a network or a stage."""

    @property
    def augmented(self) -> Literal["serial", "both"]:
        """Which epochs see augmented images, if any are."""
        return "serial"

    # ---- the run --------------------------------------------------------------------------------

    def check(self) -> None:
        super().check()
        if self.method != "serial":
            self.settings().beta_in(self.epochs - 1)  # which may have grown beyond all numbers

    def fits(self, team: Team) -> None:
        super().fits(team)
        if not team.data.alone and self.method != "serial":
            raise InputError(
                f"Auxiliary variables belong to one process per stage, and there are {team.data.size} "
                "data-parallel ranks: use as many layer ranks as processes."
            )
        self.bytes_per_sample()  # what cannot be made, cut or kept

    @classmethod
    def remarks(cls) -> dict[str, str]:
        least = f"at least {cls().least_epochs} with this serial start and hybrid"
        return super().remarks() | {"epochs": least}

    def load(self) -> Dataset:
        """The published images, or as many of them as asked for."""
        return part(data_sets.load(self.data_set), self.training, self.validation, self.seed)

    def phases(self, data: Dataset, team: Team) -> tuple[Phase, ...]:
        return (Phase(self.method, self.epochs, lambda _: self.trained(data, team)),)

    # ---- the network ----------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image: channels, height, width."""
        return self.known.shape

    def made(self) -> Network:
        """The network with the weights of the seed."""
        torch.manual_seed(self.seed)
        return self.network().to(self.place, self.torch_dtype)

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
        return 0 if self.regenerate else found

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
            self.task.loss,
            self.optimizer,
            lambda index: prepare(data.train_x[index.to(data.train_x.device)]),
            len(data.train_y),
            partial(self.scheduler, data),
            self.batch,
            self.folder,
            "cpu" if self.keep == "host" else self.place,
        )

    def serially(self, data: Dataset) -> Method:
        return self.backprop(data, self.made().to_serial())

    def backprop(self, data: Dataset, network: nn.Module, model: nn.Module | None = None) -> Backprop:
        """Serial training of a network."""
        optimizer = self.optimizer(list(network.parameters()))
        return Backprop(network, optimizer, self.task.loss, self.scheduler(data, optimizer), model)

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
            augment=self.augmented,
            regenerate=self.regenerate,
        )

    @property
    def least_epochs(self) -> int:
        """Fewest epochs with a parallel one among them, and a serial one where the hybrid has some.

        Raises:
            InputError: the hybrid is none.
        """
        if self.method == "serial":
            return 1
        m, n = self._ratio()
        if not n or self.alternating:
            return self.serial_start + 1
        return max(self.serial_start + 2, (m + n) // (2 * m) + 1)  # of which the share m rounds to 1

    def _ratio(self) -> tuple[int, int]:
        """Parallel to serial epochs."""
        m, colon, n = self.hybrid.partition(":")
        if not (colon and m.isdecimal() and n.isdecimal() and int(m)):
            raise InputError(
                f"hybrid = {self.hybrid!r} is no ratio of parallel to serial epochs: give such as 4:1."
            )
        return int(m), int(n)

    def _hybrid(self) -> tuple[int | None, int]:
        """Parallel epochs, None for all, and the serial ones that follow them.

        Where the parallel ones come first, their share of all epochs is m/(m + n).
        """
        m, n = self._ratio()
        if self.epochs < self.least_epochs:
            raise InputError(
                f"epochs = {self.epochs} is below {self.least_epochs}, the least with serial_start = "
                f"{self.serial_start} and hybrid = {self.hybrid}: give at least {self.least_epochs}, or "
                "change these two."
            )
        if not n or self.alternating:
            return (m if n else None), n
        left = self.epochs - self.serial_start - 1  # the last is serial
        return min(round(self.epochs * m / (m + n)), left), n
