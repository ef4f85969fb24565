"""A list of modules, one per step."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...chains.generic import GenericChain
from ...chains.placement import Placement
from ...group.base import Group
from ...group.blocks import Blocks
from ...steps.attention import has_attention
from ...steps.contents import contents, takes_time
from ...steps.examination import examine
from ...steps.fields import Manner, Watched
from ...steps.integrators import INTEGRATORS
from ...steps.repeatable import BatchNorm, Repeatable, Statistics, batch_norms, commit
from ...steps.state import NOTHING, Carried, State
from ...steps.unlike import Unlike, step_tensors
from ..serial_twins import SerialBody
from ..stacking import from_layers, skeleton, to_layers
from .base import Body
from .habits import Habits, Modes


class UnlikeBody(Body):
    """A list of modules, one per step."""

    def __init__(self, modules: list[nn.Module], h: float, integrator: str, timed: bool = True):
        super().__init__(len(modules), h, integrator)
        for module in modules:
            if timed and takes_time(module):
                raise ValueError("unlike modules are not given a time t; keep it in the module")
        self.timed = False
        self.layers = nn.ModuleList(modules)
        self.every = tuple(modules)
        self._steps: dict[Hashable, Habits] = {}
        """What was found of single steps."""
        self._register_state_dict_hook(to_layers)
        self.register_load_state_dict_pre_hook(from_layers)

    def train(self, mode: bool = True) -> UnlikeBody:
        """Of the layers on other ranks, too."""
        for module in self.every:
            module.train(mode)
        return super().train(mode)

    def cut(self, group: Group, blocks: Blocks) -> None:
        super().cut(group, blocks)
        here = self.block
        self.layers = nn.ModuleList(self.every[here.start : here.stop])
        example = next((p for m in self.every for p in m.parameters()), torch.empty(0))
        self.every = tuple(m if n in here else skeleton(m) for n, m in enumerate(self.every))
        self._fields.clear()
        self.add_nothing(example.detach())

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_steps": {}}

    def _forget(self) -> None:
        super()._forget()
        self._steps.clear()

    def _parts(self) -> Iterable[nn.Module]:
        return (part for m in self.every for part in m.modules())

    @property
    def notes(self) -> bool:
        return any(isinstance(p, BatchNorm) and p.training for m in self.every for p in m.modules())

    def _current(self) -> None:
        """Takes up modules that were put in place of others."""
        here = self.block
        if len(self.layers) != len(here):
            raise ValueError(
                f"the chain was made of {len(here)} steps and has {len(self.layers)} now; make another "
                "chain of them"
            )
        if any(self.every[n] is not module for n, module in zip(here, self.layers, strict=True)):
            self.every = (*self.every[: here.start], *self.layers, *self.every[here.stop :])

    def tensors(self) -> list[Tensor]:
        self._current()
        found: list[Tensor] = []
        self.names: dict[int, tuple[str, ...]] = {}
        for n, module in zip(self.block, self.layers, strict=True):
            parameters, held = contents(module)
            self.names[n] = (*parameters, *held)
            found += [*parameters.values(), *held.values()]
        return found

    def bind(
        self,
        tensors: Sequence[Tensor],
        placement: Placement | None = None,
        carried: Carried = NOTHING,
    ) -> GenericChain:
        habits, attention = self.habits, any(map(has_attention, self.every))
        field = Unlike(self.every, self.names, attention, habits.manner(False, carried))
        if placement is not None and placement.finest != self.blocks:
            work, like = placement.finest.ranges, next(self.parameters()).detach()
            given = [t.detach() for t in tensors]
            field, moved = field.moved(given, self.group, self.blocks.ranges, work, like)
            wanted = [flag for n in field.names for flag in self._wanted(n, field)]
            tensors = [m.detach().requires_grad_(w) for m, w in zip(moved, wanted, strict=True)]
        return GenericChain(
            field,
            INTEGRATORS[self.integrator],
            own=(),
            shared=tuple(tensors),
            steps=self.depth if placement is None else len(placement.mine),
            step_size=self.h,
            key=habits.key(self.group),
            statistics=Statistics() if habits.statistics else None,
            placement=placement,
            like=next((p.detach() for p in self.parameters()), None),
        )

    def unbind(self, gradients: dict[int, Tensor], chain: GenericChain) -> dict[int, Tensor]:
        placement = chain.placement
        if placement is None or placement.finest == self.blocks:
            return gradients
        field: Unlike = chain.field
        values = {}
        for n, at in field.places.items():
            count = len(list(self.every[n].parameters()))
            places = range(at.start, at.stop)[:count]  # behind them come running statistics
            values[n] = [gradients.get(k, torch.zeros_like(chain.shared[k])) for k in places]
        got = step_tensors(
            self.group,
            values,
            lambda n: [p.shape for p in self.every[n].parameters()],
            placement.finest.ranges,
            self.blocks.ranges,
            next(self.parameters()).detach(),
        )
        return dict(enumerate(g for n in self.block for g in got[n]))

    def _wanted(self, n: int, field: Unlike) -> list[bool]:
        """Which tensors of step n require a gradient."""
        found = dict(self.every[n].named_parameters())
        return [name in found and found[name].requires_grad for name in field.names[n]]

    everywhere = True

    @property
    def holders(self) -> tuple[nn.Module, ...]:
        return (self.layers,)

    def _examine(self, u: State, inputs: State, carried: Carried, several: bool) -> Habits:
        habits, tensors, first = Habits(), self.tensors(), 0
        given = tuple(carried.parts), tuple(a.dim() for a in u)
        for n, module in zip(self.block, self.layers, strict=True):
            names, watched = self.names[n], Watched(module, Manner(False))
            own = tensors[first : first + len(names)]
            first += len(names)
            which = module, Modes(module.modules(), settings=True).key, given
            if which in self._steps and not self._steps[which].writes:  # others have changed
                habits |= self._steps[which]
                continue

            def step(v: State, own: Sequence[Tensor], names=names, watched=watched) -> object:
                given = dict(zip(names, own, strict=True))
                return watched.single(Repeatable(0), 0, given, (carried.given(v),))[0]

            found = examine(step, u, own, module, f"step {n}", carried)
            self._steps[which] = Habits.of(watched, found)
            habits |= self._steps[which]
        return habits

    def commit(self, statistics: Statistics, placement: Placement | None) -> None:
        noted = {
            (n, which): (mean[0], variance[0])
            for which, met in statistics.ordered()
            for (n,), mean, variance in met
        }
        if placement is not None and placement.finest != self.blocks:
            noted = {key: found for each in self.group.gather(noted) for key, found in each.items()}
        norms = {n: batch_norms(self.every[n]) for n in self.block}
        for (n, (name, _)), (mean, variance) in sorted(
            noted.items(), key=lambda item: (item[0][0], item[0][1][1])
        ):
            if n in norms:
                commit(norms[n][name], mean, variance)

    def serial(self) -> nn.Module:
        return SerialBody(copy.deepcopy(list(self.layers)), self.h, self.integrator, self.timed)

    def layer_name(self, name: str) -> tuple[str, bool]:
        if not name.startswith("layers."):
            return name, False
        row, dot, rest = name.removeprefix("layers.").partition(".")
        return f"{int(row) + self.block.start}{dot}{rest}", False
