"""The networks whose scaling is measured and predicted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.network.stacking import Initial
from layerparallel.predict.counted import CountedDense
from layerparallel.predict.task import Task

CLASSES = 5


def dense(
    depth: int, width: int, batch: int, initial: Initial = "smooth", counted: bool = False
) -> Task:
    """Dense layers between two plain ones, T = 1, on random samples."""

    def make(depth: int) -> lp.Network:
        torch.manual_seed(0)
        layer = CountedDense(width) if counted else lp.Dense(width)
        body = lp.chain(layer, depth, T=1.0, initial=initial)
        return lp.Network(nn.Linear(2, width), body, nn.Linear(width, CLASSES))

    return Task(f"dense {depth} x {width}", make, depth, *samples(batch, 2))


def convolution(depth: int, channels: int, side: int, batch: int) -> Task:
    """Convolutions at full resolution, T = 1, on random images."""

    def make(depth: int) -> lp.Network:
        torch.manual_seed(0)
        opening = nn.Conv2d(1, channels, 3, padding=1)
        closing = nn.Sequential(nn.Flatten(), nn.Linear(channels * side**2, CLASSES))
        return lp.Network(opening, lp.chain(lp.Convolution(channels), depth, T=1.0), closing)

    return Task(
        f"convolution {depth} x {channels} x {side}^2", make, depth, *samples(batch, 1, side, side)
    )


def samples(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator)
    return x, torch.randint(CLASSES, shape[:1], generator=generator)
