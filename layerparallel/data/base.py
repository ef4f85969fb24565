"""What every data set is: samples and classes as tensors, for training and for validation."""

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ..errors import InputError

FULL_SCALE = 255.0
"""The largest value of a stored image, 1.0 in published means and deviations."""
CHUNK = 512  # samples at a time, so that their float64 copy stays in the cache


@dataclass(frozen=True)
class Dataset:
    """Samples `(n, ...)` and their classes `(n,)` as they are stored; `Preparation` makes them inputs.

    Where a set is published with a test part and no validation part, validation is the test part.

    Args:
        name: what `load` calls it.
        train_x: images are uint8 `(n, C, H, W)` with values 0..255, vectors floating point
            `(n, features)`.
        train_y: int64 in 0..len(classes)-1.
        validation_x: as `train_x`.
        validation_y: as `train_y`.
        classes: a name for each.

    Raises:
        InputError: where samples and classes do not fit together.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    validation_x: Tensor
    validation_y: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for part in ("train", "validation"):
            x, y = getattr(self, f"{part}_x"), getattr(self, f"{part}_y")
            if len(x) != len(y):
                raise InputError(
                    f"{self.name} has {len(x)} {part} samples but {len(y)} classes for them: give "
                    "one class for each."
                )
            if len(x) == 0:
                raise InputError(f"{self.name} has no {part} samples: give at least one.")
            if y.dtype != torch.int64 or y.ndim != 1:
                raise InputError(
                    f"The {part} classes of {self.name} are {y.dtype} of shape {tuple(y.shape)}: give "
                    "one int64 for each sample."
                )
            low, high = int(y.min()), int(y.max())
            if low < 0 or high >= len(self.classes):
                raise InputError(
                    f"{self.name} has {part} classes from {low} to {high}: give 0 to "
                    f"{len(self.classes) - 1}."
                )
        if self.train_x.shape[1:] != self.validation_x.shape[1:]:
            raise InputError(
                f"{self.name} has training samples of shape {self.shape} and validation samples of "
                f"shape {tuple(self.validation_x.shape[1:])}: give one shape."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, `(C, H, W)` or `(features,)`."""
        return tuple(self.train_x.shape[1:])

    def to(self, device: torch.device | str) -> Self:
        """The same set on another device; images stay uint8."""
        moved = {
            each.name: value.to(device)
            for each in dataclasses.fields(self)
            if isinstance(value := getattr(self, each.name), Tensor)
        }
        return dataclasses.replace(self, **moved)

    def part(self, training: int, validation: int, seed: int = 0) -> Self:
        """So many samples of each half, drawn without putting back; the same ones for the same seed.

        Raises:
            InputError: where there are not as many.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = {}
        for half, count in (("train", training), ("validation", validation)):
            x, y = getattr(self, f"{half}_x"), getattr(self, f"{half}_y")
            if not 1 <= count <= len(x):
                raise InputError(
                    f"{count} {half} samples of {self.name} were asked for: give 1 to {len(x)}."
                )
            chosen = torch.randperm(len(x), generator=generator)[:count].to(x.device)
            drawn |= {f"{half}_x": x[chosen], f"{half}_y": y[chosen]}
        return dataclasses.replace(self, **drawn)

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training samples, one per channel (or feature).

        Of images in units of the full scale 255, as they are published: CIFAR-10's first mean is
        0.4914. A channel that never changes gets 1 for a standard deviation.
        """
        x = self.train_x
        others = [d for d in range(x.ndim) if d != 1]
        total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        squares = torch.zeros_like(total)
        for part in x.split(CHUNK):
            part = part.double()
            total += part.sum(dim=others)
            squares += part.square_().sum(dim=others)
        values = x.numel() // x.shape[1]
        scale = FULL_SCALE if x.dtype == torch.uint8 else 1.0
        mean, square = total / values, squares / values
        variance = square - mean.square()
        constant = variance <= 1e-13 * square  # what rounding leaves of nothing
        deviation = torch.where(constant, scale, variance.clamp(min=0).sqrt())
        return tuple((mean / scale).tolist()), tuple((deviation / scale).tolist())
