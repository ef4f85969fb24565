"""What ranks have to agree on while they train: whose samples, clock, signals and sums."""

import dataclasses
import time

import torch

from ..data.batches import Batches
from ..errors import InputError
from ..group import Group
from .interruption import Interruption
from .sums import Sums

TIMES = 20
"""A checkpoint takes at most about one part in so many of the time."""


def share(batches: Batches, data: Group) -> Batches:
    """The share of one rank of a data group in every mini batch; all shares are of one size.

    Up to ``data.size - 1`` samples of a batch, as many as cannot be shared, are left out.

    Raises:
        InputError: a batch has fewer samples than there are ranks.
    """
    if data.alone:
        return batches
    if batches.size < data.size:
        raise InputError(
            f"A batch of {batches.size} samples cannot be shared by {data.size} data-parallel ranks: "
            f"give at least {data.size}."
        )
    chosen = []
    for batch in torch.arange(len(batches.order)).split(batches.size):
        each = len(batch) // data.size
        chosen.append(batch[data.rank * each : (data.rank + 1) * each])
    places = torch.cat(chosen)
    batches.order, batches.size = batches.order[places], batches.size // data.size
    if batches.drawn is not None:
        batches.drawn = batches.drawn[places]
    return batches


def over_data(sums: Sums, data: Group) -> Sums:
    """The sums over a data group: of all samples of the batches so far."""
    if data.alone:
        return sums
    counts = torch.tensor([sums.samples, sums.fallbacks], device=sums.correct.device)
    counts = data.total(torch.cat([counts, sums.correct.view(1)]))
    samples, fallbacks, _ = counts.tolist()
    loss = data.total(sums.loss)
    return dataclasses.replace(sums, loss=loss, correct=counts[2], samples=samples, fallbacks=fallbacks)


def added(shares: list[Sums]) -> Sums:
    """The sums of all ranks of a data group as one."""
    return dataclasses.replace(
        shares[0],
        loss=torch.stack([each.loss for each in shares]).sum(),
        correct=torch.stack([each.correct for each in shares]).sum(),
        samples=sum(each.samples for each in shares),
        fallbacks=sum(each.fallbacks for each in shares),
    )


class Due:
    """When a checkpoint is due: all ranks hear it at the same step.

    It is due when the first rank's clock says so, or when any rank got a signal. One process looks after
    every step. Several ask each other about once a second, or ten times in `seconds` if that is more.

    Args:
        seconds: from one checkpoint to the next, or `TIMES` as long as it took to write the last one, if
            that is more; with 0 one is due after every step, whatever it takes.

    Attributes:
        signal: the one that a rank got, which ends the run after this checkpoint.
    """

    def __init__(self, seconds: float, group: Group, interruption: Interruption) -> None:
        self.seconds, self.group, self.interruption = seconds, group, interruption
        self.signal: int | None = None
        self.restart(0.0)

    def restart(self, taken: float) -> None:
        """A checkpoint was written, in so many seconds."""
        self._wait = max(self.seconds, TIMES * taken) if self.seconds else 0.0
        self._saved = self._asked = time.monotonic()
        self._steps, self._next = 0, 1

    def now(self, surely: bool = False) -> bool:
        """To be asked once after every step; `surely` has the ranks ask each other in any case."""
        self._steps += 1
        if self._steps < self._next and not surely:
            return False
        now = time.monotonic()
        step = max((now - self._asked) / self._steps, 1e-6)
        pause = 1 if self.group.alone else max(1, int(min(1.0, self.seconds / 10) / step))
        told = self.group.gather((now - self._saved >= self._wait, pause, self.interruption.asked))
        late, self._next, _ = told[0]
        self.signal = next((number for *_, number in told if number is not None), None)
        self._asked, self._steps = now, 0
        return late or self.signal is not None
