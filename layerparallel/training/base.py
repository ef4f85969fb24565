"""What every way of training has in common: one verb, `step`, and a state that can be saved."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class StepRecord:
    """What one step on one mini batch found, before it changed the parameters.

    Loss and count stay tensors, so that a step on a device need not wait for them.
    """

    loss: Tensor
    """Mean loss over the mini batch, 0-d, detached."""
    correct: Tensor
    """Samples classed rightly, 0-d, int64."""
    forward_error: float | None = None
    """Estimated relative error of the forward solve, `Solution.relative_error`; None if serial."""
    adjoint_error: float | None = None
    """The same of the adjoint solve."""


Lap = Callable[[str], object]
"""Called with the name of a part of a step when that part has been done."""


def unwatched(part: str) -> None:
    """The `Lap` of a method whose time nobody measures."""


class Method(Protocol):
    """A way of training a network.

    One with an attribute ``wants_batch = True`` gets ``batch=`` from the trainer, too: a
    `layerparallel.data.Batch`, which says which samples these are and how they were augmented. One
    with ``begin_epoch(epoch)`` hears of every epoch, also of one that is gone on with, before its
    first batch; what ``epoch_line()`` returns then stands in the record of the epoch. One with
    ``augments(epoch)`` says whether that epoch's samples are to be augmented, and one with
    ``expect(index)`` hears, before a step, of which samples the next one will be. One with ``lap``,
    a `Lap`, calls it after every part of a step; the trainer replaces it to measure where the time
    goes. The parts are forward, loss, backward, optimizer, comparison, filling, auxiliary and
    messages.
    """

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        ...

    def step(self, x: Tensor, y: Tensor) -> StepRecord:
        """Train on one mini batch: inputs `(batch, ...)`, classes `(batch,)`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, in a form `torch.load(weights_only=True)` reads."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state back; the next step is then the one that it would have been."""
        ...


def count_correct(output: Tensor, y: Tensor) -> Tensor:
    """Samples classed rightly, 0-d; 0 where the targets are not classes."""
    if y.is_floating_point():
        return torch.zeros((), dtype=torch.int64, device=y.device)
    return (output.detach().argmax(dim=-1) == y).sum()


def last_error(solution: Any) -> float | None:
    """The estimated relative error that a solution ended with; None where nothing was iterated."""
    if solution is None or not solution.residuals:
        return None
    return solution.relative_error
