"""Like steps with their own parameters, stacked along depth."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...chains.chain import Chain
from ...chains.closed import closed_form
from ...chains.generic import GenericChain
from ...chains.placement import Placement
from ...group.base import Group
from ...group.blocks import Blocks
from ...steps.alike import difference
from ...steps.contents import contents
from ...steps.examination import examine
from ...steps.fields import At, Manner, Stacked, Watched
from ...steps.given import as_itself
from ...steps.integrators import INTEGRATORS
from ...steps.remains import Attribute
from ...steps.repeatable import Repeatable, Statistics, batch_norms, commit, frozen_statistics
from ...steps.state import NOTHING, Carried, State
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
from .base import Body, closed_chain, gathered, uncompiled
from .habits import Habits, refuse_unbatched


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
        for stack, p in zip(self.layer.parameters(), template.parameters(), strict=True):
            vars(stack).update(vars(p))
        stack_statistics(self.layer, depth)
        self.names: tuple[str, ...] = ()
        self.held: tuple[str, ...] = ()
        self.remade: tuple[Attribute, ...] = ()
        self.tensors()
        self._register_state_dict_hook(to_layers)
        self.register_load_state_dict_pre_hook(from_layers)

    @classmethod
    def of(cls, modules: list[nn.Module], h: float, integrator: str) -> StackedBody:
        """The stack of modules that are alike.

        Raises:
            ValueError: they are not, or share parameters.
        """
        for n, module in enumerate(modules):
            if found := difference(modules[0], module):
                said = f"modules 0 and {n} of the chain are not alike ({found})"
                said = said if n else f"module 0 of the chain has {found}"
                raise ValueError(
                    f"{said}, so their parameters cannot be stacked; leave stacked=True out"
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
        stacks, held = contents(self.layer)
        self.names, self.held = tuple(stacks), tuple(held)
        for name, stack in stacks.items():
            if not stack.dim() or stack.shape[0] != len(self.block):
                raise ValueError(
                    f"the parameter {name} of the chain's template is {tuple(stack.shape)}, and all "
                    f"parameters are stacked, ({len(self.block)}, ...); change the template before it "
                    "is given to chain"
                )
        return [*stacks.values(), *held.values()]

    def running_statistics(self) -> list[Tensor]:
        """Running statistics and counts of batch norms, each (N, ...)."""
        found = dict(self.layer.named_buffers())
        return [found[name] for name in sorted(statistics_of(self.layer))]

    def _frozen(self) -> dict[str, Tensor]:
        """Running statistics (N, C) of the batch norms that normalise by them."""
        if not any(part._buffers for part in self.modes.parts or self.modules()):
            return {}
        found = dict(self.layer.named_buffers())
        return {name: found[name] for name in frozen_statistics(self.layer)}

    def cut(self, group: Group, blocks: Blocks) -> None:
        super().cut(group, blocks)
        keep_rows(self.layer, self.block)

    plain_in_turn = False  # there is one module for all

    @property
    def vouched(self) -> bool:
        return closed_form(self.layer) is not None

    def bind(
        self,
        tensors: Sequence[Tensor],
        placement: Placement | None = None,
        carried: Carried = NOTHING,
    ) -> GenericChain:
        frozen, habits = self._frozen(), self.habits
        own, others = tuple(tensors[: len(self.names)]), tuple(tensors[len(self.names) :])
        if placement is not None:
            given = [*(t.detach() for t in own), *frozen.values()]
            moved = self.group.move(given, self.blocks.ranges, placement.finest.ranges)
            wanted = [t.requires_grad for t in own]
            own = tuple(m.detach().requires_grad_(w) for m, w in zip(moved, wanted, strict=False))
            frozen = dict(zip(frozen, moved[len(own) :], strict=True))
        names, held, remade = (*self.names, *frozen), self.held, self.remade
        manner = habits.manner(self.timed, carried)
        return GenericChain(
            self._field(
                lambda: Stacked(self.layer, names, held, self.compiled, manner, remade),
                names,
                held,
                manner.watched,
            ),
            INTEGRATORS[self.integrator],
            own=(*own, *frozen.values()),
            shared=others,
            steps=self.depth if placement is None else len(placement.mine),
            step_size=self.h,
            key=habits.key(self.group),
            statistics=Statistics() if habits.statistics else None,
            placement=placement,
        )

    def fastest(self, chain: GenericChain, like: State) -> Chain:
        def closed() -> Chain | None:
            parameters = dict(zip(self.names, chain.own, strict=False))
            bare = not chain.field.manner.carried.parts
            return closed_chain(self.layer, parameters, self, chain.placement) if bare else None

        users = hasattr(self.layer, "closed_chain")
        found = chain if users else super().fastest(chain, like)
        if found is chain and (other := closed()) is not None:
            why = "" if users else f", without native loops: {self.loops.why}"
            self.way = f"closed form of {type(self.layer).__name__}{why}"
            return other
        return found

    def unbind(self, gradients: dict[int, Tensor], chain: GenericChain) -> dict[int, Tensor]:
        frozen = len(chain.own) - len(self.names)  # running statistics stand before what is held
        gradients = {k if k < len(self.names) else k - frozen: g for k, g in gradients.items()}
        placement = chain.placement
        if placement is None or placement.finest == self.blocks:
            return gradients
        tensors, rows = self.tensors(), len(placement.mine)
        places = [k for k, t in enumerate(tensors) if t.requires_grad]
        used = {k for each in self.group.gather(sorted(gradients)) for k in each}
        places = [k for k in places if k in used]
        found = [gradients.get(k, tensors[k].new_zeros((rows, *tensors[k].shape[1:]))) for k in places]
        moved = self.group.move(found, placement.finest.ranges, self.blocks.ranges)
        return dict(zip(places, moved, strict=True))

    def _examine(self, u: State, inputs: State, carried: Carried, several: bool) -> Habits:
        if self.vouched:
            return Habits()
        which, frozen, tensors = type(self.layer).__name__, self._frozen(), self.tensors()
        names, held = (*self.names, *self.held), len(self.names)
        extra = {name: rows[0] for name, rows in frozen.items()}
        watched = Watched(self.layer, Manner(self.timed))

        def step(v: State, own: Sequence[Tensor]) -> object:
            given = {**dict(zip(names, own, strict=True)), **extra}
            t = v[0].real.new_zeros(())
            return watched.single(Repeatable(0), 0, given, (carried.given(v),), t)[0]

        first = [as_itself(t[0], t) for t in tensors[:held]] + tensors[held:]
        found = examine(step, u, first, self.layer, which, carried, one_for_all=True)
        habits = Habits.of(watched, found)
        self.remade = tuple(dict.fromkeys((*self.remade, *found.remade)))
        count = min(2 if several else 1, len(self.block))
        manner = Manner(self.timed, True, found.in_place, found.writes, carried)
        stack = (*self.names, *frozen)
        field = Stacked(self.layer, stack, self.held, manner=manner, remade=self.remade)
        rows = [p[:count] for p in (*tensors[:held], *frozen.values())]
        many = tuple(torch.stack([a] * count) for a in u)
        at = At(range(count), many[0].real.new_zeros(count), key=0)
        others = [t.detach() for t in tensors[held:]]
        refuse_unbatched(lambda v, own: field(v, own, others, at), many, found, which, rows)
        return habits

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
        return SerialBody(
            [self.template(n) for n in range(self.depth)], self.h, self.integrator, self.timed
        )

    def layer_name(self, name: str) -> tuple[str, bool]:
        return "{n}." + name.removeprefix("layer."), True
