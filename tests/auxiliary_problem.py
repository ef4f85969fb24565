"""What the tests of auxiliary variables train: a small convolutional network on random images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerparallel.data.augment import Drawn
from layerparallel.data.batches import Batch
from layerparallel.staged import Staged
from layerparallel.training.auxiliary import Auxiliary, AuxiliaryMethod

CUTS = (2, 4)
"""Pieces at which three stages of `network` begin."""


class Block(nn.Module):
    """u + 0.3 tanh(conv(u)), with batch norm or dropout in it if wanted."""

    def __init__(self, channels: int, norm: bool = False, dropout: float = 0.0):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)

    def forward(self, u: Tensor) -> Tensor:
        return u + 0.3 * torch.tanh(self.drop(self.norm(self.conv(u))))


def network(seed: int = 0, **options: Any) -> nn.Sequential:
    """Six pieces from (B, 2, 8, 6) to 3 classes, in float64; states (3, 8, 6)."""
    torch.manual_seed(seed)
    blocks = [Block(3, **options) for _ in range(4)]
    closing = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), *blocks, closing).double()


def images(count: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(count, 2, 8, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (count,), generator=generator)


def sgd(lr: float) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def made(staged: Staged, x: Tensor, lr: float = 0.1, batch: int = 8, **settings: Any) -> AuxiliaryMethod:
    """A method that is parallel from the first epoch on, if `settings` do not say otherwise."""
    chosen = Auxiliary(**{"serial_start": 0, **settings})
    return AuxiliaryMethod(
        staged,
        chosen,
        F.cross_entropy,
        sgd(lr),
        samples=lambda index: x[index],
        count=len(x),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
        batch=batch,
    )


def batch(x: Tensor, y: Tensor, index: Tensor, drawn: Drawn | None = None) -> Batch:
    """A mini batch of some samples."""
    inputs = x[index] if drawn is None else drawn.apply(x[index])
    return Batch(inputs, y[index], index, drawn)


def step(method: AuxiliaryMethod, given: Batch) -> Any:
    return method.step(given.x, given.y, batch=given)


def train(method: AuxiliaryMethod, x: Tensor, y: Tensor, epochs: range, size: int = 6) -> list[float]:
    """Losses of all mini batches, the last of an epoch smaller."""
    losses = []
    for epoch in epochs:
        method.network.train()
        method.begin_epoch(epoch)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        losses += [float(step(method, batch(x, y, index)).loss) for index in order.split(size)]
    return losses
