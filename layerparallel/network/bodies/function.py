"""A plain step function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...chains.generic import GenericChain
from ...chains.placement import Placement
from ...group.base import Group
from ...group.blocks import Blocks
from ...steps.examination import examine
from ...steps.fields import Function
from ...steps.state import NOTHING, Carried, State
from ..serial_twins import SerialFunction
from .base import Body
from .habits import Habits, refuse_unbatched


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

    def bind(
        self,
        tensors: Sequence[Tensor],
        placement: Placement | None = None,
        carried: Carried = NOTHING,
    ) -> GenericChain:
        steps = self.depth if placement is None else len(placement.mine)
        field = Function(self.step, self.habits.manner(True, carried))
        return GenericChain(field, None, (), (), steps, self.h, placement=placement)

    def _examine(self, u: State, inputs: State, carried: Carried, several: bool) -> Habits:
        time = u[0].real.new_zeros(())

        def step(v: State, _: Sequence[Tensor]) -> object:
            return self.step(carried.given(v), time, self.h)

        found = examine(step, u, [], None, "the step function", carried)
        habits = Habits(in_place=found.in_place)
        if several:
            field = Function(self.step, habits.manner(True, carried))
            both, times = tuple(torch.stack([a, a]) for a in u), torch.stack([time, time])
            which = "the step function"
            refuse_unbatched(lambda v, _: field.whole_step(v, times, self.h), both, found, which)
        return habits

    def serial(self) -> nn.Module:
        return SerialFunction(self.step, self.depth, self.h)
