"""One parallel step: every stage forward and back from its auxiliary variables, then their exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...data.augment import Drawn
from ...steps import draws
from ..base import Lap, StepRecord, count_correct, unwatched
from .filters import Filter
from .generators import Generators
from .propagation import Forms
from .ranks import Neighbours
from .settings import Auxiliary
from .store import Rows, Store
from .updates import Interface, violation

if TYPE_CHECKING:
    from ...staged import Staged


@dataclass(frozen=True)
class Held:
    """What a step has of one interface: Λ and κ, and the λ and Jκ that they stand for."""

    state: Tensor
    multiplier: Tensor | None
    full: Tensor
    pushed: Tensor | None


@dataclass(frozen=True)
class Ahead:
    """Rows of the next mini batch, which are on their way to the rank before.

    Args:
        index: places of its samples, on the CPU.
        rows: of this process's interfaces.
    """

    index: Tensor
    rows: dict[int, Rows]


class Parallel:
    """Gradients of all stages at once, and the updates of Λ and κ; see `updates` for the equations.

    Args:
        network: in stages; this process has some of them, and keeps the interfaces they start from.
        criterion: of the last stage's output.
        store: of this process's interfaces.
        filters: of all interfaces, fitted.
        forms: of the states there.
        generators: make Λ, in place of the store.
    """

    def __init__(
        self,
        network: Staged,
        criterion: Callable[[Any, Tensor], Tensor],
        store: Store,
        filters: dict[int, Filter],
        forms: Forms,
        generators: Generators | None = None,
    ) -> None:
        self.network, self.criterion, self.store, self.filters = network, criterion, store, filters
        self.generators = generators
        self.shapes, dtype = forms
        self.interfaces: dict[int, Interface] = {}
        self.state_rates: dict[int, float] = {}
        self.multiplier_rate = 0.0
        self.estimates = False
        self.violations: dict[int, Tensor | float] = {}
        """Sums over the samples seen, of the interfaces at which this process's stages end."""
        self.seen = 0
        next_one = network.mine.stop
        following = filters[next_one].forms(self.shapes[next_one], dtype) if next_one in filters else ()
        self._neighbours = Neighbours(network.group, following * (2 if store.multipliers else 1))
        self._expected: Tensor | None = None
        self._ahead: Ahead | None = None

    def set_rates(self, settings: Auxiliary, epoch: int) -> None:
        """Weights and learning rates of an epoch."""
        self.multiplier_rate = settings.multiplier_rate_in(epoch)
        self.estimates = settings.estimates
        for k, shape in self.shapes.items():
            weight = settings.weight(torch.Size(shape).numel())
            self.interfaces[k] = Interface(self.filters[k], settings.beta_in(epoch), weight)
            norm = self.filters[k].norm(shape)
            self.state_rates[k] = settings.state_rate_in(epoch, weight, norm)

    # ---- steps ----------------------------------------------------------------------------------

    def step(
        self, x: Tensor, y: Tensor, index: Tensor, drawn: Drawn | None, lap: Lap = unwatched
    ) -> StepRecord:
        """Adds to the parameters' gradients, and updates Λ and κ, by one mini batch.

        Args:
            x: inputs `(b, ...)`, augmented if anything was drawn.
            index: int64 `(b,)`, places of the samples in the training set.
            drawn: their crops and flips, which λ and Jκ get, too.
            lap: called after every part of it.
        """
        network, mine, seed = self.network, self.network.mine, draws.seed()
        rows = self._rows(x, index)
        held = {k: self._hold(k, each, drawn) for k, each in rows.items()}
        starts = {k: each.full.detach().requires_grad_() for k, each in held.items()}
        pulled: dict[int, Tensor] = {}
        found = torch.zeros(2, dtype=torch.float64, device=x.device)  # loss and correct
        record = None
        lap("auxiliary")
        for k in mine:
            with draws.apart(seed + k, x.device):
                end, gradient = network.stage(k)(starts.get(k, x)), None
                lap("forward")
                if k == network.count - 1:
                    correct, end = count_correct(end, y), self.criterion(end, y)
                    record = StepRecord(loss=end.detach(), correct=correct)
                    found = torch.stack([record.loss.double(), correct.double()])
                    lap("loss")
            if k + 1 in self.shapes:
                if k + 1 not in held:
                    borrowed = self._neighbours.borrowed()
                    lap("messages")
                    held[k + 1] = self._hold(k + 1, borrowed, drawn)
                gradient, pulled[k + 1] = self._meet(k + 1, held[k + 1], end.detach())
            own = held[k].state if k in rows else None
            self._neighbours.answer(pulled.get(k + 1), own, found)
            lap("auxiliary")
            if end.requires_grad:  # else this is a first stage without anything to train
                end.backward(gradient)
                lap("backward")
        self.seen += len(x)
        following = self._following(index, x.device)
        lap("auxiliary")
        missing, found = self._neighbours.answered()
        if not network.group.alone:
            lap("messages")
        if missing is not None:
            pulled[mine.start] = missing
        for k in rows:
            self._update(k, index, held[k], pulled[k], starts[k], drawn)
        if following is not None:
            self._lend(following.rows, following.index, x.device)
        self._ahead = following
        lap("auxiliary")
        if record is None or not network.group.alone:
            record = StepRecord(loss=found[0], correct=found[1].long())
        return record

    @torch.no_grad()
    def _hold(self, k: int, rows: Rows, drawn: Drawn | None) -> Held:
        """An interface's rows, opened, and moved as the samples were."""
        filter = self.filters[k]
        state, multiplier = self.store.opened(filter, rows)
        full = filter.up(state)
        pushed = None if multiplier is None else filter.push(multiplier, state)
        if drawn is not None:
            full = drawn.apply(full)
            pushed = None if pushed is None else drawn.apply(pushed)
        return Held(state, multiplier, full, pushed)

    @torch.no_grad()
    def _meet(self, k: int, held: Held, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where stage k-1 has ended with x: the gradient that it goes back with, and p for stage k."""
        interface, difference = self.interfaces[k], held.full - x
        found = violation(difference, x).double() * len(x)
        self.violations[k] = self.violations.get(k, 0.0) + found
        pulled = interface.filter.transpose(difference, held.state)
        return interface.output_gradient(difference, held.pushed), pulled

    @torch.no_grad()
    def _update(
        self, k: int, index: Tensor, held: Held, pulled: Tensor, start: Tensor, drawn: Drawn | None
    ) -> None:
        """Λ and κ of interface k after the step; of samples that were moved they stay."""
        assert start.grad is not None
        interface, adjoint = self.interfaces[k], start.grad * len(start)
        if self.estimates:
            assert held.multiplier is not None
            after = interface.restored(held.state, pulled, self.state_rates[k])
            multiplier = interface.estimated(held.multiplier, held.state, adjoint, self.multiplier_rate)
            self._put(k, index, after, multiplier, drawn)
            return
        gradient = interface.state_gradient(held.state, pulled, adjoint, held.pushed)
        if self.generators is not None:
            self.generators.descend(k, gradient)
            return
        after = interface.state_step(held.state, gradient, self.state_rates[k])
        multiplier = held.multiplier
        if multiplier is not None:
            rate = self.multiplier_rate
            multiplier = interface.multiplier_step(multiplier, held.state, after, pulled, rate)
        self._put(k, index, after, multiplier, drawn)

    def _put(
        self, k: int, index: Tensor, after: Tensor, multiplier: Tensor | None, drawn: Drawn | None
    ) -> None:
        """Keeps Λ and κ, but not of samples that were moved."""
        if drawn is not None:
            as_is = ((drawn.down == 0) & (drawn.right == 0) & ~drawn.flipped).to(index.device)
            index, after = index[as_is], after[as_is.to(after.device)]
            multiplier = None if multiplier is None else multiplier[as_is.to(after.device)]
        self.store.put(k, index, after, multiplier)

    # ---- rows, and those of the next step -------------------------------------------------------

    def expect(self, index: Tensor) -> None:
        """The step after the next will be of these samples: the next one reads and sends their rows."""
        self._expected = index.cpu()

    def forget(self) -> None:
        """What is kept changes between two steps: what was read ahead is not that of the next."""
        if self._ahead is not None:
            self._neighbours.borrowed()
        self._expected = self._ahead = None

    def _rows(self, x: Tensor, index: Tensor) -> dict[int, Rows]:
        """Of this process's interfaces; those of the next one are on their way."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            if torch.equal(ahead.index, index.cpu()):
                return ahead.rows
            self._neighbours.borrowed()  # for samples that have not come
        rows = {k: self._read(k, x, index) for k in self.network.mine if k > 0}
        self._lend(rows, index, x.device)
        return rows

    def _read(self, k: int, x: Tensor, index: Tensor) -> Rows:
        if self.generators is not None:
            return self.generators.rows(k, x)
        return self.store.rows(k, index, x.device)

    def _following(self, index: Tensor, device: torch.device) -> Ahead | None:
        """What is expected next, if it is kept, and this step does not change it."""
        expected, self._expected = self._expected, None
        if expected is None or self.generators is not None or torch.isin(expected, index.cpu()).any():
            return None
        rows = {k: self.store.rows(k, expected, device) for k in self.network.mine if k > 0}
        return Ahead(expected, rows)

    def _lend(self, rows: dict[int, Rows], index: Tensor, device: torch.device) -> None:
        self._neighbours.lend(rows.get(self.network.mine.start, ()), len(index), device)

    # ---- violations -----------------------------------------------------------------------------

    def mean_violations(self) -> list[float]:
        """Of all interfaces, over the samples seen; every rank calls this."""
        found = [float(self.violations.get(k, 0.0)) / max(self.seen, 1) for k in self.shapes]
        device = next(self.network.parameters()).device
        found = torch.tensor(found, dtype=torch.float64, device=device)
        return self.network.group.total(found).tolist()
