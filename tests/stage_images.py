"""The bundled digits in the size of MNIST: what the tests of its recipes in stages train on."""

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional

from layerparallel import data
from layerparallel.recipes.mnist_stages import MnistStages
from layerparallel.recipes.mnist_vae import MnistVae

TINY: dict[str, Any] = {"depth": 14, "width": 2, "batch": 20, "epochs": 3, "dtype": "float64"}
TINY |= {"stages": 3, "serial_start": 1, "hybrid": "1:1"}


def digits(training: int = 60, validation: int = 30) -> data.Dataset:
    """So many of the 8×8 digits, every pixel three times as wide and high, with a border of two."""
    found = data.load("digits").part(training, validation)

    def large(x: Tensor) -> Tensor:
        wide = x.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
        return functional.pad(wide, (2, 2, 2, 2))

    return replace(
        found, name="mnist", train_x=large(found.train_x), validation_x=large(found.validation_x)
    )


def vae(**options: Any) -> MnistVae:
    return MnistVae(**{**TINY, "latent": 3, **options})


def classifier(**options: Any) -> MnistStages:
    return MnistStages(**{**TINY, "learning_rate": 0.02, **options})
