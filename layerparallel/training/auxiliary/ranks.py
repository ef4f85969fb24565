"""What neighbouring stages tell each other in a parallel step, where each is on a rank of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from layerparallel.group import Group, Pending
from layerparallel.group.base import Arrived
from layerparallel.training.auxiliary.filters import Form
from layerparallel.training.auxiliary.store import Rows


class Neighbours:
    """The messages of one step: rank r has stage r, and keeps what interface r needs.

    1. At the beginning of a step, `lend`: the rows of interface r, as they are kept, go to rank r-1,
       whose stage ends there. They travel during its forward pass.
    2. Before the backward pass, `answer`: the pulled difference of interface r+1 goes to rank r+1. It
       travels during the backward pass.

    So a rank sends no more than rows of the kept size, to each side once. One process with all stages
    sends nothing.

    Args:
        group: of the ranks, or of one process alone.
        following: forms of the rows of interface r+1, of one sample; none on the last rank.
    """

    def __init__(self, group: Group, following: tuple[Form, ...]) -> None:
        self.group = group
        self.following = following
        self._lent: Pending = Arrived()
        self._answered: Pending = Arrived()
        self._rows: Rows = ()
        self._pulled: Tensor | None = None

    def lend(self, rows: Rows, samples: int, device: torch.device) -> None:
        """Starts sending the rows of this rank's interface, and receiving those of the next one's."""
        if self.group.alone:
            return
        self._rows = tuple(
            torch.empty((samples, *shape), dtype=dtype, device=device) for shape, dtype in self.following
        )
        before, after = self.group.rank - 1, self.group.rank + 1
        sends = [(before, row.contiguous()) for row in rows]
        self._lent = self.group.exchange(sends, [(after, row) for row in self._rows])

    def borrowed(self) -> Rows:
        """The next rank's rows, when they have arrived."""
        self._lent.wait()
        return self._rows

    def answer(self, pulled: Tensor | None, like: Tensor | None) -> None:
        """Starts sending a pulled difference to the next rank, and receiving one for this rank's rows.

        Args:
            pulled: None on the last rank.
            like: Λ of this rank's interface; None on the first.
        """
        if self.group.alone:
            return
        before, after = self.group.rank - 1, self.group.rank + 1
        self._pulled = (
            None if like is None else torch.empty_like(like, memory_format=torch.contiguous_format)
        )
        sends = [] if pulled is None else [(after, pulled.contiguous())]
        receives = [] if self._pulled is None else [(before, self._pulled)]
        self._answered = self.group.exchange(sends, receives)

    def answered(self) -> Tensor:
        """The pulled difference of this rank's interface, when it has arrived."""
        self._answered.wait()
        assert self._pulled is not None
        return self._pulled
