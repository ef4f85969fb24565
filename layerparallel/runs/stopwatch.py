"""Where the time of training goes: fine steps, coarse levels, optimiser, data, and the rest."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..network.network import Network
from ..training.base import Method

PARTS = ("forward", "forward_coarse", "adjoint", "adjoint_coarse", "optimizer", "data", "comparison")


class Stopwatch:
    """Books seconds of training to its parts while it is entered; each second once.

    `forward` and `adjoint` are the solves on the finest level (the adjoint's with the gradients of
    all parameters), `..._coarse` those on all coarser ones with coarsening and residuals, `optimizer`
    its steps, `data` the making of batches, `comparison` what `Adaptive` spends on exact gradients. On
    a GPU, whose work is asynchronous, these are the times it took to launch it. A network that is
    ordinary PyTorch has no solves: its propagation is what is left.

    Args:
        method: whose solves and optimiser steps are booked.
        before: seconds booked so far, by part; they are gone on with.
    """

    def __init__(self, method: Method, before: dict[str, float]) -> None:
        self._networks = [each for each in method.network.modules() if isinstance(each, Network)]
        self._adaptive: Any = method if hasattr(method, "seconds") else None
        self._optimizer = _optimizer(method)
        self._taken = {part: before.get(part, 0.0) for part in PARTS}
        self._started = self._counters()
        self._began = self._solving = 0.0
        self._hooks: list[Any] = []

    def __enter__(self) -> "Stopwatch":
        if self._optimizer is not None:
            self._hooks = [
                self._optimizer.register_step_pre_hook(self._before_step),
                self._optimizer.register_step_post_hook(self._after_step),
            ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def data(self) -> Iterator[None]:
        """What is done within it is booked as data."""
        began = time.perf_counter()
        yield
        self._taken["data"] += time.perf_counter() - began

    def split(self) -> dict[str, float]:
        """Seconds by part, so far."""
        counters = self._counters()
        grown = {part: counters[part] - started for part, started in self._started.items()}
        return {part: taken + grown.get(part, 0.0) for part, taken in self._taken.items()}

    def _counters(self) -> dict[str, float]:
        found = {"comparison": self._adaptive.seconds if self._adaptive is not None else 0.0}
        for direction in ("forward", "adjoint"):
            levels = [network.seconds[direction] for network in self._networks]
            found[direction] = sum(seconds[0] for seconds in levels if seconds)
            found[f"{direction}_coarse"] = sum(sum(seconds[1:]) for seconds in levels)
        return found

    def _solved(self) -> float:
        return sum(sum(seconds) for network in self._networks for seconds in network.seconds.values())

    # A line search propagates inside the optimiser's step: that is not the optimiser's time.

    def _before_step(self, *_: object) -> None:
        self._began, self._solving = time.perf_counter(), self._solved()

    def _after_step(self, *_: object) -> None:
        elapsed = time.perf_counter() - self._began
        self._taken["optimizer"] += elapsed - (self._solved() - self._solving)


def _optimizer(method: Any) -> Any:
    """The optimiser of a method, or of the method that it wraps; None where there is none."""
    while method is not None:
        found = getattr(method, "optimizer", None)
        if hasattr(found, "register_step_pre_hook"):
            return found
        method = getattr(method, "method", None)
    return None
