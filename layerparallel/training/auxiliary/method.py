"""Training with auxiliary variables, and the hybrid of parallel and serial epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...data.batches import Batch
from ...errors import InputError
from ...group.agreement import agree
from ...group.team import Team
from ..base import Lap, StepRecord, count_correct, unwatched
from ..layerwise import load_optimizer_state_dict, optimizer_state_dict
from . import checks
from .filters import parse
from .generators import Build, Generators, generator
from .parallel import Parallel
from .propagation import forms_of, propagate
from .settings import Auxiliary
from .store import Store

if TYPE_CHECKING:
    from ...staged import Staged


class AuxiliaryMethod:
    """All stages of a network trained at once, by the penalty or the augmented Lagrangian method.

    In a parallel epoch no stage waits for another: each starts from its auxiliary variables, and all
    gradients are taken at those from before the step; see `updates` for the equations. In a serial
    epoch the whole network is propagated and trained as ever, by the same optimisers. The settings say
    which epochs are which; the first of a row of parallel ones begins with a propagation of the whole
    training set, from which all λ are taken. κ is 0 at first, and kept from row to row.

    A parallel epoch trains on samples as they are, as there is one λ for each. With ``augment="both"``
    it sees augmented ones; the crops and flips of a sample are then applied to its λ and κ, which
    must be images, and these are updated only where a sample happens to be drawn as it is. With
    ``regenerate=True`` small networks make all λ from the inputs, augmented or not; see `Generators`.

    On a layer group every rank has one stage, and keeps what belongs to its beginning; all ranks make
    the method and call `begin_epoch`, `expect`, `step`, `violations` and `epoch_line` alike. If they
    were seeded alike, their numbers are those of one process, bit by bit, with dropout, too, where the
    states between stages are contiguous in memory; but for last bits where they are other views, since
    messages are contiguous. With one stage it is `Backprop`, bit by bit.

    Args:
        network: in stages, on one process or distributed.
        settings: see `Auxiliary`; `stages` in it has to be what `network` was made with.
        criterion: from outputs and classes `(batch,)`, or what `step` gets for them, to the mean loss.
        optimizer: makes the optimiser of a stage from its parameters.
        samples: from places `(b,)` in the training set, int64, to the inputs there, not augmented.
        count: samples in the training set.
        scheduler: makes that of an optimiser, which is advanced after every mini batch; None keeps the
            learning rate.
        batch: samples propagated at a time to begin with.
        folder: for auxiliary variables that are beyond the budget.
        place: where they are kept; a GPU with room for them saves the way to the host's memory.
        build: makes the network of an interface for ``regenerate=True``; see `Generators`.

    Raises:
        InputError: settings, network, states, memory and number of samples do not fit together; on every
            rank.
    """

    wants_batch = True

    def __init__(
        self,
        network: Staged,
        settings: Auxiliary,
        criterion: Callable[[Any, Tensor], Tensor],
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
        samples: Callable[[Tensor], Tensor],
        count: int,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        batch: int = 256,
        folder: Path | None = None,
        place: torch.device | str = "cpu",
        build: Build = generator,
    ) -> None:
        for name, value in (("count", count), ("batch", batch)):
            if value < 1:
                raise InputError(f"{name} = {value} samples are too few: give at least 1.")
        checks.stages(network, settings)
        self.network, self.settings, self.criterion = network, settings, criterion
        self.samples, self.batch = samples, batch
        mine = network.mine
        self.optimizers = {k: optimizer(list(network.parameters_of(k))) for k in mine}
        self.schedulers = {k: scheduler(o) for k, o in self.optimizers.items()} if scheduler else {}
        example = samples(torch.arange(min(2, count)))
        self._inputs = example.shape[1:]
        self._forms = shapes, dtype = forms_of(network, example)
        checks.augmented(shapes, settings)
        filters = {k: parse(settings.filter).fitted(shape) for k, shape in shapes.items()}
        own = {k: shapes[k] for k in mine if k > 0}
        self.generators = (
            Generators(own, filters, example, dtype, optimizer, build) if settings.regenerate else None
        )
        self.store = Team(network.group).together(
            lambda: Store(
                count,
                {} if settings.regenerate else own,
                filters,
                settings.budget,
                folder,
                pin=example.is_cuda,
                multipliers=settings.method == "augmented",
                dtype=dtype,
                place=place,
            )
        )
        self._parallel = Parallel(network, criterion, self.store, filters, self._forms, self.generators)
        self._parallel.set_rates(settings, 0)
        self.lap: Lap = unwatched
        self.epoch: int | None = None
        self._filled: int | None = None
        self._agreed = False  # on the mini batches of the epoch

    # ---- epochs ---------------------------------------------------------------------------------

    @property
    def mode(self) -> Literal["parallel", "serial"]:
        """Of the present epoch."""
        return "parallel" if self.settings.is_parallel(self.epoch or 0) else "serial"

    def augments(self, epoch: int) -> bool:
        """Whether the samples of an epoch are to be augmented; where not, it is undone if they are."""
        return self.settings.augments(epoch)

    def begin_epoch(self, epoch: int) -> None:
        """Goes over to an epoch, counted from 0; to be called again where one is resumed.

        Raises:
            InputError: beta has grown beyond all numbers.
        """
        if epoch != self.epoch:
            self._parallel.violations, self._parallel.seen = {}, 0
        self._parallel.forget()
        self.epoch, self._agreed = epoch, False
        self._parallel.set_rates(self.settings, epoch)
        if self.mode == "parallel" and self._filled != self.settings.phase(epoch):
            if self.network.count > 1:
                self._propagate()
                self.lap("filling")
            self._filled = self.settings.phase(epoch)

    def _propagate(self) -> None:
        """Auxiliary variables as one ordinary propagation of the training set gives them."""
        store, generators = self.store, self.generators

        def keep(k: int, index: Tensor, x: Tensor, state: Tensor) -> None:
            if generators is not None:
                generators.fit(k, x, state)
            else:
                store.put(k, index, store.filters[k].down(state))

        propagate(self.network, store.count, self.samples, self._forms, self.batch, keep)

    @property
    def violations(self) -> list[float]:
        """‖λ - x‖ / ‖x‖ of every interface, its mean over the epoch so far; empty in a serial one."""
        return self._parallel.mean_violations() if self.mode == "parallel" else []

    def epoch_line(self) -> dict[str, Any]:
        """What the line of the present epoch in the record says of the method."""
        return {
            "mode": self.mode,
            "beta": self.settings.beta_in(self.epoch or 0),
            "violations": self.violations,
            "kept_bytes": sum(self.network.group.gather(self.store.nbytes)),
        }

    # ---- steps ----------------------------------------------------------------------------------

    def expect(self, index: Tensor) -> None:
        """Says, before a step, which samples will follow it: int64 `(b,)`, places in the training set.

        Their auxiliary variables are then read while the step's messages are under way, and are sent
        after it, while the batch is loaded. Every step that this is not said of reads its own.
        """
        if self.mode == "parallel" and self.network.count > 1:
            self._parallel.expect(index)

    def step(self, x: Tensor, y: Tensor, batch: Batch | None = None) -> StepRecord:
        """Train on one mini batch: inputs `(batch, ...)`, classes `(batch,)`.

        Args:
            batch: says which samples these are, each of them once; needed with more than one stage.

        Raises:
            InputError: it does not say so; or, in the first step of an epoch, the ranks have different
                mini batches.
        """
        if self.epoch is None:
            self.begin_epoch(0)
        if self.network.count > 1:
            self._check(x, batch)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        self.lap("optimizer")
        if self.mode == "serial" or self.network.count == 1:
            record = self._serially(x, y)
        else:
            assert batch is not None
            record = self._in_parallel(x, y, batch)
        for optimizer in self.optimizers.values():
            optimizer.step()
        for scheduler in self.schedulers.values():
            scheduler.step()
        self.lap("optimizer")
        return record

    def _serially(self, x: Tensor, y: Tensor) -> StepRecord:
        output = self.network(x)
        self.lap("forward")
        loss = self.criterion(output, y)
        self.lap("loss")
        loss.backward()
        self.lap("backward")
        return StepRecord(loss=loss.detach(), correct=count_correct(output, y))

    def _check(self, x: Tensor, batch: Batch | None) -> None:
        """Refuses a mini batch that is none of the training set's, in serial epochs, too."""
        index = checks.inputs(x, batch, self._inputs)
        if self.mode == "parallel":
            checks.places(index, len(x), self.store.count)
        if not (self._agreed or self.network.group.alone):
            agree(self.network.group, {"mini batch": index})
            self._agreed = True

    def _in_parallel(self, x: Tensor, y: Tensor, batch: Batch) -> StepRecord:
        drawn = batch.drawn
        if self.generators is not None and self.settings.augment == "both":
            drawn = None  # what is made from the inputs has moved with them
        elif drawn is not None and self.settings.augment == "serial":
            x, drawn = self.samples(batch.index), None
        return self._parallel.step(x, y, batch.index, drawn, self.lap)

    # ---- checkpoints ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Network, auxiliary variables, and of every stage optimiser and scheduler.

        What is empty is left out: on another rank it may not be.
        """
        state = {
            "made": self._made(),
            "network": self.network.state_dict(),
            "optimizers": {
                str(k): optimizer_state_dict(self.network, each) for k, each in self.optimizers.items()
            },
            "schedulers": {str(k): each.state_dict() for k, each in self.schedulers.items()},
            "store": self.store.state_dict(),
            "generators": self.generators.state_dict() if self.generators is not None else {},
            "violations": {str(k): float(each) for k, each in self._parallel.violations.items()},
        }
        moment = {"epoch": self.epoch, "filled": self._filled, "seen": self._parallel.seen}
        return {key: each for key, each in state.items() if each} | moment

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; of other ranks' stages nothing.

        Raises:
            InputError: it is of other stages or another method or filter, or the auxiliary variables are
                of other samples.
        """
        self._parallel.forget()
        checks.made(state.get("made", {}), self._made())
        self.store.load_state_dict(state["store"])
        self.network.load_state_dict(state["network"])
        if self.generators is not None:
            self.generators.load_state_dict(state.get("generators", {}))
        for k, each in self.optimizers.items():
            load_optimizer_state_dict(self.network, each, state["optimizers"][str(k)])
        for k, each in self.schedulers.items():
            each.load_state_dict(state["schedulers"][str(k)])
        self.epoch, self._filled = state["epoch"], state["filled"]
        measured = {k + 1 for k in self.network.mine}
        self._parallel.seen = state["seen"]
        self._parallel.violations = {
            int(k): each for k, each in state.get("violations", {}).items() if int(k) in measured
        }

    def _made(self) -> dict[str, Any]:
        """What a saved state belongs to."""
        settings, starts = self.settings, [stage.start for stage in self.network.stages]
        made = "regenerate" if settings.regenerate else settings.method
        return {"stages from pieces": starts, "method": made, "filter": settings.filter}
