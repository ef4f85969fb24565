"""MNIST by a residual network whose stages train at once."""

from dataclasses import dataclass
from typing import ClassVar

from ..data.augment import Augmentation
from .residual import Residual


@dataclass(frozen=True)
class MnistStages(Residual):
    """MNIST by a ResNet whose stages train at once, from auxiliary variables."""

    name: ClassVar[str] = "mnist-stages"
    data_set: ClassVar[str] = "mnist"
    shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    augmentation: ClassVar[Augmentation] = Augmentation(crop=2, flip=False)

    depth: int = 14
    """Layers with weights: 6 n + 2 of a ResNet, 6 n + 4 of a wide one."""
    width: int = 8
    """Channels behind the first convolution."""
