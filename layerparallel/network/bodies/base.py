"""What all bodies share: depth and step size, examination, and their part of a layer group."""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...chains.chain import Chain
from ...chains.closed import closed_form
from ...chains.generic import GenericChain
from ...chains.native.chain import native
from ...chains.native.loops import Loops
from ...chains.placement import Placement
from ...chains.workspace import Workspace
from ...group.base import ALONE, Group
from ...group.blocks import Blocks
from ...steps.repeatable import BatchNorm, Statistics
from ...steps.signs import Signs, uncached, unpacked
from ...steps.state import NOTHING, Carried, State
from .habits import Habits, Modes

MANY_MODES = 100
"""Most modes for which it is kept what was found."""
KEPT_BYTES = 1 << 30
"""Most scratch memory that a body keeps from one training step to the next."""


class Body(nn.Module):
    """A chain's parameters.

    Attributes: `depth` (N), `h` (step size), `T` (h N), `integrator`; `driven`, whether the last forward
    pass in training brought an input per step; on a layer group `group`, and `blocks`, which layers
    every rank has.
    """

    def __init__(self, depth: int, h: float, integrator: str):
        super().__init__()
        self.depth, self.h, self.integrator = depth, h, integrator
        self.driven, self.way = False, ""
        self.group: Group = ALONE
        self._blocks: Blocks | None = None
        self.workspace, self.loops = Workspace(KEPT_BYTES), Loops()
        self.timed = True
        """Modules whose forward has an argument t are given the time."""
        self.habits, self.known = Habits(), False
        """Those of the present mode, and whether its steps were examined."""
        self.modes = Modes(())
        """Those of the last propagation."""
        self._examined: dict[Hashable, Habits] = {}
        self._fields: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own fields: those of the original evaluate the original's modules."""
        return {**self.__dict__, "_fields": {}, "_examined": {}, "modes": Modes(())}

    compiled = False
    """Whether the batched step goes through torch.compile."""

    def _field(self, make: Callable[[], Any], *which: Any) -> Any:
        """A field of these settings; one that compiles its step is made once."""
        if not self.compiled:
            return make()
        if which not in self._fields:
            self._fields[which] = make()
        return self._fields[which]

    @property
    def T(self) -> float:
        """Final time h N."""
        return self.h * self.depth

    @property
    def allows_picard(self) -> bool:
        """Whether the coarse operator "picard" is for its steps: forward Euler and blocks."""
        return self.integrator in ("euler", "block")

    @property
    def blocks(self) -> Blocks:
        """Which layers every rank of the layer group has."""
        return self._blocks or Blocks.of_ends([0, self.depth])

    @property
    def block(self) -> range:
        """The layers on this rank; all of them on one process."""
        return self.blocks.ranges[self.group.rank]

    def cut(self, group: Group, blocks: Blocks) -> None:
        """Keeps this rank's layers alone.

        Args:
            blocks: which layers every rank gets; not none on the first.
        """
        self.group, self._blocks = group, blocks

    def add_nothing(self, like: Tensor) -> None:
        """Gives a rank without parameters one without entries: optimisers refuse an empty list."""
        if next(self.parameters(), None) is None:
            self.nothing = nn.Parameter(like.new_empty(0))
            self._register_state_dict_hook(_drop_nothing)
            self.register_load_state_dict_pre_hook(_add_nothing)

    def nothings(self) -> list[Tensor]:
        """What `add_nothing` gave: gradients with respect to it go through the whole network."""
        return [self.nothing] if hasattr(self, "nothing") else []

    def repeated(self) -> list[nn.Parameter]:
        """Parameters that every rank of the layer group has."""
        return []

    def placement(self, length: int) -> Placement | None:
        """Where solvers work whose intervals are of `length` steps; None on one process."""
        if self.group.alone:
            return None
        blocks = self.blocks.aligned(length)
        return Placement(self.group, blocks, blocks)

    def tensors(self) -> list[Tensor]:
        """The parameters a propagation differentiates, in the order `bind` takes them."""
        return list(self.parameters())

    def bind(
        self,
        tensors: Sequence[Tensor],
        placement: Placement | None = None,
        carried: Carried = NOTHING,
    ) -> GenericChain:
        """The chain of these tensors, inputs per step in front of those of `tensors`.

        On a layer group the inputs are those of the first rank, of which the others give no rows.
        """
        raise NotImplementedError

    def fastest(self, chain: GenericChain, like: State) -> Chain:
        """The same chain by the fastest way there is: in native loops, in closed form, or as it is.

        Args:
            like: a state, each part (samples, ...).
        """
        found = native(chain, self.loops, like, self.workspace)
        self.way = "native loops" if found is not chain else f"PyTorch's operations: {self.loops.why}"
        return found

    def unbind(self, gradients: dict[int, Tensor], chain: GenericChain) -> dict[int, Tensor]:
        """Gradients of what `bind` made `chain` of, by place, from those of the chain's own tensors."""
        return gradients

    vouched = False
    """Whether the steps' author has written them out, so that they need no examination."""

    def examine(
        self, u: State, inputs: State, carried: Carried, several: bool, anew: bool = False
    ) -> bool:
        """Finds out which steps need care, and refuses those that would go wrong silently.

        Done when first used in training and in evaluation, and when a part changes between the two.

        Args:
            carried: parts of the state that have no derivative.
            several: steps will be evaluated many at once.
            anew: examine although it was done, as what was found is no longer true.

        Returns:
            Whether the steps are to be called otherwise than before.

        Raises:
            ValueError: a step would go wrong; a chain that takes none is given inputs; a compiled step
                has dropout or batch norm.
        """
        if inputs and not self.takes_inputs:
            raise ValueError(
                "the opening gives an input per step, which only a chain of one module for all "
                "steps takes; make it by chain(module, depth, tied=True)"
            )
        self.driven = bool(inputs)
        self.modes = self._modes()
        modes = self.modes.key
        given = tuple(carried.parts), tuple(a.dim() for a in (*u, *inputs))
        before = self._examined.get(modes)
        if anew:
            self._forget()
        elif len(self._examined) > MANY_MODES:
            self._examined.clear()
        known = any((modes, each, given) in self._examined for each in (True, several))
        if not known or self._examined[modes].writes:
            now = self._examined_on_ranks(u, inputs, carried, several)
            now |= self._examined.get(modes, Habits())
            for key in (modes, self._modes().key):  # the steps may have switched themselves over
                self._examined[key] = self._examined[key, several, given] = now
        self.habits = now = self._examined[modes]
        self.known = True
        if self.compiled and (now.watched or carried.parts):
            raise ValueError(
                "a compiled step has dropout, batch norm in training or a state with masks, which are "
                "evaluated with care; leave torch.compile out"
            )
        return now != before

    def signs(self, device: torch.device, tensors: Sequence[Tensor]) -> Signs | None:
        """What to look at while steps are evaluated; None where they need no care."""
        if self.vouched or not self.group.alone or not self.known:
            return None
        buffers = self.buffers if self.habits.buffered else lambda: ()
        return Signs(device, buffers, () if self.habits.writes else tensors)

    @property
    def notes(self) -> bool:
        """Whether a training forward has running statistics to commit."""
        return any(isinstance(part, BatchNorm) and part.training for part in self.modules())

    def _forget(self) -> None:
        """Forgets what was found."""
        self._examined.clear()

    def _modes(self) -> Modes:
        """The modes now."""
        return Modes(self._parts(), settings=self.group.alone)

    def _parts(self) -> Iterable[nn.Module]:
        """All modules of the steps, of those on other ranks, too."""
        return self.modules()

    def recall(self) -> None:
        """Goes by what was found in the present mode, if it was examined; evaluation may go without."""
        self.modes = self._modes()
        found = self._examined.get(self.modes.key)
        self.habits, self.known = found or Habits(), found is not None

    def _examined_on_ranks(self, u: State, inputs: State, carried: Carried, several: bool) -> Habits:
        """What any rank that examines has found; the first refusal is raised on all."""
        found: Habits | Exception = Habits()
        if not self.group.alone:
            u = tuple(a.detach().contiguous() for a in u)
            for a in u:
                self.group.broadcast(a, 0)
        if self.group.first or (self.everywhere and self.block):
            try:
                with unpacked(), uncached():
                    found = self._examine(tuple(a.detach() for a in u), inputs, carried, several)
            except (ValueError, TypeError, RuntimeError) as error:
                if self.group.alone:
                    raise
                found = error
        every = self.group.gather(found)
        for each in every:
            if isinstance(each, Exception):
                raise each
        return functools.reduce(operator.or_, every)

    plain_in_turn = True
    """Whether steps that are evaluated in turn, without gradients, are called as without a chain."""
    everywhere = False
    """Whether every rank examines, and not the first alone: where steps are of several kinds."""

    @property
    def holders(self) -> tuple[nn.Module, ...]:
        """Modules that hold the steps, and that no solver calls."""
        return ()

    takes_inputs = False
    """Whether a chain may have an input per step."""

    def _examine(self, u: State, inputs: State, carried: Carried, several: bool) -> Habits:
        raise NotImplementedError

    def commit(self, statistics: Statistics, placement: Placement | None) -> None:
        """Takes batch statistics into the running ones, once for every step."""
        raise NotImplementedError

    def forward(self, *_: object) -> Tensor:
        """A body is propagated by its network's solver, not called.

        Raises:
            TypeError: always.
        """
        raise TypeError("a body has no solver of its own; call Network(None, body, None)(x)")

    def serial(self) -> nn.Module:
        """An ordinary module that propagates layer by layer, with the same parameters, copied."""
        raise NotImplementedError

    def layer_name(self, name: str) -> tuple[str, bool]:
        """A parameter's name as layer by layer, ``"{n}.weight"``; whether it is stacked."""
        return name, False

    def extra_repr(self) -> str:
        on_ranks = "" if self.group.alone else f", layers {self.block.start}..{self.block.stop - 1}"
        return f"depth={self.depth}, h={self.h:g}, integrator={self.integrator!r}{on_ranks}"


def uncompiled(module: nn.Module) -> tuple[nn.Module, bool]:
    """The module inside ``torch.compile(module)``, and whether it was compiled."""
    dynamo = sys.modules.get("torch._dynamo")  # slow to import, and there if it has compiled
    if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
        return cast(nn.Module, module._orig_mod), True
    return module, False


def closed_chain(
    layer: nn.Module, parameters: dict[str, Tensor], body: Body, placement: Placement | None
) -> Chain | None:
    """The closed-form chain of a layer that has one; for forward Euler, and not under autocast."""
    make = closed_form(layer)
    if make is None or body.integrator != "euler" or not parameters:
        return None
    if any(p.is_complex() for p in parameters.values()):
        return None
    if torch.is_autocast_enabled(next(iter(parameters.values())).device.type):
        return None
    if placement is None:
        return make(parameters, body.depth, body.h, body.workspace)
    chain = make(parameters, len(placement.mine), body.h, body.workspace)
    if chain is not None:
        object.__setattr__(chain, "placement", placement)  # chains are frozen dataclasses
    return chain


def _drop_nothing(body: Body, state: dict, prefix: str, metadata: dict) -> None:
    state.pop(f"{prefix}nothing", None)


def _add_nothing(body: Body, state: dict, prefix: str, *_: object) -> None:
    state[f"{prefix}nothing"] = body.nothing.detach()


def gathered(
    statistics: Statistics, depth: int, placement: Placement | None, want: Sequence[range]
) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
    """Mean and unbiased variance of the layers that every rank wants, by module and use."""
    if placement is None:
        return statistics.gathered(range(depth))
    here = statistics.gathered(placement.mine)
    have = placement.finest.ranges
    if list(have) == list(want):
        return here
    told = {which: (mean.shape[1:], mean.dtype) for which, (mean, _) in here.items()}
    every = placement.group.gather(told)
    found = {}
    for which, (shape, dtype) in next((each for each in every if each), {}).items():
        nothing = torch.zeros(0, *shape, dtype=dtype)
        pair = here.get(which, (nothing, nothing))
        mean, variance = placement.group.move(pair, have, want)
        found[which] = mean, variance
    return found
