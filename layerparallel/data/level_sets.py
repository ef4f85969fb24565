"""Level sets of MATLAB's `peaks`: points of a square, classed by the height of a smooth surface.

The classification problem of Günther et al., SIAM J. Math. Data Sci. 2(1), 2020. The five classes
are the bands between the quintiles of the surface over the square, so they are balanced.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

CLASSES = 5
SIDE = 3.0  # the square is [-SIDE, SIDE]²


@dataclass(frozen=True)
class LevelSets:
    """Points `(n, 2)` in the square and their classes `(n,)`, int64 in 0..4."""

    train_x: Tensor
    train_y: Tensor
    validation_x: Tensor
    validation_y: Tensor


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
) -> LevelSets:
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
    return LevelSets(
        train_x=points[:training],
        train_y=classes[:training],
        validation_x=points[training:],
        validation_y=classes[training:],
    )
