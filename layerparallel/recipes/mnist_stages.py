"""MNIST by a residual network whose stages train at once."""

from dataclasses import dataclass
from typing import ClassVar

from ..data.augment import Augmentation
from .residual import Residual


@dataclass(frozen=True)
class MnistStages(Residual):
    """MNIST by a ResNet whose stages train at once.

    They do so from auxiliary variables, by the method of Sun et al. 2021.
    """

    name: ClassVar[str] = "mnist-stages"
    data_set: ClassVar[str] = "mnist"
    augmentation: ClassVar[Augmentation] = Augmentation(crop=2, flip=False)

    depth: int = 14
    """Layers with weights: 6 n + 2 of a ResNet, 6 n + 4 of a wide one; n is 2 or more."""
    width: int = 8
    """Channels behind the first convolution."""
