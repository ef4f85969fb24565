"""What the hand-batched chains share: a stack of weights, a stack of biases and an activation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from torch import Tensor

from ..group.blocks import Blocks
from ..steps.activations import Activation
from .chain import Chain
from .coarse import CoarseOperator
from .placement import Placement
from .workspace import Workspace


@dataclass(frozen=True)
class ClosedFormChain(Chain):
    """A chain of layers ``u + h sigma(A_n u + b_n)`` with A_n linear.

    Args:
        weight: of all N layers of the finest level, (N, ...).
        bias: likewise.
        step_size: h of the finest level.
        span: finest steps per step of this level.
        selected: weight and bias of this level, (steps, s, ...); None on the finest.
    """

    weight: Tensor
    bias: Tensor
    activation: Activation
    steps: int
    step_size: float
    span: int = 1
    operator: CoarseOperator = CoarseOperator()
    workspace: Workspace = Workspace()
    placement: Placement | None = None
    selected: tuple[Tensor, Tensor] | None = None

    def coarsen(self, factor: int, operator: CoarseOperator, blocks: Blocks | None = None) -> Self:
        which = factor, operator, blocks
        if which not in self._coarser:
            place, span = self.place, self.span * factor
            place = place.coarser(blocks or place.blocks.coarsened(factor))
            weight, bias = place.select((self.weight, self.bias), operator, span)
            self._coarser[which] = replace(
                self,
                steps=len(place.mine),
                span=span,
                operator=operator,
                placement=place,
                selected=(weight, bias),
            )
        return self._coarser[which]

    @cached_property
    def _coarser(self) -> dict[tuple[int, CoarseOperator, Blocks | None], Self]:
        """Made once: the adjoint coarsens to the same ones."""
        return {}

    @cached_property
    def layers(self) -> int:
        """Layers s evaluated in one step: more than one for some coarse operators."""
        return self.operator.groups(self.span) if self.span > 1 else 1

    @property
    def reach(self) -> float:
        """h of this level, per layer evaluated."""
        return self.step_size * self.span / self.layers

    @property
    def layer_bytes(self) -> int:
        return sum(p.shape[1:].numel() * p.element_size() for p in (self.weight, self.bias))
