"""Parareal neural networks on the published images, and on a folder of images such as ImageNet's."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from .. import data as data_sets
from ..data.augment import Augmentation
from ..data.base import Dataset
from ..errors import InputError
from ..group.team import Team
from ..runs import Phase
from .base import black, part
from .options import Count
from .parareal_network import Subnetworks


@dataclass(frozen=True)
class Cifar10Parareal(Subnetworks):
    """CIFAR-10 by subnetworks and a coarse network."""

    name: ClassVar[str] = "cifar10-parareal"
    data_set: ClassVar[str] = "cifar-10"


@dataclass(frozen=True)
class Cifar100Parareal(Subnetworks):
    """CIFAR-100 by subnetworks and a coarse network."""

    name: ClassVar[str] = "cifar100-parareal"
    data_set: ClassVar[str] = "cifar-100"


@dataclass(frozen=True)
class SvhnParareal(Subnetworks):
    """House numbers by subnetworks and a coarse network."""

    name: ClassVar[str] = "svhn-parareal"
    data_set: ClassVar[str] = "svhn"
    augmentation: ClassVar[Augmentation | None] = Augmentation(crop=4, flip=False)


@dataclass(frozen=True)
class MnistParareal(Subnetworks):
    """MNIST by subnetworks and a coarse network."""

    name: ClassVar[str] = "mnist-parareal"
    data_set: ClassVar[str] = "mnist"
    augmentation: ClassVar[Augmentation | None] = Augmentation(crop=2, flip=False)

    width: int = 8
    """Channels behind the first convolution; VGG-16 as published has 64."""


@dataclass(frozen=True)
class ImagenetParareal(Subnetworks):
    """ImageNet, or any folder of images, by subnetworks.

    A coarse network joins them. All images are in memory, 3 side^2 bytes each: 16 GB for the 1.28
    million of ImageNet with a side of 64 pixels.
    """

    name: ClassVar[str] = "imagenet-parareal"
    data_set: ClassVar[str] = "folder"
    sections: ClassVar[dict[str, str]] = {"images": "Data"}

    images: Path | None = None
    """Folder with train/ and val/, in which every class has a folder of image files."""
    side: Count = 64
    """Pixels to which images are scaled, high and wide."""
    family: Literal["resnet", "preactivation", "vgg"] = "vgg"
    """ResNet (He et al. 2015), one with pre-activation and bottlenecks (He et al. 2016), or VGG-16."""
    width: int = 64
    """Channels behind the first convolution; VGG-16 as published has 64."""

    @classmethod
    def needs(cls) -> str:
        return f"{super().needs()}: --images"

    def check(self) -> None:
        super().check()
        if self.images is None:
            raise InputError("There are no images to train with: give their folder by --images.")

    def fits(self, team: Team) -> None:
        untrained = replace(self, pretrained=None)  # as the classes are not known yet
        Subnetworks.fits(untrained, team)

    def stand_in(self) -> Dataset:
        return black((3, self.side, self.side), classes=2)

    def phases(self, data: Dataset, team: Team) -> tuple[Phase, ...]:
        if self.pretrained is not None:
            self.made(data)
        return super().phases(data, team)

    def load(self) -> Dataset:
        """The images of the folder, or as many of them as asked for."""
        assert self.images is not None
        whole = data_sets.load("folder", path=self.images, size=self.side, seed=self.seed)
        return part(whole, self.training, self.validation, self.seed)
