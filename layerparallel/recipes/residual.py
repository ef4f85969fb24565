"""Images classified by residual networks whose stages train at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from torch import nn
from torch.optim import SGD, Optimizer

from ..data.augment import Augmentation, Preparation
from ..data.base import Dataset
from ..models import resnet, wide_resnet
from ..network.network import Network
from . import pictures
from .options import Bound, Count, NotNegative
from .stages import Stages


@dataclass(frozen=True)
class Residual(Stages):
    """Options of recipes that class images by a ResNet or a wide one.

    SGD on the cross-entropy; serial epochs with augmented images. A recipe says which images.
    """

    augmentation: ClassVar[Augmentation] = Augmentation()
    """Crops and flips of training images."""
    sections: ClassVar[dict[str, str]] = {"family": "Network", "augment": "Training"}

    family: Literal["resnet", "wide"] = "resnet"
    """ResNet (He et al. 2015), or a wide one with pre-activation (Zagoruyko, Komodakis 2016)."""
    depth: Count = 20
    """Layers with weights: 6 n + 2 of a ResNet, 6 n + 4 of a wide one; n is 2 or more."""
    width: Count = 16
    """Channels behind the first convolution."""
    widen: Count = 4
    """Factor on the channels of all blocks of a wide network."""
    augment: Literal["none", "serial", "both"] = "serial"
    """Which epochs see random crops and flips: none, the serial ones, or the parallel ones, too."""
    momentum: Annotated[float, Bound(least=0, below=1)] = 0.9
    """Momentum of SGD."""
    decay: NotNegative = 1e-4
    """Weight decay."""

    def prepare(self, data: Dataset) -> Preparation:
        """Normalised by the training images, channel by channel, and augmented where wanted."""
        augmentation = None if self.augment == "none" else self.augmentation
        return Preparation.of(data, augmentation, self.torch_dtype)

    def network(self) -> Network:
        channels, classes, width = self.shape[0], self.known.classes, self.width
        if self.family == "resnet":
            return resnet(self.depth, classes, in_channels=channels, width=width)
        return wide_resnet(self.depth, self.widen, classes, in_channels=channels, width=width)

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """SGD over the parameters of a network or a stage."""
        return SGD(parameters, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.decay)

    @property
    def augmented(self) -> Literal["serial", "both"]:
        return "both" if self.augment == "both" else "serial"

    def picture(self, data: Dataset, network: nn.Module, folder: Path) -> None:
        """Images that the network misses, the surest first."""
        pictures.surest_misses(folder / "missed.png", data, network, self.prepare(data))
