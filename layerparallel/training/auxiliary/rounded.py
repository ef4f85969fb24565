"""Filters whose kept tensors are rounded to fewer bytes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from ...errors import InputError, UnknownNameError
from .filter import Filter, Form, Shape

KINDS = ("bf16", "int8")
LARGEST = 127
"""Of an int8 that has its negative."""


@dataclass(frozen=True)
class Rounded(Filter):
    """Another filter, with Λ rounded wherever it is kept; what is computed with it is not.

    "bf16" keeps 8 bits of every number. "int8" keeps whole numbers from -127 to 127 and, per sample,
    one float32 scale, the largest magnitude over 127. A change of less than half a unit in the last
    place of what is kept is lost.

    Args:
        inner: the filter whose Λ it is.
        dtype: "bf16" or "int8".

    Raises:
        UnknownNameError: there is no such dtype.
        InputError: the other filter is rounded itself.
    """

    inner: Filter
    dtype: Literal["bf16", "int8"] = "bf16"

    def __post_init__(self) -> None:
        if self.dtype not in KINDS:
            raise UnknownNameError("way of rounding", self.dtype, KINDS)
        if isinstance(self.inner, Rounded):
            raise InputError(
                f"What is kept in {self.inner.dtype} cannot be in {self.dtype}, too: give one of both."
            )

    def forms(self, state: Shape, dtype: torch.dtype) -> tuple[Form, ...]:
        shape = self.inner.fitted(state).shape(state)
        if self.dtype == "bf16":
            return ((shape, torch.bfloat16),)
        return (shape, torch.int8), ((1,) * len(shape), torch.float32)

    def store(self, z: Tensor) -> tuple[Tensor, ...]:
        if self.dtype == "bf16":
            return (z.to(torch.bfloat16),)
        scale = z.abs().amax(dim=tuple(range(1, z.ndim)), keepdim=True).float() / LARGEST
        steps = z / torch.where(scale > 0, scale, torch.ones_like(scale))
        return steps.round().clamp(-LARGEST, LARGEST).to(torch.int8), scale

    def load(self, kept: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        if self.dtype == "bf16":
            return kept[0].to(dtype)
        steps, scale = kept
        return steps.to(dtype) * scale.to(dtype)

    # ---- everything else is the inner filter's --------------------------------------------------

    def fitted(self, state: Shape) -> Self:
        return dataclasses.replace(self, inner=self.inner.fitted(state))

    def shape(self, state: Shape) -> Shape:
        return self.inner.shape(state)

    def down(self, x: Tensor) -> Tensor:
        return self.inner.down(x)

    def up(self, z: Tensor) -> Tensor:
        return self.inner.up(z)

    def push(self, z: Tensor, at: Tensor) -> Tensor:
        return self.inner.push(z, at)

    def transpose(self, g: Tensor, at: Tensor | None = None) -> Tensor:
        return self.inner.transpose(g, at)

    def solve(self, g: Tensor, at: Tensor | None = None) -> Tensor:
        return self.inner.solve(g, at)

    def direction(self, g: Tensor, at: Tensor) -> Tensor:
        return self.inner.direction(g, at)

    def norm(self, state: Shape) -> float:
        return self.inner.norm(state)
