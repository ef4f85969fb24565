"""Level sets: points of a square, classed by the height of MATLAB's `peaks`, by 1,024 layers."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from ..data import level_sets as points
from ..data.base import Dataset
from ..runs.evaluate import logits
from ..steps.layers import Dense
from .common import Common
from .options import Count

PICTURE_CELLS = 300
PICTURE_POINTS = 500


@dataclass(frozen=True)
class LevelSets(Common):
    """Points of a square, by the height of MATLAB's `peaks`.

    The square is [-3, 3]², and there are five classes. A residual network
    `u[n+1] = u[n] + T/N act(W_n u[n] + b_n)` of Günther et al., SIAM J. Math. Data Sci. 2(1), 2020;
    Adam with a one-cycle learning rate.
    """

    name: ClassVar[str] = "level-sets"
    data_set: ClassVar[str] = "level-sets"
    sections: ClassVar[dict[str, str]] = {"width": "Network"}

    width: Count = 8
    """Features of the state."""
    epochs: int = 150
    """Epochs with the network of full depth."""
    serial_epochs: int = 2
    """Epochs for which the same network is then trained serially, to measure the ratio."""
    evaluate_every: int = 10
    """Epochs between two evaluations."""
    training: int = 5000
    """Training points."""
    validation: int = 10_000
    """Validation points."""

    def load(self) -> Dataset:
        """Points drawn by the seed."""
        return points.level_sets(self.training, self.validation, self.seed, self.torch_dtype)

    def parts(self, data: Dataset) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Linear, dense layers, linear."""
        return (
            nn.Linear(2, self.width),
            Dense(self.width, self.activation),
            nn.Linear(self.width, points.CLASSES),
        )

    def picture(self, data: Dataset, network: nn.Module, folder: Path) -> None:
        """Decision regions over the square, with validation points on them."""
        from .. import report

        cells = points.grid(PICTURE_CELLS, self.torch_dtype)
        predicted = logits(network, cells.flatten(0, 1)).argmax(dim=-1)
        x, y = data.validation_x[:PICTURE_POINTS], data.validation_y[:PICTURE_POINTS]
        wrong = logits(network, x).argmax(dim=-1) != y
        report.regions(
            folder / "regions.png",
            predicted.reshape(PICTURE_CELLS, PICTURE_CELLS).numpy(),
            points.SIDE,
            x.double().numpy(),
            y.numpy(),
            wrong.numpy(),
            title=f"Decision regions and {len(y)} validation points, {int(wrong.sum())} missed",
        )
