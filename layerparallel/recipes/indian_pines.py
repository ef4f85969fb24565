"""Indian Pines: what grows on a pixel, from its spectrum alone, by 512 layers of width 220."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import nn

from ..data.base import Dataset
from ..data.indian_pines import Scene, indian_pines
from ..runs.evaluate import logits
from ..steps.layers import Dense
from . import pictures
from .common import Common
from .options import Count


@dataclass(frozen=True)
class IndianPines(Common):
    """Land cover of a hyperspectral image, pixel by pixel.

    There are 16 classes. It is the second experiment of Günther et al., SIAM J. Math. Data Sci. 2(1),
    2020, whose state has the 220 bands of the instrument. Pixels that touch are nearly copies of each
    other: `--split regions` is the honest figure.
    """

    name: ClassVar[str] = "indian-pines"
    data_set: ClassVar[str] = "indian-pines"
    sections: ClassVar[dict[str, str]] = {"width": "Network", "split": "Data"}

    depth: int = 512
    """Layers N."""
    width: Count = 220
    """Features of the state."""
    split: Literal["pixels", "regions"] = "pixels"
    """Validation pixels drawn from all that are labelled, or from fields of their own."""
    bands: Literal[200, 220] = 200
    """200 of the corrected file, or 220 of Indian_pines.mat where you have it."""
    training: int = 4000
    """Training pixels."""
    validation: int = 2000
    """Validation pixels."""
    epochs: int = 12
    """Epochs with the network of full depth."""
    batch: int = 100
    """Pixels in a mini batch."""
    learning_rate: float = 3e-3
    """Peak of the one-cycle learning rate."""
    forward_cycles: Count | None = 2
    """Cycles of every forward solve."""
    adjoint_cycles: Count | None = 2
    """Cycles of every adjoint solve."""
    samples: int | None = 2
    """Groups of layers in a coarse step of mean_residual or picard; none for one a layer."""
    serial_epochs: int = 1
    """Epochs for which the same network is then trained serially, to measure the ratio."""
    evaluate_every: int = 2
    """Epochs between two evaluations."""

    def load(self) -> Dataset:
        """The scene, split by the seed; every band standardised by the training pixels."""
        return indian_pines(
            self.bands,
            self.split,
            self.training,
            self.validation,
            seed=self.seed,
            dtype=self.torch_dtype,
        )

    def parts(self, data: Dataset) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Linear, dense layers, linear."""
        return (
            nn.Linear(data.shape[0], self.width),
            Dense(self.width, self.activation),
            nn.Linear(self.width, len(data.classes)),
        )

    def picture(self, data: Dataset, network: nn.Module, folder: Path) -> None:
        """The land-cover map beside the ground truth."""
        assert isinstance(data, Scene)
        found = logits(network, data.spectra.flatten(0, 1)).argmax(dim=-1)
        predicted = found.view(data.truth.shape)
        rows, columns = data.validation_pixels.unbind(1)
        right = (predicted[rows, columns] == data.truth[rows, columns]).double().mean().item()
        apart = "drawn by pixel" if self.split == "pixels" else "in fields of their own"
        pictures.land_cover(
            folder / "land_cover.png",
            data.truth.numpy(),
            predicted.to(torch.int64).numpy(),
            data.train_pixels.numpy(),
            data.validation_pixels.numpy(),
            data.classes,
            title=f"Indian Pines: {right:.1%} of {len(rows)} validation pixels, {apart}",
        )
