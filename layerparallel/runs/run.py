"""What is to be done in a run, and what it comes to."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..data.augment import Preparation
from ..data.base import Dataset
from ..group.team import Team
from ..training.base import Method
from .evaluate import CLASSIFICATION, Task

Listener = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Phase:
    """`epochs` epochs with one network; `build` gets the network of the phase before, or None."""

    name: str
    epochs: int
    build: Callable[[nn.Module | None], Method]


@dataclass(frozen=True)
class Run:
    """All that is to be done, and nothing of what was done."""

    recipe: str
    options: Any
    """The recipe's frozen dataclass: what `resume` builds the run from again."""
    data: Dataset
    phases: tuple[Phase, ...]
    batch: int
    seed: int
    threads: int = 1
    evaluate_every: int = 5
    """Epochs between two evaluations."""
    checkpoint_seconds: float = 60.0
    """Seconds from one checkpoint to the next, which is what a kill loses at most; longer where writing
    one takes over a twentieth of that. 0 writes one after every step."""
    serial: Callable[[], Method] | None = None
    """The same network as in the last phase, as ordinary serial PyTorch, before training."""
    serial_epochs: int = 0
    """Epochs with it; on several ranks none."""
    prepare: Preparation = field(default_factory=Preparation)
    """How stored samples become inputs, for training (augmented) and for evaluation."""
    task: Task = CLASSIFICATION
    """What the network is for: what it is trained towards, and how it is evaluated."""
    picture: Callable[[nn.Module, Path], None] | None = None
    """Draws what only this recipe knows how to draw, into a folder; in one process."""
    team: Team = field(default_factory=Team)
    """The processes that do it; `build` distributes the network over them."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to; `network` is this rank's part of it."""

    summary: dict[str, Any]
    network: nn.Module
