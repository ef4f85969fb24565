"""Downsampling of images: squares of pixels become one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError, UnknownNameError
from .filter import Filter, Shape

WAYS = ("nearest", "bilinear")


@dataclass(frozen=True)
class Pool(Filter):
    """States `(C, H, W)` kept at a fraction of their height and width.

    US interpolates every channel along both axes, ``US(Λ) = A Λ Bᵀ`` with A `(H, H/factor)` and B
    `(W, W/factor)`, and DS is the least-squares fit ``A⁺ x (B⁺)ᵀ``: for "nearest", where every pixel
    becomes factor × factor equal ones (the Kronecker product with ones), that is the mean over squares.

    Args:
        factor: by which height and width are divided.
        up_by: "nearest" or "bilinear", as the mode of `torch.nn.functional.interpolate`.

    Raises:
        InputError: the factor is below 1.
        UnknownNameError: there is no such interpolation.
    """

    factor: int = 2
    up_by: Literal["nearest", "bilinear"] = "nearest"

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise InputError(f"States cannot be pooled by {self.factor}: give a factor of at least 1.")
        if self.up_by not in WAYS:
            raise UnknownNameError("interpolation", self.up_by, WAYS)

    def fitted(self, state: Shape) -> Self:
        if len(state) != 3:
            raise InputError(
                f"A state of shape {state} cannot be pooled by {self.factor}: give states "
                "(channels, height, width), or the filter none."
            )
        common = math.gcd(*state[1:])
        if common % self.factor:
            fit = ", ".join(str(f) for f in range(2, common + 1) if common % f == 0)
            raise InputError(
                f"A state of {state[1]}×{state[2]} pixels cannot be pooled by {self.factor}: give "
                f"{'a factor out of ' + fit if fit else 'the filter none'}."
            )
        return self

    def shape(self, state: Shape) -> Shape:
        channels, height, width = state
        return channels, height // self.factor, width // self.factor

    def down(self, x: Tensor) -> Tensor:
        if self.up_by == "nearest":
            return F.avg_pool2d(x, self.factor)
        a, b = self._inverses(x.shape, x)
        return a @ x @ b.mT

    def up(self, z: Tensor) -> Tensor:
        if self.up_by == "nearest":
            batch, channels, height, width = z.shape
            f = self.factor
            squares = z[..., :, None, :, None].expand(batch, channels, height, f, width, f)
            return squares.reshape(batch, channels, height * f, width * f)
        a, b = (_interpolation(size, self.factor, z.dtype, z.device) for size in z.shape[-2:])
        return a @ z @ b.mT

    def transpose(self, g: Tensor, at: Tensor | None = None) -> Tensor:
        if self.up_by == "nearest":
            return F.avg_pool2d(g, self.factor, divisor_override=1)
        a, b = (
            _interpolation(size // self.factor, self.factor, g.dtype, g.device) for size in g.shape[-2:]
        )
        return a.mT @ g @ b

    def solve(self, g: Tensor, at: Tensor | None = None) -> Tensor:
        if self.up_by == "nearest":
            return g / self.factor**2
        a, b = self._inverses([size * self.factor for size in g.shape[-2:]], g)
        return (a @ a.mT) @ g @ (b @ b.mT)

    def norm(self, state: Shape) -> float:
        if self.up_by == "nearest":
            return float(self.factor**2)
        cpu = torch.device("cpu")
        sides = [_interpolation(s // self.factor, self.factor, torch.float64, cpu) for s in state[1:]]
        return math.prod(float(torch.linalg.matrix_norm(a, 2)) ** 2 for a in sides)

    def _inverses(self, sizes: Shape | list[int], like: Tensor) -> tuple[Tensor, Tensor]:
        """Pseudo-inverses of A and B for states whose last sizes these are."""
        height, width = (
            _inverse(size // self.factor, self.factor, like.dtype, like.device) for size in sizes[-2:]
        )
        return height, width


@lru_cache(maxsize=64)
def _interpolation(size: int, factor: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The linear interpolation from `size` to ``size * factor`` points, a matrix."""
    units = torch.eye(size, dtype=torch.float64)[None]
    wide = F.interpolate(units, scale_factor=factor, mode="linear", align_corners=False)
    return wide[0].mT.contiguous().to(device, dtype)


@lru_cache(maxsize=64)
def _inverse(size: int, factor: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    whole = _interpolation(size, factor, torch.float64, torch.device("cpu"))
    return torch.linalg.pinv(whole).to(device, dtype)
