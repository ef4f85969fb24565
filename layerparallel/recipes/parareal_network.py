"""What recipes of parareal neural networks share: images classed by parallel subnetworks."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from .. import data as data_sets
from ..data.augment import Augmentation, Preparation
from ..data.base import Dataset
from ..errors import InputError
from ..group.team import Team
from ..models import preactivation_resnet, resnet, vgg16
from ..network.network import Network
from ..parareal import PararealNetwork, parareal_network, warp
from ..runs import Phase, checkpoint
from ..runs.checkpoint import CheckpointError
from ..staged import Staged
from ..training.backprop import Backprop
from ..training.base import Method
from . import pictures
from .base import Base, black, channels_last, part
from .options import Bound, Count, NotNegative

VGG_SIDE = 32
"""Pixels that the five poolings of VGG-16 need; smaller images get a border."""


@dataclass(frozen=True)
class Subnetworks(Base):
    """Options of every recipe that trains a network in its parareal form, or what it is compared with.

    Lee, Lee, Park, "Parareal neural networks emulating a parallel-in-time algorithm", 2022. N
    subnetworks, one for each of N processes, or all on one, with the same numbers. SGD on the
    cross-entropy. The method "serial" is the network itself: on one process, with data-parallel ranks,
    or, on layer ranks, layer by layer, one rank after the other. A recipe says which images.
    """

    augmentation: ClassVar[Augmentation | None] = Augmentation()
    """Crops and flips of training images."""
    sections: ClassVar[dict[str, str]] = {
        "method": "Subnetworks",
        "family": "Network",
        "augment": "Training",
    }

    method: Literal["serial", "parareal", "warp"] = "parareal"
    """The network itself, its parareal form, or WarpNet's operator in place of its residual units."""
    subnetworks: Count = 2
    """Subnetworks N, of about the same cost."""
    cuts: tuple[Count, ...] = ()
    """Numbers of the pieces at which the network is cut instead, N-1 of them."""
    holders: Literal["every", "last"] = "every"
    """Which ranks have the coarse network and the postprocessing."""
    coarse_depth: Count = 1
    """Units of each coarse part F^j."""
    warp: Count = 2
    """Residual units K that WarpNet's operator takes at a time."""
    pretrained: Path | None = None
    """Run folder of serial training from whose network to begin; it has to stay while this run can be
    resumed."""
    family: Literal["resnet", "preactivation", "vgg"] = "resnet"
    """ResNet (He et al. 2015), one with pre-activation and bottlenecks (He et al. 2016), or VGG-16."""
    depth: Count = 56
    """Layers with weights: 6 n + 2 of a ResNet, 9 n + 2 with pre-activation; n is 2 or more. VGG-16 has
    its own."""
    width: Count = 16
    """Channels behind the first convolution; VGG-16 as published has 64."""
    augment: bool = True
    """Random crops and flips of training images."""
    momentum: Annotated[float, Bound(least=0, below=1)] = 0.9
    """Momentum of SGD."""
    decay: NotNegative = 1e-4
    """Weight decay."""
    rate: Literal["steps", "cosine"] = "steps"
    """How the learning rate falls: to a tenth after half and three quarters of the epochs, or as a
    cosine to 0."""

    # ---- the run --------------------------------------------------------------------------------

    def fits(self, team: Team) -> None:
        super().fits(team)
        ranks = team.layer.size
        if self.method == "warp" and ranks > 1:
            raise InputError(
                f"WarpNet's operator is for one layer rank, not {ranks}: use --layer-ranks 1."
            )
        if self.method == "parareal" and ranks > 1 and ranks != self.subnetworks:
            raise InputError(
                f"{self.subnetworks} subnetworks, one on each rank, do not fit {ranks} layer ranks: use "
                f"--layer-ranks {self.subnetworks}, or --subnetworks {ranks}."
            )
        self._made(self.stand_in(), team)

    def stand_in(self) -> Dataset:
        """Images like those of the data: a network can be made of them before the data are read."""
        return black(self.known.shape, self.known.classes)

    def load(self) -> Dataset:
        """The published images, or as many of them as asked for."""
        return part(data_sets.load(self.data_set), self.training, self.validation, self.seed)

    def prepare(self, data: Dataset) -> Preparation:
        """Normalised by the training images, channel by channel, and augmented where wanted."""
        return Preparation.of(data, self.augmentation if self.augment else None, self.torch_dtype)

    def phases(self, data: Dataset, team: Team) -> tuple[Phase, ...]:
        return (Phase(self.method, self.epochs, lambda _: self.trained(data, team)),)

    def picture(self, data: Dataset, network: nn.Module, folder: Path) -> None:
        """Images that the network misses, the surest first."""
        pictures.surest_misses(folder / "missed.png", data, network, self.prepare(data))

    # ---- the network ----------------------------------------------------------------------------

    def original(self, data: Dataset) -> Network | nn.Sequential:
        """The network with the weights of the seed.

        Raises:
            ValueError: there is none of this depth.
        """
        torch.manual_seed(self.seed)
        channels, classes = data.shape[0], len(data.classes)
        made: Network | nn.Sequential
        if self.family == "vgg":
            border = max(0, VGG_SIDE - min(data.shape[1:]) + 1) // 2
            made = vgg16(classes, in_channels=channels, width=self.width)
            if border:
                named = OrderedDict(border=nn.ZeroPad2d(border), **dict(made.named_children()))
                made = nn.Sequential(named)
        else:
            family = resnet if self.family == "resnet" else preactivation_resnet
            made = family(self.depth, classes, in_channels=channels, width=self.width)
        return made.to(self.place, self.torch_dtype)

    def made(self, data: Dataset) -> nn.Module:
        """The network as ordinary PyTorch, with the weights of the seed or of a run.

        Raises:
            InputError: the run has no checkpoint, or one of another network.
        """
        whole = self.original(data)
        plain = whole.to_serial() if isinstance(whole, Network) else whole
        if self.pretrained is not None:
            self._take_up(plain, Path(self.pretrained))
        return channels_last(plain)  # and so are new parts, which are copies

    def _take_up(self, network: nn.Module, folder: Path) -> None:
        found = checkpoint.latest(folder) if folder.is_dir() else None
        if found is None:
            raise CheckpointError(
                f"pretrained = {folder} has no whole checkpoint: give the folder of a serial run."
            )
        try:
            network.load_state_dict(found.state["network"])
        except (KeyError, RuntimeError) as error:
            raise InputError(
                f"pretrained = {folder} is a run of another network than {self.family} with depth = "
                f"{self.depth} and width = {self.width} for {self.data_set}: give one of this network, "
                "by method serial."
            ) from error

    def example(self, data: Dataset) -> Tensor:
        """One input of zeros."""
        return torch.zeros((1, *data.shape), dtype=self.torch_dtype, device=self.place)

    def parareal(self, data: Dataset) -> PararealNetwork:
        """The parareal form of the network.

        Raises:
            InputError: it cannot be cut so.
        """
        return parareal_network(
            self.made(data),
            self.subnetworks,
            self.example(data),
            cuts=self.cuts or None,
            coarse_depth=self.coarse_depth,
            seed=self.seed,
        )

    def _made(self, data: Dataset, team: Team) -> nn.Module:
        """What is trained; not distributed yet.

        Raises:
            InputError: it cannot be made or cut.
        """
        if self.method == "parareal":
            return self.parareal(data)
        if self.method == "warp":
            if self.family == "vgg":
                raise InputError("family = vgg has no residual units to warp: give resnet.")
            whole = self.original(data)
            assert isinstance(whole, Network)
            if self.pretrained is not None:
                self._take_up(whole, Path(self.pretrained))
            return warp(whole, self.warp)
        if team.layer.alone:
            return self.made(data)
        return Staged(self.made(data), team.layer.size, self.example(data))

    # ---- the training ---------------------------------------------------------------------------

    def trained(self, data: Dataset, team: Team | None = None) -> Method:
        """The method with a new network: this process's part of it."""
        team, network = team or Team(), self._made(data, team or Team())
        if isinstance(network, PararealNetwork):
            network.distribute(team.layer, self.holders)
        elif isinstance(network, Staged):
            network.distribute(team.layer)
        return self.backprop(data, network, team.wrapped(network))

    def serially(self, data: Dataset) -> Method:
        return self.backprop(data, self.made(data))

    def backprop(self, data: Dataset, network: nn.Module, model: nn.Module | None = None) -> Backprop:
        """SGD over a network's parameters."""
        optimizer = SGD(network.parameters(), self.learning_rate, self.momentum, weight_decay=self.decay)
        return Backprop(network, optimizer, self.task.loss, self.scheduler(data, optimizer), model)

    def scheduler(self, data: Dataset, optimizer: SGD) -> LRScheduler:
        """The learning rate of every mini batch."""
        steps = self.epochs * -(-len(data.train_y) // self.batch)
        if self.rate == "cosine":
            return CosineAnnealingLR(optimizer, steps)
        return MultiStepLR(optimizer, [max(1, steps // 2), max(1, 3 * steps // 4)], 0.1)
