"""What neighbouring stages tell each other in parallel steps, where each is on a rank of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from ...group import Group, Pending
from ...group.base import Arrived
from .filters import Form
from .store import Rows


class Neighbours:
    """The messages of a step: rank r has stage r, and keeps what interface r needs.

    1. `lend`: the rows of interface r for a mini batch, as they are kept, go to rank r-1, whose stage
       ends there. They travel from the end of the step before, while the batch is loaded, or from the
       beginning of its own step, to the end of its forward pass.
    2. `answer`, before the backward pass: the pulled difference of interface r+1 goes to rank r+1, and
       what the last stage has found goes to all. They travel during the backward pass.

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
        self._found = torch.empty(0)

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

    def answer(self, pulled: Tensor | None, like: Tensor | None, found: Tensor) -> None:
        """Starts sending a pulled difference to the next rank, and receiving one for this rank's rows.

        Args:
            pulled: None on the last rank.
            like: Λ of this rank's interface; None on the first.
            found: what the last rank tells all others, which receive it here.
        """
        self._found = found
        if self.group.alone:
            return
        before, after, last = self.group.rank - 1, self.group.rank + 1, self.group.size - 1
        sends, receives = [], []
        if pulled is not None:
            sends.append((after, pulled.contiguous()))
        if like is not None:
            self._pulled = torch.empty_like(like, memory_format=torch.contiguous_format)
            receives.append((before, self._pulled))
        if self.group.last:
            sends += [(rank, found) for rank in range(last)]
        else:
            receives.append((last, found))
        self._answered = self.group.exchange(sends, receives)

    def answered(self) -> tuple[Tensor | None, Tensor]:
        """When they have arrived: the pulled difference of this rank's interface, and what was found."""
        self._answered.wait()
        return self._pulled, self._found
