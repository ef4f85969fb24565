"""What the tests of auxiliary variables train: a small convolutional network on random images."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerparallel.data.augment import Augmentation, Drawn
from layerparallel.data.batches import Batch
from layerparallel.staged import Staged
from layerparallel.training.auxiliary import Auxiliary, AuxiliaryMethod

CUTS = (2, 4)
"""Pieces at which three stages of `network` begin."""
INDEX = torch.tensor([3, 11, 0, 8, 19])
"""Places of a mini batch."""
FILTERS = ["none", "pool:2", "pool:2:bilinear", "lowrank:2"]


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


def staged(seed: int = 0, cuts: Any = CUTS, **options: Any) -> Staged:
    return Staged(network(seed, **options), cuts)


def images(count: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(count, 2, 8, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (count,), generator=generator)


def sgd(lr: float) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def made(
    staged: Staged,
    x: Tensor,
    lr: float = 0.1,
    batch: int = 8,
    folder: Path | None = None,
    **settings: Any,
) -> AuxiliaryMethod:
    """A method that is parallel from the first epoch on, if `settings` do not say otherwise."""
    chosen = Auxiliary(**{"stages": staged.count, "serial_start": 0, **settings})
    return AuxiliaryMethod(
        staged,
        chosen,
        F.cross_entropy,
        sgd(lr),
        samples=lambda index: x[index],
        count=len(x),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
        batch=batch,
        folder=folder,
    )


def batch(x: Tensor, y: Tensor, index: Tensor, drawn: Drawn | None = None) -> Batch:
    """A mini batch of some samples."""
    inputs = x[index] if drawn is None else drawn.apply(x[index])
    return Batch(inputs, y[index], index, drawn)


def step(method: AuxiliaryMethod, given: Batch) -> Any:
    return method.step(given.x, given.y, batch=given)


def train(
    method: AuxiliaryMethod,
    x: Tensor,
    y: Tensor,
    epochs: range,
    size: int = 6,
    expecting: Callable[[Tensor], Tensor] | None = None,
) -> list[float]:
    """Losses of all mini batches, the last of an epoch smaller.

    Args:
        expecting: before a step, from the places of the samples that follow to those that it is told.
    """
    losses = []
    for epoch in epochs:
        method.network.train()
        method.begin_epoch(epoch)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(size)
        for index, following in zip(order, [*order[1:], None], strict=True):
            if expecting is not None and following is not None:
                method.expect(expecting(following))
            losses.append(float(step(method, batch(x, y, index)).loss))
    return losses


def drawn_for(count: int) -> Drawn:
    drawn = Augmentation(2, flip=True).draw(count, 8, 6, torch.Generator().manual_seed(1))
    for each in (drawn.down, drawn.right, drawn.flipped):
        each[1] = 0
    return drawn


def perturbed(method: AuxiliaryMethod, size: int) -> None:
    """Λ and κ that are nothing special."""
    method.begin_epoch(0)
    generator = torch.Generator().manual_seed(5)
    for k in range(1, method.network.count):
        state, multiplier = method.store.take(k, torch.arange(size))
        noise = [torch.randn(state.shape, generator=generator, dtype=state.dtype) for _ in range(2)]
        kappa = None if multiplier is None else noise[1]
        method.store.put(k, torch.arange(size), state + 0.3 * noise[0], kappa)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)


class Written:
    """The Lagrangian of a mini batch as it is written, and all that a step takes from it by autograd."""

    def __init__(self, method: AuxiliaryMethod, x: Tensor, y: Tensor, index: Tensor) -> None:
        self.filters = method.store.filters
        self.net = copy.deepcopy(method.network)
        self.state, self.multiplier, settings = {}, {}, method.settings
        total = torch.zeros((), dtype=torch.float64)
        self.ends = {}
        end = x[index]
        for k in range(self.net.count):
            start = end
            if k > 0:
                state, self.multiplier[k] = method.store.take(k, index)
                self.state[k] = state.requires_grad_()
                start = self.filters[k].up(state)
                self.ends[k] = end
                c = 1.0 if settings.scale == "sum" else 1.0 / start[0].numel()
                difference = start - end
                total = total + settings.beta * c * difference.square().sum()
                if (kappa := self.multiplier[k]) is not None:
                    with torch.no_grad():
                        pushed = self.filters[k].push(kappa, state)
                    total = total - c * (pushed * difference).sum()
            end = self.net.stage(k)(start)
        self.phi = F.cross_entropy(end, y[index])
        (self.phi + total / len(index)).backward()
