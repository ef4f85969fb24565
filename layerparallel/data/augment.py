"""From stored samples to inputs of a network: random crops and flips, then normalisation, batched.

Crops and flips are drawn first, as a few integers per sample, and applied afterwards. So the same
draw can be applied to another tensor of the same samples, and a batch can be made again.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InputError
from .base import FULL_SCALE, Dataset


@dataclass(frozen=True)
class Drawn:
    """Crops and flips of n samples, as drawn by `Augmentation.draw`.

    Args:
        down: int64 `(n,)`, pixels from -crop to crop by which the window moves over the image.
        right: the same, sideways.
        flipped: bool `(n,)`, mirrored left to right after the crop.
        height: of the images they were drawn for.
        width: of these images.
    """

    down: Tensor
    right: Tensor
    flipped: Tensor
    height: int
    width: int

    def __getitem__(self, chosen: slice | Tensor) -> Self:
        """The draws of some of the samples."""
        return type(self)(
            self.down[chosen], self.right[chosen], self.flipped[chosen], self.height, self.width
        )

    def __len__(self) -> int:
        return len(self.down)

    def apply(self, x: Tensor) -> Tensor:
        """Crop and flip `x` `(n, C, H, W)`, of any dtype; same shape, a copy, 0 beyond the border.

        x may be of another height and width than the images of the draw, the states of a later
        stage of a network, say: its window then moves by the nearest whole number of its own pixels.

        Raises:
            InputError: x is not `(n, C, H, W)` with n as drawn.
        """
        if x.ndim != 4 or len(x) != len(self):
            raise InputError(
                f"Crops and flips of {len(self)} images cannot be applied to a tensor of shape "
                f"{tuple(x.shape)}: give ({len(self)}, channels, height, width)."
            )
        n, channels, height, width = x.shape
        down = _moved(self.down, height, self.height)
        right = _moved(self.right, width, self.width)
        above, left = (int(moved.abs().max()) if n else 0 for moved in (down, right))
        rows = torch.arange(height) + down[:, None].cpu() + above
        columns = torch.arange(width).expand(n, width)
        columns = torch.where(self.flipped[:, None].cpu(), columns.flip(1), columns)
        columns = columns + right[:, None].cpu() + left
        wide = pad(x, (left, left, above, above))
        return wide[
            torch.arange(n, device=x.device)[:, None, None, None],
            torch.arange(channels, device=x.device)[:, None, None],
            rows.to(x.device)[:, None, :, None],
            columns.to(x.device)[:, None, None, :],
        ]


def _moved(pixels: Tensor, size: int, drawn_for: int) -> Tensor:
    return pixels if size == drawn_for else (pixels * (size / drawn_for)).round().long()


@dataclass(frozen=True)
class Augmentation:
    """Random crops and flips of training images.

    The usual one for CIFAR is `Augmentation()`; digits must not be mirrored.

    Args:
        crop: pixels of black border on each side, from which a window of the image's own size is cut
            out at random; 0 leaves images where they are.
        flip: mirror left to right with probability 1/2.

    Raises:
        InputError: crop is negative.
    """

    crop: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise InputError(f"crop = {self.crop} is below 0: give 0 for none, or pixels of border.")

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Drawn:
        """Draw for `count` images of a size; the same state of the generator gives the same draws."""
        if self.crop >= min(height, width):
            raise InputError(
                f"crop = {self.crop} could push a whole image of {height}×{width} pixels out of the "
                f"window: give at most {min(height, width) - 1}, larger images, or no augmentation."
            )
        where = generator.device

        def offsets() -> Tensor:
            bounds = (-self.crop, self.crop + 1)
            return torch.randint(*bounds, (count,), generator=generator, device=where)

        down, right = offsets(), offsets()
        flipped = torch.zeros(count, dtype=torch.bool, device=where)
        if self.flip:
            flipped = torch.randint(2, (count,), generator=generator, device=where).bool()
        return Drawn(down, right, flipped, height, width)


@dataclass(frozen=True)
class Preparation:
    """How stored samples become inputs: augmented where drawn, as floats, normalised.

    Args:
        mean: one per channel (feature), in the units of `Dataset.moments`; empty for none: uint8
            images then become 0..1 and floats stay as they are.
        std: one for each mean.
        augmentation: for training images; None for none.
        dtype: of the inputs; None leaves floats as they are and gives images the default dtype.

    Raises:
        InputError: mean and std differ in length, or a deviation is not positive.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    augmentation: Augmentation | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise InputError(
                f"There are {len(self.mean)} means but {len(self.std)} deviations: give one of each "
                "for every channel."
            )
        for deviation in self.std:
            if not 0 < deviation < float("inf"):
                raise InputError(
                    f"A standard deviation of {deviation} cannot be divided by: give a positive number."
                )

    @classmethod
    def of(
        cls,
        data: Dataset,
        augmentation: Augmentation | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Normalise by mean and deviation of the training samples, channel by channel."""
        return cls(*data.moments(), augmentation=augmentation, dtype=dtype)

    def draw(self, x: Tensor, generator: torch.Generator) -> Drawn | None:
        """Crops and flips for the images `x` `(n, C, H, W)`; None where there is no augmentation.

        Raises:
            InputError: x are not images.
        """
        if self.augmentation is None:
            return None
        if x.ndim != 4:
            raise InputError(
                f"Samples of shape {tuple(x.shape[1:])} are no images to crop and flip: leave out the "
                "augmentation."
            )
        count, _, height, width = x.shape
        return self.augmentation.draw(count, height, width, generator)

    def __call__(self, x: Tensor, drawn: Drawn | None = None) -> Tensor:
        """Inputs of the same shape from stored samples; without `drawn` nothing is cropped."""
        if drawn is not None:
            x = drawn.apply(x)
        is_image = x.dtype == torch.uint8
        dtype = self.dtype or (torch.get_default_dtype() if is_image else x.dtype)
        scale = FULL_SCALE if is_image else 1.0
        x = x.to(dtype)
        if not self.mean:
            return x / scale if is_image else x
        if x.shape[1] != len(self.mean):
            raise InputError(
                f"Samples of shape {tuple(x.shape[1:])} cannot be normalised by {len(self.mean)} means: "
                f"give {x.shape[1]}."
            )
        view = (1, -1) + (1,) * (x.ndim - 2)
        std = x.new_tensor(self.std).view(view) * scale
        mean = x.new_tensor(self.mean).view(view) * scale
        return (x - mean) / std
