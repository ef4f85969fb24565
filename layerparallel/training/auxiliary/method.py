"""Training with auxiliary variables, and the hybrid of parallel and serial epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from layerparallel.data.batches import Batch
from layerparallel.errors import InputError
from layerparallel.layerwise import load_optimizer_state_dict, optimizer_state_dict
from layerparallel.training.auxiliary.filters import parse
from layerparallel.training.auxiliary.generators import Build, Generators, generator
from layerparallel.training.auxiliary.parallel import Parallel
from layerparallel.training.auxiliary.propagation import forms_of, propagate
from layerparallel.training.auxiliary.settings import Auxiliary
from layerparallel.training.auxiliary.store import Store
from layerparallel.training.base import StepRecord, count_correct

if TYPE_CHECKING:
    from layerparallel.staged import Staged


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
    the method and call `begin_epoch`, `step`, `violations` and `epoch_line` alike. With one stage it is
    `Backprop`, bit by bit.

    Args:
        network: in stages, on one process or distributed.
        settings: see `Auxiliary`; `stages` in it is what `network` was made with.
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
        InputError: settings, states and memory do not fit together.
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
        self.network, self.settings, self.criterion = network, settings, criterion
        self.samples, self.batch = samples, batch
        mine = network.mine
        self.optimizers = {k: optimizer(list(network.parameters_of(k))) for k in mine}
        self.schedulers = {k: scheduler(o) for k, o in self.optimizers.items()} if scheduler else {}
        example = samples(torch.arange(min(2, count)))
        self._forms = shapes, dtype = forms_of(network, example)
        filters = {k: parse(settings.filter).fitted(shape) for k, shape in shapes.items()}
        own = {k: shapes[k] for k in mine if k > 0}
        self.generators = (
            Generators(own, filters, example, dtype, optimizer, build) if settings.regenerate else None
        )
        self.store = Store(
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
        self._parallel = Parallel(network, criterion, self.store, filters, self._forms, self.generators)
        self._parallel.set_rates(settings, 0)
        self.epoch: int | None = None
        self._filled: int | None = None

    # ---- epochs ---------------------------------------------------------------------------------

    @property
    def mode(self) -> Literal["parallel", "serial"]:
        """Of the present epoch."""
        return "parallel" if self.settings.is_parallel(self.epoch or 0) else "serial"

    def augments(self, epoch: int) -> bool:
        """Whether the samples of an epoch are to be augmented; where not, it is undone if they are."""
        return self.settings.augments(epoch)

    def begin_epoch(self, epoch: int) -> None:
        """Goes over to an epoch, counted from 0; to be called again where one is resumed."""
        if epoch != self.epoch:
            self._parallel.violations, self._parallel.seen = {}, 0
        self.epoch = epoch
        self._parallel.set_rates(self.settings, epoch)
        if self.mode == "parallel" and self._filled != self.settings.phase(epoch):
            if self.network.count > 1:
                self._propagate()
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
        beta = self.settings.beta_in(self.epoch or 0)
        return {"mode": self.mode, "beta": beta, "violations": self.violations}

    # ---- steps ----------------------------------------------------------------------------------

    def step(self, x: Tensor, y: Tensor, batch: Batch | None = None) -> StepRecord:
        """Train on one mini batch: inputs `(batch, ...)`, classes `(batch,)`.

        Args:
            batch: says which samples these are; needed in parallel epochs.
        """
        if self.epoch is None:
            self.begin_epoch(0)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        if self.mode == "serial" or self.network.count == 1:
            record = self._serially(x, y)
        else:
            record = self._in_parallel(x, y, batch)
        for optimizer in self.optimizers.values():
            optimizer.step()
        for scheduler in self.schedulers.values():
            scheduler.step()
        return record

    def _serially(self, x: Tensor, y: Tensor) -> StepRecord:
        output = self.network(x)
        loss = self.criterion(output, y)
        loss.backward()
        return StepRecord(loss=loss.detach(), correct=count_correct(output, y))

    def _in_parallel(self, x: Tensor, y: Tensor, batch: Batch | None) -> StepRecord:
        if batch is None:
            raise InputError(
                "A parallel step got a mini batch without the places of its samples in the training "
                "set, to which auxiliary variables belong: give batch=."
            )
        drawn = batch.drawn
        if self.generators is not None and self.settings.augment == "both":
            drawn = None  # what is made from the inputs has moved with them
        elif drawn is not None and self.settings.augment == "serial":
            x, drawn = self.samples(batch.index), None
        return self._parallel.step(x, y, batch.index, drawn)

    # ---- checkpoints ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Network, auxiliary variables, and of every stage optimiser and scheduler.

        What is empty is left out: on another rank it may not be.
        """
        state = {
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
            InputError: the auxiliary variables are of other samples, stages or filters.
        """
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
