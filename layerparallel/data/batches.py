"""The mini batches of one epoch: drawn at its beginning, prepared one by one."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .augment import Drawn, Preparation
from .base import Dataset


@dataclass(frozen=True)
class Batch:
    """One mini batch, and which samples it holds.

    Args:
        x: inputs `(b, ...)`.
        y: classes `(b,)`.
        index: int64 `(b,)`, places of the samples in the training set.
        drawn: their crops and flips, to apply them to what else is kept per sample; None without
            augmentation.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    drawn: Drawn | None = None


class Batches:
    """One epoch over the training samples, in random order.

    Order, crops and flips of the whole epoch come from the generator at once, so a batch depends on
    the generator's state at the beginning alone: ``batches[step]`` can be asked for in any order,
    also by a run that is resumed in the middle. Batches are prepared where the samples are.

    Args:
        data: the samples.
        size: samples in a batch; the last one may have fewer.
        generator: draws the order, and then the crops and flips; on the CPU, so that every device
            gets the same batches.
        prepare: how samples become inputs.

    Raises:
        InputError: size is below 1, or samples are to be cropped that are no images.
    """

    def __init__(
        self,
        data: Dataset,
        size: int,
        generator: torch.Generator,
        prepare: Preparation | None = None,
    ) -> None:
        if size < 1:
            raise InputError(f"A batch of {size} samples cannot be made: give at least 1.")
        self.data, self.size = data, size
        self.prepare = prepare or Preparation()
        self.order = torch.randperm(len(data.train_x), generator=generator)
        self.drawn = self.prepare.draw(data.train_x, generator)

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(f"There is no batch {step}: the epoch has {len(self)}, from 0 on.")
        part = slice(step * self.size, (step + 1) * self.size)
        x, y = self.data.train_x, self.data.train_y
        index = self.order[part]  # stays on the CPU, where whoever keeps something per sample reads it
        here = index.to(x.device)
        drawn = self.drawn[part] if self.drawn is not None else None
        return Batch(self.prepare(x[here], drawn), y[here], index, drawn)

    def __iter__(self) -> Iterator[Batch]:
        return (self[step] for step in range(len(self)))
