"""The parareal form of a network as a module: on one process, or a subnetwork on each rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..group import Group, layer_group
from .batched import Part, in_batches, runs_of, switched
from .equations import Correction, Equations, Holders
from .ranks import keep_own, propagate
from .trace import evaluating

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class PararealNetwork(Equations):
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
        shapes: of the example and of the states at the ends, without samples.

    Attributes:
        holders: which ranks have the coarse network and the postprocessing.
        alike: which fine parts, counted from 0, one process computes in one batch; see `batched`.
    """

    def forward(self, x: Any) -> Any:
        """The output, on every rank; all ranks call it with the same batch.

        On a layer group `backward` is called on every rank, on a loss that is the same on all. Random
        numbers (of dropout, say) are those of the rank that has the part, of the first if all have it.
        """
        if not self.group.alone:
            return propagate(self, x)
        begins = [self.prepared(j, x) for j in range(1, self.count + 1)]
        fine = [self.pieces(j) for j in range(1, self.count + 1)]
        self.compare(fine, begins)
        ends = in_batches(fine, begins, self.alike, lambda n, state: self.fine(n + 1, state))
        return self.closed(self.corrected(begins, ends))

    def compare(self, fine: Sequence[Part], begins: Sequence[Any]) -> None:
        """Finds out anew which fine parts are computed in one batch, where they have been switched over.

        Args:
            fine: all fine parts.
            begins: the states that they begin with, which are left as they are.
        """
        if self.alike and switched(fine, self.alike) != self._switched:
            self.compare_anew(fine, begins)

    def compare_anew(self, fine: Sequence[Part], begins: Sequence[Any]) -> None:
        """Sets `alike` to what the parts are found to be now."""
        with torch.inference_mode(False):
            self.alike = runs_of(fine, begins)
        self._switched = switched(fine, self.alike)

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
