"""Auxiliary variables of low rank: a state as a product of two thin factors."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ...errors import InputError
from .filter import Filter, Shape

FLOOR = 1e-4
"""Of a sample's singular values, relative to its largest, where they are shared out to L and R."""


@dataclass(frozen=True)
class LowRank(Filter):
    """States `(C, ...)` kept, sample by sample, as two factors of their matrix C × n.

    ``US(L, R) = L R`` with L `(C, rank)` and R `(rank, n)`; Λ `(rank, C + n)` has the columns of L
    beside the rows of R. DS is the truncated singular value decomposition, with L and R of equal norms.
    US is not linear: with (dL, dR) kept in the same way,

        J (dL, dR) = dL R + L dR,    Jᵀ g = (g Rᵀ, Lᵀ g).

    The two factors can carry the same change, and how fast they learn depends on each other's size. So
    Λ descends along ``direction = solve``, of which JᵀJ's part is the orthogonal projection onto the
    changes that J can make (of norm 1), whatever the factors:

        solve(Jᵀ g):  dL = g Rᵀ (R Rᵀ)⁻¹,  dR = (Lᵀ L)⁻¹ (Lᵀ g − Lᵀ dL R).

    Args:
        rank: columns of L, at least 1.
        state: shape of the states, which `fitted` sets.

    Raises:
        InputError: the rank is below 1.
    """

    rank: int
    state: Shape | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"There are no factors of rank {self.rank}: give at least 1.")

    def fitted(self, state: Shape) -> Self:
        if len(state) < 2:
            raise InputError(
                f"A state of shape {state} is no matrix to be kept at rank {self.rank}: give states "
                "(channels, ...), or the filter none."
            )
        most = min(state[0], math.prod(state[1:]))
        if self.rank > most:
            raise InputError(
                f"A state of shape {state} has at most rank {most}, not {self.rank}: give at most that."
            )
        return dataclasses.replace(self, state=state)

    def shape(self, state: Shape) -> Shape:
        return self.rank, state[0] + math.prod(state[1:])

    def down(self, x: Tensor) -> Tensor:
        matrix = x.flatten(2)
        wide = matrix.shape[1] <= matrix.shape[2]
        gram = matrix @ matrix.mT if wide else matrix.mT @ matrix
        vectors = torch.linalg.eigh(gram).eigenvectors[..., -self.rank :]  # the largest come last
        left = vectors if wide else matrix @ vectors
        right = vectors.mT @ matrix if wide else vectors.mT
        sizes = (right if wide else left.mT).norm(dim=-1)  # singular values; the others are of norm 1
        # Directions that x does not have keep one factor, so that Λ can grow into them.
        root = sizes.clamp(min=FLOOR * sizes.amax(dim=-1, keepdim=True)).sqrt()
        root = torch.where(root > 0, root, torch.ones_like(root))
        for_left, for_right = (root, 1 / root) if wide else (1 / root, root)
        return torch.cat([(left * for_left[:, None]).mT, right * for_right[..., None]], dim=-1)

    def up(self, z: Tensor) -> Tensor:
        left, right = self._factors(z)
        return self._state(left @ right)

    def push(self, z: Tensor, at: Tensor) -> Tensor:
        (left, right), (d_left, d_right) = self._factors(at), self._factors(z)
        return self._state(d_left @ right + left @ d_right)

    def transpose(self, g: Tensor, at: Tensor | None = None) -> Tensor:
        left, right = self._factors(at)
        matrix = g.flatten(2)
        return torch.cat([right @ matrix.mT, left.mT @ matrix], dim=-1)

    def solve(self, g: Tensor, at: Tensor | None = None) -> Tensor:
        (left, right), (by_left, by_right) = self._factors(at), self._factors(g)
        d_left = by_left @ _inverse(right @ right.mT)
        d_right = _inverse(left.mT @ left) @ (by_right - left.mT @ d_left @ right)
        return torch.cat([d_left.mT, d_right], dim=-1)

    def direction(self, g: Tensor, at: Tensor) -> Tensor:
        return self.solve(g, at)

    def norm(self, state: Shape) -> float:
        return 1.0

    def _factors(self, z: Tensor | None) -> tuple[Tensor, Tensor]:
        assert z is not None
        assert self.state is not None, "call fitted first"
        left, right = z.split([self.state[0], math.prod(self.state[1:])], dim=-1)
        return left.mT, right

    def _state(self, matrix: Tensor) -> Tensor:
        assert self.state is not None, "call fitted first"
        return matrix.view(len(matrix), *self.state)


def _inverse(gram: Tensor) -> Tensor:
    """Of symmetric matrices; where a factor has not its full rank, the pseudo-inverse."""
    return torch.linalg.pinv(gram, hermitian=True)
