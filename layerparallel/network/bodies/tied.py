"""One module at every step: a neural ODE, a recurrence."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...chains.chain import Chain
from ...chains.generic import GenericChain
from ...chains.placement import Placement
from ...steps.checks import refuse_random, same
from ...steps.fields import At, Tied
from ...steps.integrators import INTEGRATORS
from ...steps.repeatable import Statistics, batch_norms, commit
from ...steps.state import State, state_map
from ..serial_twins import SerialTied
from .base import Body, Habits, gathered, uncompiled


class TiedBody(Body):
    """One module at every step (a neural ODE, a recurrence)."""

    def __init__(self, module: nn.Module, depth: int, h: float, integrator: str):
        super().__init__(depth, h, integrator)
        module, self.compiled = uncompiled(module)
        self.layer, self.folds = module, True

    takes_inputs = True

    def repeated(self) -> list[nn.Parameter]:
        return [] if self.group.alone else list(self.layer.parameters())

    def bind(self, tensors: Sequence[Tensor], placement: Placement | None = None) -> Chain:
        names = [name for name, _ in self.layer.named_parameters()]
        inputs = tuple(tensors[: len(tensors) - len(names)])
        for x in inputs:
            if self.group.first and x.shape[0] != self.depth:
                raise ValueError(
                    f"the input per step has {x.shape[0]} steps and the chain {self.depth}; "
                    "give one (N, B, ...) with N the depth"
                )
        shared = tuple(tensors[len(inputs) :])
        if placement is not None and inputs:
            given, wanted = [x.detach() for x in inputs], [x.requires_grad for x in inputs]
            moved = self.group.move(given, self._of_the_first(), placement.finest.ranges)
            inputs = tuple(x.detach().requires_grad_(w) for x, w in zip(moved, wanted, strict=True))
        habits, folds = self.habits, self.folds
        watched = habits.any
        return GenericChain(
            self._field(lambda: Tied(self.layer, names, self.compiled, folds, watched), folds, watched),
            INTEGRATORS[self.integrator],
            own=inputs,
            shared=shared,
            steps=self.depth if placement is None else len(placement.mine),
            step_size=self.h,
            key=habits.key(self.group),
            statistics=Statistics() if habits.statistics else None,
            placement=placement,
        )

    def _of_the_first(self) -> list[range]:
        """All inputs per step on the first rank."""
        behind = range(self.depth, self.depth)
        return [range(self.depth), *[behind] * (self.group.size - 1)]

    def unbind(self, gradients: dict[int, Tensor], chain: Chain) -> dict[int, Tensor]:
        """The gradients of all ranks are added: every rank has the parameters."""
        placement = chain.placement
        if placement is None:
            return gradients
        assert isinstance(chain, GenericChain)
        rows = len(placement.mine)
        found = {}
        own = chain.own
        inputs = [k for k, x in enumerate(own) if x.requires_grad]
        given = [
            gradients.get(k, chain.own[k].new_zeros((rows, *chain.own[k].shape[1:]))) for k in inputs
        ]
        moved = self.group.move(given, placement.finest.ranges, self._of_the_first())
        found.update(zip(inputs, moved, strict=True))
        places = [k for k, p in enumerate(chain.shared, len(own)) if p.requires_grad]
        parts = [gradients.get(k, torch.zeros_like(chain.shared[k - len(own)])) for k in places]
        if parts:
            flat = self.group.total(torch.cat([g.flatten() for g in parts]))
            pieces = flat.split([g.numel() for g in parts])
            found.update({k: p.view_as(g) for k, p, g in zip(places, pieces, parts, strict=True)})
        return found

    def _examine(self, u: State, inputs: State) -> Habits:
        names = [name for name, _ in self.layer.named_parameters()]
        shared = list(self.layer.parameters())
        t = u[0].new_zeros(2)
        watching = Tied(self.layer, names, watched=True)

        def value(states: State, first: int, field: Tied) -> State:
            count = states[0].shape[0]
            own = [x[first : first + count] for x in inputs]
            return field(states, own, shared, At(range(first, first + count), t[:count], key=0))

        one = tuple(a[None] for a in u)
        alone = refuse_random(lambda: value(one, 0, watching), type(self.layer).__name__)
        habits = Habits.of(watching.watched)
        if habits.any or self.depth == 1 or any(x.shape[0] != self.depth for x in inputs):
            return habits
        plain = Tied(self.layer, names)
        other = tuple(1 - 2 * a for a in one)
        apart = state_map(_join, alone, value(other, 1, plain))
        try:
            both = value(state_map(_join, one, other), 0, plain)
            self.folds = self.folds and same(apart, both)
        except RuntimeError:  # the state's first dimension is not that of samples
            self.folds = False
        return habits

    def commit(self, statistics: Statistics, placement: Placement | None) -> None:
        norms, every = batch_norms(self.layer), [range(self.depth)] * self.group.size
        found = gathered(statistics, self.depth, placement, every)
        for n in range(self.depth):
            for (name, _), (mean, variance) in found.items():
                commit(norms[name], mean[n], variance[n])

    def serial(self) -> nn.Module:
        return SerialTied(copy.deepcopy(self.layer), self.depth, self.h, self.integrator)


def _join(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b])
