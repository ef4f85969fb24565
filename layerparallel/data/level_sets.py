"""Level sets of MATLAB's `peaks`: points of a square, classed by the height of a smooth surface.

The classification problem of Günther et al., SIAM J. Math. Data Sci. 2(1), 2020. `level_sets` draws
points anew; its five classes are the bands between the quintiles of the surface over the square, so
they are balanced. `published` reads the authors' points, whose classes are bands of equal height.
"""

import io
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .base import Dataset
from .files import File, Source, read

CLASSES = 5
NAMES = ("lowest", "low", "middle", "high", "highest")
SIDE = 3.0  # the square is [-SIDE, SIDE]²

PUBLISHED = Source("the published level sets", ("level-sets",))
ADDRESS = (
    "https://raw.githubusercontent.com/steffi7574/LayerParallelLearning/"
    "0394990a9610427ca19e0af145d0fbd01c619402/examples/peaks/"
)
FILES = tuple(
    File(name, (known,), ADDRESS + name)
    for name, known in (
        ("features_training.dat", "2cd5ebbfd1ecef204ed9ac3f0a6a8acb"),
        ("labels_training.dat", "537d6444d8b563a201071d97d64077de"),
        ("features_validation.dat", "7260e388e9aae5d7ac7c3db187322c65"),
        ("labels_validation.dat", "44f5a5841463e132de2aee56a9489163"),
    )
)


def peaks(points: Tensor) -> Tensor:
    """Height of MATLAB's `peaks` surface at `points` `(..., 2)`; returns `(...)`, same dtype.

    z = 3(1-x)² exp(-x²-(y+1)²) - 10(x/5-x³-y⁵) exp(-x²-y²) - 1/3 exp(-(x+1)²-y²)
    """
    x, y = points.unbind(-1)
    return (
        3 * (1 - x) ** 2 * torch.exp(-(x**2) - (y + 1) ** 2)
        - 10 * (x / 5 - x**3 - y**5) * torch.exp(-(x**2) - y**2)
        - torch.exp(-((x + 1) ** 2) - y**2) / 3
    )


def grid(cells: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Midpoints `(cells, cells, 2)` of a regular grid over the square; [row y, column x]."""
    ticks = ((torch.arange(cells, dtype=dtype) + 0.5) / cells * 2 - 1) * SIDE
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack((x, y), dim=-1)


@cache
def thresholds() -> tuple[float, ...]:
    """The four heights that part the square into five regions of equal area."""
    heights, _ = peaks(grid(600)).flatten().sort()
    share = heights.numel() // CLASSES
    return tuple(heights[share * band].item() for band in range(1, CLASSES))


def classify(points: Tensor) -> Tensor:
    """Class `(...)`, int64 in 0..4, of `points` `(..., 2)`."""
    bounds = torch.tensor(thresholds(), dtype=points.dtype, device=points.device)
    return torch.bucketize(peaks(points), bounds)


def level_sets(
    training: int = 5000,
    validation: int = 200,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Draw the data set: points uniform over the square, the same for the same seed.

    Points are drawn in float64 and then rounded, so that the float32 set is the float64 set.

    Raises:
        ValueError: where a number of points is below 1.
    """
    for name, count in (("training", training), ("validation", validation)):
        if count < 1:
            raise ValueError(f"{name}={count} points cannot be drawn: give at least 1.")
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(training + validation, 2, generator=generator, dtype=torch.float64)
    points = (points * 2 - 1) * SIDE
    classes = classify(points)
    points = points.to(dtype)
    return Dataset(
        name="level-sets",
        train_x=points[:training],
        train_y=classes[:training],
        validation_x=points[training:],
        validation_y=classes[training:],
        classes=NAMES,
    )


def published(dtype: torch.dtype = torch.float32) -> Dataset:
    """The 5000 + 200 points that the authors published with their code, in their order.

    1000 training and 40 validation points of each class, class by class; 36 % of the validation
    points are training points, too. A point lies on a grid of 1/255 of the square.

    Raises:
        InputError: a file is missing or not the published one.
    """
    columns = [_columns(read(PUBLISHED, file), file.name) for file in FILES]
    halves = []
    for points, marks in (columns[:2], columns[2:]):
        if points.shape[1] != 2 or marks.shape[1] != CLASSES:
            raise InputError("The published level sets are not 2 features and 5 marks: copy them again.")
        halves += [points.to(dtype), marks.argmax(dim=1)]
    return Dataset("level-sets-published", *halves, classes=NAMES)


def _columns(raw: bytes, name: str) -> Tensor:
    try:
        return torch.from_numpy(np.loadtxt(io.BytesIO(raw), ndmin=2))
    except ValueError as error:
        raise InputError(f"{name} is no table of numbers ({error}): copy it again.") from error
