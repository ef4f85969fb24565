"""Gradients of a network on one batch, by any solver and by plain PyTorch: taken, timed and compared."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..solvers.measure import GradientError, Gradients, compare, median, timed, turns
from ..solvers.variants import Solvers
from ..steps import draws
from .bodies import StackedBody
from .network import Network

Call = Callable[[], Sequence[Tensor | None]]
"""What takes a gradient."""


@contextlib.contextmanager
def left_alone(network: Network, criterion: Any) -> Iterator[None]:
    """Within it the network is in training mode and may be propagated at will; then it is as before.

    So are the gradients of a criterion that is a module.
    """
    modes = {part: part.training for part in network.modules()}
    for body in network.chains:  # unlike modules of other ranks, too
        modes |= {part: part.training for m in getattr(body, "every", ()) for part in m.modules()}
    learnt = list(criterion.parameters()) if isinstance(criterion, nn.Module) else []
    before = [(p, p.grad) for p in learnt]
    try:
        for p in learnt:
            p.grad = None
        if not network.training:
            network.train()
        with network.undisturbed(), torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "layer-parallel .* solve", RuntimeWarning)
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for p, gradient in before:
            p.grad = gradient


class Measured:
    """Gradients of one batch within a time; on a layer group all ranks go by the first one's clock.

    Args:
        criterion: ``criterion(network(x), y)`` is the loss.
        seconds: that there are.

    Raises:
        ValueError: no parameter requires a gradient.
    """

    def __init__(
        self,
        network: Network,
        x: Any,
        y: Any,
        criterion: Callable[[Any, Any], Tensor],
        seconds: float,
    ):
        self.began, self.seconds = time.perf_counter(), seconds
        self.network, self.criterion = network, criterion
        self.x, self.y = (t.detach() if isinstance(t, Tensor) else t for t in (x, y))
        self.params = {name: p for name, p in network.named_parameters() if p.requires_grad}
        if not self.params:
            raise ValueError(
                "no parameter of the network requires a gradient, so there is none to measure; call "
                "requires_grad_() on those that are to be trained"
            )
        self.device = next(iter(self.params.values())).device
        self.exact: Gradients = {}

    def by(self, solver: Solvers) -> Call:
        """What takes the network's gradient by a solver, with the same masks of dropout every time.

        It is not left in ``.grad``, where hooks of the user may wait for it.
        """
        network, params = self.network, list(self.params.values())
        has_output = network.output == "all" or network.group.last

        def call() -> Sequence[Tensor | None]:
            with draws.apart(), network.solved_by(solver):
                output = network(self.x)
                loss = self.criterion(output, self.y) if has_output else output
                return torch.autograd.grad(loss, params, allow_unused=True)

        return call

    def plainly(self) -> Call:
        """What takes the gradient of ``net.to_serial()``, as a training loop does it."""
        twin = self.network.to_serial()
        params = list(twin.parameters())

        def call() -> Sequence[Tensor | None]:
            for p in params:
                p.grad = None
            with draws.apart():
                self.criterion(twin(self.x), self.y).backward()
            return []

        return call

    def refer_to(self, call: Call) -> tuple[GradientError, float]:
        """Makes the gradient of a call the exact one; its error, nothing, and its milliseconds.

        Raises:
            ValueError: there is none, or it is not finite.
        """
        ms, found = self.first(call)
        if self.network.group.alone and all(g is None for g in found):
            raise ValueError(
                "the loss of this batch depends on none of the network's parameters that require a "
                "gradient; return one that does from the criterion"
            )
        self.exact = self._named(found)
        error = self.compared(found)
        if not math.isfinite(error.relative + error.cosine):
            raise ValueError(
                "the gradient by Serial() is not finite on this batch, so nothing can be compared with "
                "it; check the loss, or lower the learning rate that led to these weights"
            )
        return error, ms

    def first(self, call: Call) -> tuple[float, Sequence[Tensor | None]]:
        """Milliseconds of a call, and what it gave."""
        found: list[Sequence[Tensor | None]] = []
        ms = timed(lambda: found.append(call()), self.device)
        return self.agreed(ms), found[0]

    def again(self, ms: float, call: Call, most: float) -> float:
        """Milliseconds of a second call if the first took less than `most` seconds: it sets up."""
        compiled = any(getattr(body, "compiled", False) for body in self.network.chains)
        return min(ms, self.first(call)[0]) if ms < 1e3 * most or compiled else ms

    def in_turns(self, calls: Sequence[Call], repeats: int) -> list[float]:
        """Milliseconds of every call, the median of as many turns as there is time for; one at least."""
        taken: list[list[float]] = []
        for times in turns(calls, self.device):
            taken.append(times)
            if self.agreed(len(taken) > repeats or self.left() < 2e-3 * sum(times)):
                break
        kept = taken[1:] or taken  # the first is to warm up
        return self.agreed([median(each) for each in zip(*kept, strict=True)])

    def left(self) -> float:
        """Seconds; negative when they are spent."""
        return self.agreed(self.seconds - (time.perf_counter() - self.began))

    def agreed(self, value: Any) -> Any:
        """The first rank's value, on all of them."""
        return self.network.group.tell(value, 0)

    def compared(self, found: Sequence[Tensor | None]) -> GradientError:
        """A gradient beside the exact one, on all ranks; layer by layer where parameters are stacked."""
        group, mine = self.network.group, self._named(found)
        error = compare(mine, self.exact, total=lambda sums: group.total(sums.to(self.device)))
        layers = []
        for body in self.network.chains:
            inside = {id(p) for p in body.parameters()} if isinstance(body, StackedBody) else set()
            names = [name for name in mine if id(self.params[name]) in inside]
            parts = [{name: g[name] for name in names} for g in (mine, self.exact)]
            layers.append(compare(*parts, depth=len(body.block)).worst_layer)
        every = [worst for each in group.gather(layers) for worst in each if worst is not None]
        return replace(error, worst_layer=max(every, default=None))

    def _named(self, found: Sequence[Tensor | None]) -> Gradients:
        """By name, of the parameters that count on this rank."""
        skipped = {id(p) for p in self.network.uncounted()}
        return {
            name: torch.zeros_like(p) if g is None else g
            for (name, p), g in zip(self.params.items(), found, strict=True)
            if id(p) not in skipped
        }
