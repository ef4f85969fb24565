"""A plain step function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...chains.chain import Chain
from ...chains.generic import GenericChain
from ...chains.placement import Placement
from ...group.base import Group
from ...group.blocks import Blocks
from ...steps.checks import refuse_random
from ...steps.fields import Function
from ...steps.state import State, as_given, as_state
from ..serial_twins import SerialFunction
from .base import Body, Habits


class FunctionBody(Body):
    """A plain function ``step(u, t, dt)``, with t a 0-d tensor and dt a number; no parameters."""

    def __init__(self, step: Callable[..., object], depth: int, h: float):
        super().__init__(depth, h, "step function")
        self.step = step

    def cut(self, group: Group, blocks: Blocks) -> None:
        super().cut(group, blocks)
        self.add_nothing(torch.empty(0))

    def tensors(self) -> list[Tensor]:
        return []

    def bind(self, tensors: Sequence[Tensor], placement: Placement | None = None) -> Chain:
        steps = self.depth if placement is None else len(placement.mine)
        return GenericChain(Function(self.step), None, (), (), steps, self.h, placement=placement)

    def _examine(self, u: State, inputs: State) -> Habits:
        time = u[0].new_zeros(())
        detached = tuple(a.detach() for a in u)

        def value() -> State:
            return as_state(self.step(as_given(detached), time, self.h), "a step's value")

        with torch.enable_grad():
            found = refuse_random(value, "the step function")
        if any(a.requires_grad for a in found):
            raise ValueError(
                "the step function uses tensors that require a gradient, which a plain function "
                "cannot be given; make it a module and pass that to chain"
            )
        return Habits()

    def serial(self) -> nn.Module:
        return SerialFunction(self.step, self.depth, self.h)
