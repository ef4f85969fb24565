"""Ordinary training: propagate, back-propagate, step; with whatever solver the network has."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .base import Lap, StepRecord, count_correct, last_error, unwatched
from .layerwise import load_optimizer_state_dict, optimizer_state_dict


class Backprop:
    """The loop body of any PyTorch user; serial modules and layer-parallel networks alike.

    Args:
        network: the module to train.
        optimizer: over its parameters.
        criterion: from outputs `(batch, classes)` and classes `(batch,)` to the mean loss.
        scheduler: advanced after every mini batch; None keeps the learning rate.
        model: what is called in place of the network and has it inside, for example its
            DistributedDataParallel; None for the network itself.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        criterion: Callable[[Tensor, Tensor], Tensor],
        scheduler: LRScheduler | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self.network = network
        self.model = network if model is None else model
        self.optimizer = optimizer
        self.criterion = criterion
        self.scheduler = scheduler
        self.lap: Lap = unwatched

    def step(self, x: Tensor, y: Tensor) -> StepRecord:
        """Train on one mini batch: inputs `(batch, ...)`, classes `(batch,)`."""
        self.optimizer.zero_grad()
        self.lap("optimizer")
        output = self.model(x)
        self.lap("forward")
        loss = self.criterion(output, y)
        self.lap("loss")
        loss.backward()
        self.lap("backward")
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.lap("optimizer")
        return StepRecord(
            loss=loss.detach(),
            correct=count_correct(output, y),
            forward_error=last_error(getattr(self.network, "solution", None)),
            adjoint_error=last_error(getattr(self.network, "adjoint_solution", None)),
        )

    def state_dict(self) -> dict[str, Any]:
        """Network and optimiser by layer-by-layer names, on a layer group this rank's; scheduler."""
        return {
            "network": self.network.state_dict(),
            "optimizer": optimizer_state_dict(self.network, self.optimizer),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        load_optimizer_state_dict(self.network, self.optimizer, state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
