"""The parareal form of a network, as its equations stand in the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..group.norms import Norms
from ..staged.in_place import InPlace
from ..staged.pieces import Piece, pieces_of
from ..steps.state import as_given, as_state
from .describe import Part, table
from .trace import Shape, reason, shape_of, through

Holders = Literal["every", "last"]
"""Which ranks of a layer group have the coarse network and the postprocessing."""
REMEDY = (
    "give inputs of the size that the network was made for, or make it with parts that fit all, by "
    "preprocessing= and coarse="
)
"""For inputs of another size."""


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
        shapes: Sequence[Shape | None],
    ):
        super().__init__()
        self._modules.update(modules)
        self._pieces = tuple(piece for name in modules for piece in pieces_of(self, name))
        self._ends, self._parts, self._shapes = tuple(ends), tuple(parts), tuple(shapes)
        self.preprocessing = nn.ModuleDict({str(j): C for j, C in enumerate(preprocessing, start=2)})
        self.coarse = nn.ModuleDict({str(j): F for j, F in enumerate(coarse, start=1)})
        self.holders: Holders = "every"
        self.alike: tuple[range, ...] = ()
        self._switched: list[Any] = []  # what the modules of `alike` were set to when they were compared
        self._seen: list[Correction] | None = None  # while somebody watches the coarse network
        self._in_place = InPlace()

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
        """C^j(x); x, which all C^j get, is left as it is."""
        work = self.preprocessing[str(j)] if j > 1 else partial(through, self.pieces("opening"))
        return self._unchanged(f"preprocessing C^{j}", work, 0, x)

    def fine(self, j: int, state: Any) -> Any:
        """g^j(x_j); x_j, from which a difference is taken, is left as it is."""
        return self._unchanged(f"subnetwork g^{j}", partial(through, self.pieces(j)), j, state)

    def _unchanged(self, name: str, work: Callable[[Any], Any], k: int, value: Any) -> Any:
        """The value of a part, which leaves its input as it is; `k` as for `_called`."""
        work = partial(self._called, name, work, k)
        return self._in_place.call(f"The {name}", self.training, work, value)

    def _called(self, name: str, work: Callable[[Any], Any], k: int, value: Any) -> Any:
        """The value of a part.

        Args:
            k: what it takes: 0 the input, j a state like x_j, N + 1 one like y_N.

        Raises:
            InputError: it cannot take the value, which is of another shape than those it was made for.
        """
        try:
            return work(value)
        except Exception as error:
            given, made = shape_of(value), self._shapes[k]
            if given == made or isinstance(error, torch.OutOfMemoryError):
                raise
            raise InputError(
                f"The {name} cannot take what is of shape {given}, while it was made for {made} "
                f"({reason(error)}); {REMEDY}."
            ) from error

    def corrected(self, x: Sequence[Any], y: Sequence[Any]) -> Any:
        """y~_N from all x_j = ``x[j - 1]`` and y_j = ``y[j - 1]``.

        Raises:
            InputError: x_{j+1} is of another shape than y_j, or a correction than y_{j+1}, or F^j cannot
                take their difference, as may be for an input of another size than the example.
        """
        state = y[0]
        for j in range(1, self.count):
            jump = _combined(state, x[j], -1, f"preprocessing C^{j + 1}")
            size = 0.0 if self._seen is None else _norm(jump) / _norm(state)  # before F^j may change it
            correction = self._called(f"coarse network F^{j}", self.coarse[str(j)], j + 1, jump)
            if self._seen is not None:
                self._seen.append(Correction(size, _norm(correction) / _norm(y[j])))
            state = _combined(y[j], correction, 1, f"coarse network F^{j}")
        return state

    def closed(self, state: Any) -> Any:
        """h(y~_N)."""
        work = partial(through, self.pieces("closing"))
        return self._called("postprocessing h", work, self.count + 1, state)

    def uncounted(self) -> list[nn.Parameter]:
        """Parameters that sums over the layer group leave out on this rank: the last one counts them."""
        if self.group.last or self.holders == "last":
            return []
        parts = [*self.coarse.values(), *(piece.module for piece in self.pieces("closing"))]
        return [p for part in parts for p in part.parameters()]

    def extra_repr(self) -> str:
        """The number of subnetworks and the table of `describe`."""
        return f"{self.count} subnetworks\n{table(self._parts)}"


def _combined(a: Any, b: Any, sign: int, maker: str) -> Any:
    """a + sign b, for states of one tensor or several; `maker` is the part that has made b."""
    first, second = as_state(a, "a state"), as_state(b, f"the value of the {maker}")
    if [u.shape for u in first] != [v.shape for v in second]:
        wanted, found = (
            as_given(tuple(tuple(u.shape) for u in state))  # type: ignore[arg-type]
            for state in (first, second)
        )
        raise InputError(
            f"The {maker} makes a state of shape {found} of this input, where {wanted} is needed; "
            f"{REMEDY}."
        )
    pairs = zip(first, second, strict=True)
    return as_given(tuple(u + v if sign > 0 else u - v for u, v in pairs))


def _norm(state: Any) -> float:
    """The 2-norm of a state of one tensor or several; tiny in place of 0, to be divided by."""
    parts: list[Tensor] = [a.detach().double() for a in as_state(state, "a state")]
    return max(math.sqrt(sum(float(a.square().sum()) for a in parts)), 1e-300)
