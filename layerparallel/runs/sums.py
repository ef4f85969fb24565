"""What has been seen of an epoch so far."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..training.base import StepRecord


@dataclass
class Sums:
    """What has been seen so far of an epoch; the sums stay on the device."""

    loss: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    correct: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    samples: int = 0
    fallbacks: int = 0
    """Solves that misbehaved and were done serially instead."""
    split: dict[str, float] = field(default_factory=dict)
    """Seconds by what they were spent on; see `Stopwatch`."""

    @property
    def seconds(self) -> float:
        """Of training, without evaluations and checkpoints."""
        return sum(self.split.values())

    def add(self, found: StepRecord, count: int) -> None:
        """Add one mini batch."""
        self.loss = self.loss + found.loss.double() * count
        self.correct = self.correct + found.correct
        self.samples += count

    def mean_loss(self) -> float:
        """Loss per sample."""
        return self.loss.item() / max(self.samples, 1)

    def accuracy(self) -> float:
        """Share of samples classed rightly, as they came by."""
        return self.correct.item() / max(self.samples, 1)

    def line(self, phase: int, epoch: int, seconds: float, last: StepRecord | None) -> dict[str, Any]:
        """The epoch as the record has it.

        Args:
            seconds: of training until its end, with all epochs before it.
            last: what its last step found.
        """
        return {
            "phase": phase,
            "epoch": epoch,
            "seconds": seconds,
            "epoch_seconds": self.seconds,
            "samples_per_second": self.samples / self.seconds,
            "train_loss": self.mean_loss(),
            "train_accuracy": self.accuracy(),
            "forward_error": last.forward_error if last else None,
            "adjoint_error": last.adjoint_error if last else None,
            "fallbacks": self.fallbacks,
            "split": self.split,
        }
