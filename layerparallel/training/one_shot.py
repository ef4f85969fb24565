"""Simultaneous training: the optimiser steps before the solves have converged.

A few cycles forward and adjoint, started from the states of the optimiser's last step, so that
states, adjoints and parameters converge together (Günther et al., SIAM J. Math. Data Sci. 2(1),
2020).
"""

import math
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..network.network import Network
from ..network.propagate import Guess
from .base import Lap, StepRecord, count_correct, last_error, unwatched
from .layerwise import load_optimizer_state_dict, optimizer_state_dict
from .objective import Objective
from .optim import LBFGS


class OneShot:
    """Training on a batch that stays, or on a few batches that return.

    Give the network a solver of few cycles with ``warm_start=True``, for example
    ``MGRIT(coarsening=8, forward_cycles=2, adjoint_cycles=2, warm_start=True)``. With
    `layerparallel.LBFGS` every trial of a line search starts from the states of the accepted
    iterate, with the same number of cycles; and where its ``objective_error`` is 0 it becomes
    `state_error`.

    Args:
        network: the network to train.
        optimizer: Adam, SGD or another that needs no closure, over its parameters; or `LBFGS`.
        objective: an `Objective`, or a criterion from output and target to the loss.
        scheduler: advanced after every step; None keeps the learning rate.
    """

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        objective: Objective | Callable[[Tensor, Tensor], Tensor],
        scheduler: LRScheduler | None = None,
    ) -> None:
        if not isinstance(network, Network):
            raise TypeError(
                f"one-shot training needs a layerparallel.Network, not a {type(network).__name__}; "
                "use Backprop for an ordinary module"
            )
        self.network, self.optimizer, self.scheduler = network, optimizer, scheduler
        self.objective = objective if isinstance(objective, Objective) else Objective(objective)
        self.lap: Lap = unwatched
        self._key: Hashable = None
        self._batch: tuple[Tensor, int, Tensor, int] | None = None
        self._guesses = network.guesses()
        self._samples = 1
        self._latest = self._correct = torch.zeros((), dtype=torch.int64)
        if isinstance(optimizer, LBFGS):
            optimizer.on_trial = lambda: network.restore_guesses(self._guesses)
            optimizer.on_accept = self._accept
            if optimizer.objective_error == 0.0:
                optimizer.objective_error = self.state_error

    def state_error(self) -> float:
        """Estimate of the objective's absolute error that an unfinished forward solve leaves.

        To first order the error is ``sum_i lambda_i · r_i`` with r the residuals at the C-points
        and lambda the adjoints there, of the last backward pass. Taking the B samples' shares to be
        of random sign, that is about ``|lambda| |r| / sqrt(B)``. 0 after a serial solve.
        """
        network, sizes = self.network, 0.0
        for forward, adjoint in zip(network.solutions, network.adjoint_solutions, strict=False):
            if adjoint.scale_tensor is None or forward.fallback or not forward.residual_tensors:
                continue
            sizes += float(adjoint.scale_tensor) * float(forward.residual_tensors[-1])
        return sizes / math.sqrt(self._samples)

    def step(self, x: Tensor, y: Tensor, key: Hashable = None) -> StepRecord:
        """One optimiser step on inputs `(batch, ...)` and classes `(batch,)`.

        Args:
            key: names the batch: each key has its own states to start from, and the same key means
                the same data. Without one the states of the last step are used.
        """
        network, optimizer = self.network, self.optimizer

        def evaluate() -> Tensor:
            self.lap("optimizer")
            with torch.enable_grad():  # without, the network would be propagated serially
                output = network(x, key=key)
                self.lap("forward")
                self._samples = len(output)
                self._latest = count_correct(output, y)
                loss = self.objective(network, output, y)
            self.lap("loss")
            return loss

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = evaluate()
            loss.backward()
            self.lap("backward")
            self._accept()
            return loss.detach()

        if isinstance(optimizer, LBFGS):
            if self._is_new(x, y, key):
                optimizer.forget()
            before: list[Tensor] = []

            def trial() -> Tensor:
                before.append(self._correct)  # still that of the iterate before the step
                return evaluate()

            loss = torch.tensor(optimizer.step(closure, trial), dtype=torch.float64)
            correct = before[0] if before else self._correct
        else:
            loss, correct = closure(), self._correct
            optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.lap("optimizer")
        return StepRecord(
            loss=loss,
            correct=correct,
            forward_error=last_error(network.solution),
            adjoint_error=last_error(network.adjoint_solution),
        )

    def state_dict(self) -> dict[str, Any]:
        """Network (layer-by-layer names), optimiser, scheduler, and the states of warm starts."""
        kept = [
            (key, [(guess.forward, guess.adjoint) for guess in guesses])
            for key, guesses in self._guesses.items()
        ]
        return {
            "network": self.network.state_dict(),
            "optimizer": optimizer_state_dict(self.network, self.optimizer),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else {},
            "guesses": {self._rank: kept},
            "correct": self._correct,
            "key": self._key,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        With `LBFGS` and a warm start the next step is the unbroken run's where batches have keys;
        a batch without one counts as new, and its gradient is taken once more.
        """
        self.network.load_state_dict(state["network"])
        load_optimizer_state_dict(self.network, self.optimizer, state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self._guesses = {
            key: [Guess(forward, adjoint) for forward, adjoint in kept]
            for key, kept in state["guesses"].get(self._rank, [])  # others' blocks are of no use
        }
        self.network.restore_guesses(self._guesses)
        self._latest = self._correct = state["correct"]
        self._batch, self._key = None, state["key"]

    @property
    def _rank(self) -> str:
        """Whose states of warm starts these are."""
        return f"{self.network.group.rank} of {self.network.group.size}"

    def _is_new(self, x: Tensor, y: Tensor, key: Hashable) -> bool:
        """Whether this is another batch than that of the last step."""
        last, self._batch = self._batch, (x, x._version, y, y._version)
        known, self._key = self._key, key
        if key is not None or known is not None:
            return key != known
        if last is None:
            return True
        return not (last[0] is x and last[1] == x._version and last[2] is y and last[3] == y._version)

    def _accept(self) -> None:
        """The states and the count of the latest evaluation belong to the present iterate."""
        self._guesses, self._correct = self.network.guesses(), self._latest
