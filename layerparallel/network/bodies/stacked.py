"""Like steps with their own parameters, stacked along depth."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...chains.chain import Chain
from ...chains.closed import has_closed_form
from ...chains.generic import GenericChain
from ...chains.placement import Placement
from ...group.base import Group
from ...group.blocks import Blocks
from ...steps.alike import matched
from ...steps.checks import refuse_random
from ...steps.fields import At, Stacked
from ...steps.integrators import INTEGRATORS
from ...steps.repeatable import Statistics, batch_norms, commit, frozen_statistics
from ...steps.state import State
from ..serial_twins import SerialBody
from ..stacking import (
    Initial,
    from_layers,
    initial_stacks,
    keep_rows,
    replace_parameters,
    stack_statistics,
    statistics_of,
    to_layers,
)
from .base import Body, Habits, closed_chain, gathered, uncompiled


class StackedBody(Body):
    """Like steps with their own parameters: `layer` is the template, its parameters (N, ...)."""

    def __init__(
        self,
        template: nn.Module,
        depth: int,
        h: float,
        integrator: str,
        initial: Initial = "smooth",
        stacks: dict[str, Tensor] | None = None,
    ):
        super().__init__(depth, h, integrator)
        template, self.compiled = uncompiled(template)
        self.layer = copy.deepcopy(template)
        values = initial_stacks(template, depth, initial) if stacks is None else stacks
        places = {p: values[name] for name, p in self.layer.named_parameters()}
        replace_parameters(self.layer, places.__getitem__)
        stack_statistics(self.layer, depth)
        self.names = tuple(name for name, _ in template.named_parameters())
        self._register_state_dict_hook(to_layers)
        self.register_load_state_dict_pre_hook(from_layers)

    @classmethod
    def of(cls, modules: list[nn.Module], h: float, integrator: str) -> StackedBody:
        """The stack of modules that are alike.

        Raises:
            ValueError: they are not, or share parameters.
        """
        for n, module in enumerate(modules):
            if matched(modules[0], module, buffers=True) is None:
                raise ValueError(
                    f"modules 0 and {n} of the chain are not alike, so their parameters cannot be "
                    "stacked; leave stacked=True out"
                )
        if len({p for m in modules for p in m.parameters()}) < sum(
            len(list(m.parameters())) for m in modules
        ):
            raise ValueError(
                "modules of the chain share parameters, which a stack would part; "
                "leave stacked=True out, or use tied=True where all are one"
            )
        layers = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in modules]
        stacks = {
            name: torch.stack([layer[name].detach() for layer in layers])
            for name, _ in modules[0].named_parameters()
        }
        body = cls(modules[0], len(modules), h, integrator, stacks=stacks)
        for name, buffer in body.layer.named_buffers():
            if name in statistics_of(body.layer):
                buffer.copy_(torch.stack([layer[name] for layer in layers]))
        return body.train(modules[0].training)

    def tensors(self) -> list[Tensor]:
        found = dict(self.layer.named_parameters())
        return [found[name] for name in self.names]

    def running_statistics(self) -> list[Tensor]:
        """Running statistics and counts of batch norms, each (N, ...)."""
        found = dict(self.layer.named_buffers())
        return [found[name] for name in sorted(statistics_of(self.layer))]

    def _frozen(self) -> dict[str, Tensor]:
        """Running statistics (N, C) of the batch norms that normalise by them."""
        found = dict(self.layer.named_buffers())
        return {name: found[name] for name in frozen_statistics(self.layer)}

    def cut(self, group: Group, blocks: Blocks) -> None:
        super().cut(group, blocks)
        keep_rows(self.layer, self.block)

    def bind(self, tensors: Sequence[Tensor], placement: Placement | None = None) -> Chain:
        frozen, habits = self._frozen(), self.habits
        if placement is not None:
            given = [*(t.detach() for t in tensors), *frozen.values()]
            moved = self.group.move(given, self.blocks.ranges, placement.finest.ranges)
            wanted = [t.requires_grad for t in tensors]
            tensors = [m.detach().requires_grad_(w) for m, w in zip(moved, wanted, strict=False)]
            frozen = dict(zip(frozen, moved[len(tensors) :], strict=True))
        parameters = dict(zip(self.names, tensors, strict=True))
        closed = closed_chain(self.layer, parameters, self, placement)
        if closed is not None:
            return closed
        names, watched = (*self.names, *frozen), habits.any
        return GenericChain(
            self._field(lambda: Stacked(self.layer, names, self.compiled, watched), names, watched),
            INTEGRATORS[self.integrator],
            own=(*tensors, *frozen.values()),
            shared=(),
            steps=self.depth if placement is None else len(placement.mine),
            step_size=self.h,
            key=habits.key(self.group),
            statistics=Statistics() if habits.statistics else None,
            placement=placement,
        )

    def unbind(self, gradients: dict[int, Tensor], chain: Chain) -> dict[int, Tensor]:
        placement = chain.placement
        if placement is None or placement.finest == self.blocks:
            return gradients
        tensors, rows = self.tensors(), len(placement.mine)
        places = [k for k, t in enumerate(tensors) if t.requires_grad]
        found = [gradients.get(k, tensors[k].new_zeros((rows, *tensors[k].shape[1:]))) for k in places]
        moved = self.group.move(found, placement.finest.ranges, self.blocks.ranges)
        return dict(zip(places, moved, strict=True))

    def _examine(self, u: State, inputs: State) -> Habits:
        if has_closed_form(self.layer):
            return Habits()  # the layer's author vouches for it
        frozen = self._frozen()
        field = Stacked(self.layer, (*self.names, *frozen), watched=True)
        own = [p[:1] for p in (*self.tensors(), *frozen.values())]
        one, at = tuple(a[None] for a in u), At((0,), u[0].new_zeros(1), key=0)
        refuse_random(lambda: field(one, own, (), at), type(self.layer).__name__)
        return Habits.of(field.watched)

    def commit(self, statistics: Statistics, placement: Placement | None) -> None:
        norms = batch_norms(self.layer)
        found = gathered(statistics, self.depth, placement, self.blocks.ranges)
        for (name, _), (mean, variance) in found.items():
            commit(norms[name], mean, variance)

    def template(self, n: int) -> nn.Module:
        """A copy of the template with the parameters and running statistics of row n."""
        single = copy.deepcopy(self.layer)
        replace_parameters(single, lambda stack: stack[n].detach().clone())
        for norm in batch_norms(single).values():
            for name, buffer in norm._buffers.items():
                norm._buffers[name] = None if buffer is None else buffer[n].clone()
        return single

    def serial(self) -> nn.Module:
        return SerialBody([self.template(n) for n in range(self.depth)], self.h, self.integrator)

    def layer_name(self, name: str) -> tuple[str, bool]:
        return "{n}." + name.removeprefix("layer."), True
