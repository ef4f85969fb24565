"""The parareal form of a network, as its equations stand in the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ..group.norms import Norms
from ..staged.pieces import Piece, pieces_of
from ..steps.state import as_given, as_state
from .describe import Part, table
from .trace import through

Holders = Literal["every", "last"]
"""Which ranks of a layer group have the coarse network and the postprocessing."""


@dataclass(frozen=True)
class Correction:
    """How much the coarse network does at one interface, on one batch.

    Attributes:
        jump: norm of y~_j - x_{j+1} over that of y~_j: how far the preprocessing is from what is behind
            the subnetworks in front of it.
        size: norm of F^j(y~_j - x_{j+1}) over that of y_{j+1}.
    """

    jump: float
    size: float


class Equations(Norms):
    """The parts of a parareal network, and its equations; see `PararealNetwork`."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        ends: Sequence[int],
        preprocessing: Sequence[nn.Module],
        coarse: Sequence[nn.Module],
        parts: Sequence[Part],
    ):
        super().__init__()
        self._modules.update(modules)
        self._pieces = tuple(piece for name in modules for piece in pieces_of(self, name))
        self._ends, self._parts = tuple(ends), tuple(parts)
        self.preprocessing = nn.ModuleDict({str(j): C for j, C in enumerate(preprocessing, start=2)})
        self.coarse = nn.ModuleDict({str(j): F for j, F in enumerate(coarse, start=1)})
        self.holders: Holders = "every"
        self.alike: tuple[range, ...] = ()
        self._seen: list[Correction] | None = None  # while somebody watches the coarse network

    @property
    def count(self) -> int:
        """N."""
        return len(self._ends) - 1

    @property
    def ends(self) -> tuple[int, ...]:
        """How many pieces of the original network are in front of g^1, behind g^1, ..., behind g^N."""
        return self._ends

    def describe(self) -> tuple[Part, ...]:
        """Parameters and operations of C^1..C^N, g^1..g^N, F^1..F^{N-1} and h, on all ranks the same."""
        return self._parts

    # ---- the parts ------------------------------------------------------------------------------

    def pieces(self, part: Literal["opening", "closing"] | int) -> tuple[Piece, ...]:
        """Of the original network: those of C^1, of h, or of g^j for a number j."""
        if part == "opening":
            return self._pieces[: self._ends[0]]
        if part == "closing":
            return self._pieces[self._ends[-1] :]
        return self._pieces[self._ends[part - 1] : self._ends[part]]

    def prepared(self, j: int, x: Any) -> Any:
        """C^j(x)."""
        if j == 1:
            return through(self.pieces("opening"), x)
        return self.preprocessing[str(j)](x)

    def fine(self, j: int, state: Any) -> Any:
        """g^j(x_j)."""
        return through(self.pieces(j), state)

    def corrected(self, x: Sequence[Any], y: Sequence[Any]) -> Any:
        """y~_N from all x_j = ``x[j - 1]`` and y_j = ``y[j - 1]``."""
        state = y[0]
        for j in range(1, self.count):
            jump = _combined(state, x[j], -1)
            correction = self.coarse[str(j)](jump)
            if self._seen is not None:
                sizes = _norm(jump) / _norm(state), _norm(correction) / _norm(y[j])
                self._seen.append(Correction(*sizes))
            state = _combined(y[j], correction, 1)
        return state

    def closed(self, state: Any) -> Any:
        """h(y~_N)."""
        return through(self.pieces("closing"), state)

    def uncounted(self) -> list[nn.Parameter]:
        """Parameters that sums over the layer group leave out on this rank: the last one counts them."""
        if self.group.last or self.holders == "last":
            return []
        parts = [*self.coarse.values(), *(piece.module for piece in self.pieces("closing"))]
        return [p for part in parts for p in part.parameters()]

    def extra_repr(self) -> str:
        """The number of subnetworks and the table of `describe`."""
        return f"{self.count} subnetworks\n{table(self._parts)}"


def _combined(a: Any, b: Any, sign: int) -> Any:
    """a + sign b, for states of one tensor or several."""
    pairs = zip(as_state(a, "a state"), as_state(b, "a state"), strict=True)
    return as_given(tuple(u + v if sign > 0 else u - v for u, v in pairs))


def _norm(state: Any) -> float:
    """The 2-norm of a state of one tensor or several; tiny in place of 0, to be divided by."""
    parts: list[Tensor] = [a.detach().double() for a in as_state(state, "a state")]
    return max(math.sqrt(sum(float(a.square().sum()) for a in parts)), 1e-300)
