"""Where the time of training goes, part by part."""

import time
from collections.abc import Iterator
from typing import Any

from ..network.network import Network
from ..training.base import Method, unwatched

SOLVES = ("forward_fine", "forward_coarse", "adjoint_fine", "adjoint_coarse")
PARTS = ("data", "forward", *SOLVES, "loss", "backward", "optimizer")
PARTS += ("comparison", "filling", "auxiliary", "messages", "rest")


class Stopwatch:
    """Books seconds of training to its parts while it is entered; each second once.

    `data` is the making of batches; `forward` and `backward` are the two passes outside of chains, and
    of ordinary PyTorch all of them. `..._fine` are the solves of chains on the finest level (the
    adjoint's with the gradients of all parameters), `..._coarse` those on all coarser ones, with
    coarsening and residuals. `optimizer` has zeroed gradients and learning rates, too; `comparison`
    is what `Adaptive` spends on exact gradients. `filling` is the propagation from which auxiliary
    variables begin, `auxiliary` what reads and updates them, `messages` the wait for those of other
    stages. `rest` is what the trainer does between two steps, and whatever a method does not name.
    On a GPU, whose work is asynchronous, these are the times it took to launch it.

    Args:
        method: says what it has done by its `lap`.
        before: seconds booked so far, by part; they are gone on with.
    """

    def __init__(self, method: Method, before: dict[str, float]) -> None:
        self._networks = [each for each in method.network.modules() if isinstance(each, Network)]
        self._methods = [each for each in _wrapped(method) if hasattr(each, "lap")]
        self._taken = {part: before.get(part, 0.0) for part in PARTS}
        self._begun, self._last, self._solved = self._solves(), time.perf_counter(), self._solving()

    def __enter__(self) -> "Stopwatch":
        for method in self._methods:
            method.lap = self.lap
        return self

    def __exit__(self, *_: object) -> None:
        for method in self._methods:
            method.lap = unwatched

    def lap(self, part: str) -> None:
        """Book the time since the last lap to a part, but solves within it to theirs."""
        now, solved = time.perf_counter(), self._solving()
        self._taken[part] += now - self._last - (solved - self._solved)
        self._last, self._solved = now, solved

    def skip(self) -> None:
        """Leave out the time since the last lap."""
        self._last = time.perf_counter()

    def split(self) -> dict[str, float]:
        """Seconds by part, until the last lap."""
        found, solves = dict(self._taken), zip(SOLVES, self._solves(), self._begun, strict=True)
        for part, seconds, begun in solves:
            found[part] += seconds - begun
        return found

    def _solving(self) -> float:
        """Seconds of all solves so far."""
        total = 0.0
        for network in self._networks:
            for levels in network.seconds.values():
                total += sum(levels)
        return total

    def _solves(self) -> list[float]:
        """The same in the order of `SOLVES`."""
        found = []
        for direction in ("forward", "adjoint"):
            levels = [network.seconds[direction] for network in self._networks]
            found += [sum(sum(each[:1]) for each in levels), sum(sum(each[1:]) for each in levels)]
        return found


def _wrapped(method: Any) -> Iterator[Any]:
    """A method, and the ones inside it."""
    while method is not None:
        yield method
        method = getattr(method, "method", None)
