"""What the hand-batched chains share: a stack of weights, a stack of biases and an activation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from torch import Tensor

from .activations import Activation
from .chain import Chain, CoarseOperator
from .workspace import Workspace


@dataclass(frozen=True)
class ClosedFormChain(Chain):
    """A chain of layers ``u + h sigma(A_n u + b_n)`` with A_n linear.

    Args:
        weight: of all N layers of the finest level, (N, ...).
        bias: likewise.
        step_size: h of the finest level.
        span: finest steps per step of this level.
    """

    weight: Tensor
    bias: Tensor
    activation: Activation
    steps: int
    step_size: float
    span: int = 1
    operator: CoarseOperator = CoarseOperator()
    workspace: Workspace = Workspace()

    def coarsen(self, factor: int, operator: CoarseOperator) -> Self:
        span = self.span * factor
        return replace(self, steps=self.steps // factor, span=span, operator=operator)

    @cached_property
    def layers(self) -> int:
        """Layers s evaluated in one step: more than one for some coarse operators."""
        return self.operator.groups(self.span) if self.span > 1 else 1

    @property
    def reach(self) -> float:
        """h of this level, per layer evaluated."""
        return self.step_size * self.span / self.layers
