"""What every filter of auxiliary variables is: a map from what is kept to the state it stands for."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

Shape = tuple[int, ...]
"""Of one sample, without the batch."""
Form = tuple[Shape, torch.dtype]
"""Shape and dtype of what is kept of one sample."""


class Filter(abc.ABC):
    """How the auxiliary variable of an interface is kept: Λ in place of λ = US(Λ).

    With J the derivative of US at Λ, the same everywhere where US is linear, as it is by default.
    All methods work on batches: states `(B, *state)`, kept ones `(B, *shape(state))`.
    """

    def fitted(self, state: Shape) -> Self:
        """This filter for states `(B, *state)`; to be called before anything but `bytes`.

        Raises:
            InputError: it cannot be used with them.
        """
        return self

    @abc.abstractmethod
    def shape(self, state: Shape) -> Shape:
        """Shape of Λ, of one sample."""

    @abc.abstractmethod
    def down(self, x: Tensor) -> Tensor:
        """Λ = DS(x): the one with US(Λ) nearest to x, so that DS(US(Λ)) = Λ where US is linear."""

    @abc.abstractmethod
    def up(self, z: Tensor) -> Tensor:
        """US(z), the state that is kept as z."""

    def push(self, z: Tensor, at: Tensor) -> Tensor:
        """J z, with J taken at Λ = `at`: multipliers are kept as z and used as this."""
        return self.up(z)

    @abc.abstractmethod
    def transpose(self, g: Tensor, at: Tensor | None = None) -> Tensor:
        """Jᵀ g: the gradient by Λ from the gradient g by the state."""

    @abc.abstractmethod
    def solve(self, g: Tensor, at: Tensor | None = None) -> Tensor:
        """(JᵀJ)⁻¹ g, so that ``solve(transpose(y)) = DS(y)`` where US is linear."""

    def direction(self, g: Tensor, at: Tensor) -> Tensor:
        """Along which Λ descends, from its gradient g: the gradient itself, if nothing else is said."""
        return g

    @abc.abstractmethod
    def norm(self, state: Shape) -> float:
        """Largest eigenvalue of the map from Λ to ``direction(JᵀJ Λ)``; JᵀJ is US's own."""

    # ---- what is kept ---------------------------------------------------------------------------

    def forms(self, state: Shape, dtype: torch.dtype) -> tuple[Form, ...]:
        """Of the tensors that `store` keeps of one sample, for states of a dtype."""
        return ((self.fitted(state).shape(state), dtype),)

    def store(self, z: Tensor) -> tuple[Tensor, ...]:
        """Λ as it is kept; several tensors where it is compressed."""
        return (z,)

    def load(self, kept: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Λ, in a dtype, from what `store` gave."""
        return kept[0]

    def bytes(self, state: Shape, dtype: torch.dtype = torch.float32) -> int:
        """Bytes kept of one sample.

        Raises:
            InputError: the filter cannot be used with such states.
        """
        return sum(math.prod(shape) * kept.itemsize for shape, kept in self.forms(state, dtype))


@dataclass(frozen=True)
class Whole(Filter):
    """No filter: Λ = λ."""

    def shape(self, state: Shape) -> Shape:
        return state

    def down(self, x: Tensor) -> Tensor:
        return x

    def up(self, z: Tensor) -> Tensor:
        return z

    def transpose(self, g: Tensor, at: Tensor | None = None) -> Tensor:
        return g

    def solve(self, g: Tensor, at: Tensor | None = None) -> Tensor:
        return g

    def norm(self, state: Shape) -> float:
        return 1.0
