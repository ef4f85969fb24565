"""CIFAR-10 and CIFAR-100 by residual networks whose stages train at once."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from .residual import Residual


@dataclass(frozen=True)
class Cifar10(Residual):
    """CIFAR-10 by a ResNet whose stages train at once.

    They do so from auxiliary variables. Sun et al. 2021 train ResNet-110 for 200 epochs, with K = 2 and
    3 and beta = 100.
    """

    name: ClassVar[str] = "cifar10"
    data_set: ClassVar[str] = "cifar-10"


@dataclass(frozen=True)
class Cifar100(Residual):
    """CIFAR-100 by a wide ResNet whose stages train at once.

    They do so from auxiliary variables. Sun et al. 2021 train WideResNet-40-10 for 200 epochs, with
    K = 3 and beta = 10.
    """

    name: ClassVar[str] = "cifar100"
    data_set: ClassVar[str] = "cifar-100"

    family: Literal["resnet", "wide"] = "wide"
    """ResNet (He et al. 2015), or a wide one with pre-activation (Zagoruyko, Komodakis 2016)."""
    depth: int = 16
    """Layers with weights: 6 n + 2 of a ResNet, 6 n + 4 of a wide one; n is 2 or more."""
    decay: float = 5e-4
    """Weight decay."""
