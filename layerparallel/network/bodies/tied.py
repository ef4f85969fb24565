"""One module at every step: a neural ODE, a recurrence."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...chains.generic import GenericChain
from ...chains.placement import Placement
from ...steps.comparing import same
from ...steps.contents import contents
from ...steps.examination import examine
from ...steps.fields import At, Manner, Tied, Watched
from ...steps.given import perturbed
from ...steps.integrators import INTEGRATORS
from ...steps.repeatable import Repeatable, Statistics, batch_norms, commit
from ...steps.state import NOTHING, Carried, State, state_map
from ..serial_twins import SerialTied
from .base import Body, gathered, uncompiled
from .habits import Habits, refuse_unbatched


class TiedBody(Body):
    """One module at every step (a neural ODE, a recurrence)."""

    def __init__(self, module: nn.Module, depth: int, h: float, integrator: str):
        super().__init__(depth, h, integrator)
        module, self.compiled = uncompiled(module)
        self.layer, self.folds = module, True
        self.names: tuple[str, ...] = ()

    takes_inputs = True

    def repeated(self) -> list[nn.Parameter]:
        return [] if self.group.alone else list(self.layer.parameters())

    def tensors(self) -> list[Tensor]:
        parameters, held = contents(self.layer)
        self.names = (*parameters, *held)
        return [*parameters.values(), *held.values()]

    def bind(
        self,
        tensors: Sequence[Tensor],
        placement: Placement | None = None,
        carried: Carried = NOTHING,
    ) -> GenericChain:
        names = self.names
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
        habits, folds = self.habits, self.folds and not carried.parts
        manner = habits.manner(self.timed, carried)
        return GenericChain(
            self._field(
                lambda: Tied(self.layer, names, self.compiled, folds, manner),
                names,
                folds,
                manner.watched,
            ),
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

    def unbind(self, gradients: dict[int, Tensor], chain: GenericChain) -> dict[int, Tensor]:
        """The gradients of all ranks are added: every rank has the parameters."""
        placement = chain.placement
        if placement is None:
            return gradients
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

    def _examine(self, u: State, inputs: State, carried: Carried, several: bool) -> Habits:
        which, tensors, names = type(self.layer).__name__, self.tensors(), self.names
        watched, first = Watched(self.layer, Manner(self.timed)), [x[0].detach() for x in inputs]

        def step(v: State, own: Sequence[Tensor]) -> object:
            t, given = v[0].real.new_zeros(()), dict(zip(names, own, strict=True))
            return watched.single(Repeatable(0), 0, given, (carried.given(v), *first), t)[0]

        found = examine(step, u, tensors, self.layer, which, carried)
        habits = Habits.of(watched, found)
        if not several or self.depth == 1 or any(x.shape[0] != self.depth for x in inputs):
            return habits
        shared, t = [p.detach() for p in tensors], u[0].real.new_zeros(2)
        own, at = [x[:2].detach() for x in inputs], At((0, 1), t, key=0)
        both = tuple(torch.stack([a, 1 - 2 * a]) for a in u)
        manner = habits.manner(self.timed, carried)
        apart = Tied(self.layer, names, folds=False, manner=manner)
        self.folds = self.folds and not found.branches
        if not (habits.watched or carried.parts):
            plain = Tied(self.layer, names, manner=manner)
            others = [perturbed(p) for p in shared]  # a gate of 0 hides what is behind
            self.folds = self.folds and all(_alike(plain, both, own, ps, at) for ps in (shared, others))
        if not self.folds or habits.watched or carried.parts or apart.timed:
            refuse_unbatched(lambda v, _: apart(v, own, shared, at), both, found, which)
        return habits

    def commit(self, statistics: Statistics, placement: Placement | None) -> None:
        norms, every = batch_norms(self.layer), [range(self.depth)] * self.group.size
        found = gathered(statistics, self.depth, placement, every)
        for n in range(self.depth):
            for (name, _), (mean, variance) in found.items():
                commit(norms[name], mean[n], variance[n])

    def serial(self) -> nn.Module:
        return SerialTied(copy.deepcopy(self.layer), self.depth, self.h, self.integrator, self.timed)


@torch.no_grad()
def _alike(field: Tied, both: State, own: list[Tensor], shared: list[Tensor], at: At) -> bool:
    """Whether two steps at once, folded into the batch, have the values of one after the other."""

    def value(k: int) -> State:
        one = At((k,), None if at.t is None else at.t[:1], at.key)
        return field(tuple(a[k : k + 1] for a in both), [x[k : k + 1] for x in own], shared, one)

    single = state_map(lambda a, b: torch.cat([a, b]), value(0), value(1))
    try:
        return same(single, field(both, own, shared, at))
    except (RuntimeError, IndexError):  # the state's first dimension is not that of samples
        return False
