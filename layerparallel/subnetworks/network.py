"""The parareal form of a network, as its equations stand in the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from ..fields import as_given, as_state
from ..group import Group, layer_group
from ..norms import Norms
from ..staged.pieces import Piece, pieces_of
from .batched import in_batches
from .describe import Part, table
from .ranks import keep_own, propagate
from .trace import evaluating, through

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

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


class PararealNetwork(Norms):
    """N subnetworks that do not wait for each other, joined by a coarse network::

        x_j = C^j(x),  y_j = g^j(x_j)                    j = 1..N, all at once
        y~_1 = y_1
        y~_{j+1} = y_{j+1} + F^j(y~_j - x_{j+1})         j = 1..N-1, the coarse network
        output = h(y~_N)

    It is made by `parareal_network`. The network that it is made of keeps its modules, which are C^1,
    the g^j and h, and their names, so that its state fits; there are ``preprocessing.j`` for C^j,
    j = 2..N, and ``coarse.j`` for F^j beside them. With N = 1 there is nothing else.

    Args:
        modules: of the original network, by name.
        ends: of its pieces, N + 1 of them: how many are in front of g^1, behind g^1, ..., behind g^N.
        preprocessing: C^2..C^N.
        coarse: F^1..F^{N-1}.
        parts: what they cost.

    Attributes:
        holders: which ranks have the coarse network and the postprocessing.
        alike: which fine parts, counted from 0, one process computes in one batch; see `batched`.
    """

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

    # ---- the whole ------------------------------------------------------------------------------

    def forward(self, x: Any) -> Any:
        """The output, on every rank; all ranks call it with the same batch.

        On a layer group `backward` is called on every rank, on a loss that is the same on all. Random
        numbers (of dropout, say) are those of the rank that has the part, of the first if all have it.
        """
        if not self.group.alone:
            return propagate(self, x)
        begins = [self.prepared(j, x) for j in range(1, self.count + 1)]
        fine = [self.pieces(j) for j in range(1, self.count + 1)]
        return self.closed(self.corrected(begins, in_batches(fine, begins, self.alike)))

    def distribute(self, over: DeviceMesh | Group, holders: Holders = "every") -> PararealNetwork:
        """Keeps C^j and g^j of the subnetwork j = rank + 1, in place; on one process all of them.

        Every rank makes the whole network with the same seed and calls this; optimisers are made
        afterwards.

        Args:
            over: the dimension of a device mesh that has N ranks, ``mesh["layer"]``, or one rank.
            holders: who has the coarse network and the postprocessing. "every" rank: all send each
                other x_j and y_j, take the coarse steps for themselves, and go back without a message.
                The "last": it is sent them all, and sends their gradients back.

        Returns:
            The network itself.

        Raises:
            InputError: the ranks are not as many as the subnetworks or disagree on the network;
                subnetworks share parameters; or the network is distributed already.
        """
        group = layer_group(over)
        if keep_own(self, group, holders):
            self._group, self.holders = group, holders
        return self

    def corrections(self, x: Any) -> tuple[Correction, ...]:
        """Jumps and coarse corrections at the N - 1 interfaces, on every rank; all call it.

        In evaluation mode and without gradients; the network is left as it was.
        """
        self._seen = []
        try:
            with evaluating([self]):
                self(x)
            return self.group.tell(tuple(self._seen), self.group.size - 1)
        finally:
            self._seen = None

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
