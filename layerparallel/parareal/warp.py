"""WarpNet's operator: K residual units by their first-order Taylor expansion, all at one state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..errors import InputError
from ..staged.in_place import InPlace
from ..staged.pieces import Piece, Step, named_modules, pieces_of

Residual = Callable[[Tensor], Tensor]


def warped(residuals: Sequence[Residual], u: Tensor) -> Tensor:
    """u + sum_i F_i(u) + sum_i F_i'(u) sum_{j<i} F_j(u), in place of one unit after the other.

    The F_i(u) do not wait for each other, and neither do then the products with the F_i'(u); here each
    F_i is evaluated once, by forward-mode differentiation along the sum of those before it.

    Args:
        residuals: F_1..F_K, from (B, ...) to the same shape.
        u: the state in front of the first unit.
    """
    moved = residuals[0](u)
    found = u + moved
    for residual in residuals[1:]:
        with forward_ad.dual_level():
            value, along = forward_ad.unpack_dual(residual(forward_ad.make_dual(u, moved)))
        found = found + value if along is None else found + value + along
        moved = moved + value
    return found


def warp(network: Any, K: int) -> WarpNetwork:
    """A network whose chains take K residual units at a time, by the K-warp operator.

    Units are the steps of chains whose state is one tensor, with their step size; what is left of a
    chain is one operator of fewer units. Everything else is as in the network.

    Args:
        network: a `Network`, of which a copy is used, or its serial twin. An nn.Sequential of residual
            blocks becomes one by `Network.from_modules`.
        K: 1 leaves the network as it is.

    Raises:
        InputError: K is below 1, or the network has no chain of residual units.
    """
    if K < 1:
        raise InputError(f"K = {K} residual units cannot be taken at a time; use 1 or more.")
    made = WarpNetwork(network, K)
    if not any(isinstance(run[0], Step) for run in made.runs):
        raise InputError(
            "The network has 0 chains of residual units, and an operator needs units of one chain; give "
            "a Network, such as Network.from_modules makes of a list of blocks."
        )
    return made


class WarpNetwork(nn.Module):
    """What `warp` returns; parameters and buffers have the names of the plain network."""

    def __init__(self, network: Any, K: int):
        super().__init__()
        self._modules.update(named_modules(network))
        pieces = [piece for name in self._modules for piece in pieces_of(self, name)]
        self.K, self.runs = K, _runs(pieces, K)
        self._in_place = InPlace()

    def forward(self, x: Any) -> Any:
        """The output; on one process.

        Raises:
            InputError: a unit changes its state in place, at which the others are evaluated, too.
        """
        first = 0
        for run in self.runs:
            x = run[0](x) if len(run) == 1 else warped(self._units(first, run), x)
            first += len(run)
        return x

    def _units(self, first: int, run: Sequence[Piece]) -> list[Residual]:
        """What the units of a run add; `first` pieces of the network are in front of it."""
        return [
            partial(self._kept, f"Piece {n} of the network", _residual(piece))
            for n, piece in enumerate(run, first)
        ]

    def _kept(self, name: str, residual: Residual, u: Tensor) -> Tensor:
        """What a unit adds to a state, which it has to leave as it is."""
        value = self._in_place.call(name, self.training, residual, u)
        if self._in_place.changes(name, self.training):
            raise InputError(
                f"{name} changes its state in place, and K = {self.K} units are evaluated at one state; "
                "give units that leave it as it is, without inplace=True, say, or K = 1."
            )
        return value

    def extra_repr(self) -> str:
        """K."""
        return f"K={self.K}"


def _runs(pieces: Sequence[Piece], K: int) -> tuple[tuple[Piece, ...], ...]:
    """Up to K steps of one chain each, and all other pieces alone."""
    found: list[list[Piece]] = []
    for piece in pieces:
        before = found[-1] if found else []
        together = isinstance(piece, Step) and before and isinstance(before[0], Step)
        if together and before[0].holder is piece.holder and len(before) < K:
            before.append(piece)
        else:
            found.append([piece])
    return tuple(tuple(run) for run in found)


def _residual(piece: Piece) -> Residual:
    """What the unit adds to a state."""
    chain: Any = piece.holder
    if chain.plain:
        return lambda u: torch.mul(piece.module(u), chain.h)
    return lambda u: piece(u) - u
