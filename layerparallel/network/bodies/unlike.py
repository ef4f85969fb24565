"""A list of modules, one per step."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...chains.chain import Chain
from ...chains.generic import GenericChain
from ...chains.placement import Placement
from ...group.base import Group
from ...group.blocks import Blocks
from ...steps.checks import refuse_random
from ...steps.fields import At, takes_time
from ...steps.integrators import INTEGRATORS
from ...steps.repeatable import BatchNorm, Statistics, batch_norms, commit
from ...steps.state import State
from ...steps.unlike import Unlike, step_tensors
from ..serial_twins import SerialBody
from ..stacking import from_layers, skeleton, to_layers
from .base import Body, Habits


class UnlikeBody(Body):
    """A list of modules, one per step."""

    def __init__(self, modules: list[nn.Module], h: float, integrator: str):
        super().__init__(len(modules), h, integrator)
        for module in modules:
            if takes_time(module):
                raise ValueError("unlike modules are not given a time t; keep it in the module")
        self.layers = nn.ModuleList(modules)
        self.every = tuple(modules)
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

    def _modes(self) -> tuple[bool, ...]:
        return tuple(part.training for module in self.every for part in module.modules())

    @property
    def notes(self) -> bool:
        return any(isinstance(p, BatchNorm) and p.training for m in self.every for p in m.modules())

    def tensors(self) -> list[Tensor]:
        return [p for module in self.layers for p in module.parameters()]

    def bind(self, tensors: Sequence[Tensor], placement: Placement | None = None) -> Chain:
        habits = self.habits
        watched = habits.any
        field: Unlike = self._field(lambda: Unlike(self.every, watched, tuple(self.block)), watched)
        if placement is not None and placement.finest != self.blocks:
            work, like = placement.finest.ranges, next(self.parameters()).detach()
            given = [t.detach() for t in tensors]
            field, moved = field.moved(given, self.group, self.blocks.ranges, work, like)
            wanted = [flag for n in field.held for flag in self._wanted(n, field)]
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

    def unbind(self, gradients: dict[int, Tensor], chain: Chain) -> dict[int, Tensor]:
        placement = chain.placement
        if placement is None or placement.finest == self.blocks:
            return gradients
        assert isinstance(chain, GenericChain)
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

    def _examine(self, u: State, inputs: State) -> Habits:
        field = Unlike(self.every, True, tuple(self.block))
        assert field.watched is not None
        one, tensors = tuple(a[None] for a in u), self.tensors()
        for n in self.block:
            refuse_random(lambda n=n: field(one, (), tensors, At((n,), key=0)), f"step {n}")
        return Habits.of(*field.watched.values())

    def commit(self, statistics: Statistics, placement: Placement | None) -> None:
        noted = {
            (n, which): (mean[0], variance[0])
            for which, met in statistics.ordered()
            for (n,), mean, variance in met
        }
        if placement is not None and placement.finest != self.blocks:
            noted = {key: found for each in self.group.gather(noted) for key, found in each.items()}
        norms = {n: batch_norms(self.every[n]) for n in self.block}
        for (n, (name, _)), (mean, variance) in sorted(noted.items(), key=lambda item: item[0][1][1]):
            if n in norms:
                commit(norms[n][name], mean, variance)

    def serial(self) -> nn.Module:
        return SerialBody(copy.deepcopy(list(self.layers)), self.h, self.integrator)

    def layer_name(self, name: str) -> tuple[str, bool]:
        if not name.startswith("layers."):
            return name, False
        row, dot, rest = name.removeprefix("layers.").partition(".")
        return f"{int(row) + self.block.start}{dot}{rest}", False
