"""The chain of any differentiable step: batched evaluation, adjoint by torch.autograd."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from ..group.blocks import Blocks
from ..steps.fields import At
from ..steps.integrators import Integrator, block, euler
from ..steps.repeatable import Statistics
from ..steps.state import State, copy_into, differentiable, state_map
from ..steps.unlike import Unlike
from .chain import Chain, Intervals
from .coarse import CoarseOperator
from .placement import Placement
from .stepping import Step
from .taped import TapedAdjoint


@dataclass(frozen=True)
class GenericChain(Chain):
    """`steps` steps of an integrator applied to a field (see fields.py).

    Args:
        own: parameters of the single steps of the finest level, each (N, ...).
        shared: parameters that all steps have in common.
        step_size: h of the finest level.
        span: finest steps per step of this level.
        key: of dropout's masks in this propagation; None without dropout.
        statistics: where batch statistics are noted; None without batch norm.
        selected: `own` of a coarse level, (steps, s, ...).
        like: of the parameters' dtype and device, where a block may have none of them.
        finest: the chain that has this block's own unlike modules.
    """

    field: Any
    integrator: Integrator | None
    own: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]
    steps: int
    step_size: float
    start_time: float = 0.0
    span: int = 1
    operator: CoarseOperator = CoarseOperator()
    key: int | None = None
    statistics: Statistics | None = None
    placement: Placement | None = None
    selected: tuple[Tensor, ...] | None = None
    like: Tensor | None = None
    finest: GenericChain | None = None

    def coarsen(
        self, factor: int, operator: CoarseOperator, blocks: Blocks | None = None
    ) -> GenericChain:
        if operator.kind == "mean_parameters" and not self.own and self.field.unlike:
            others = ", 'mean_residual' or 'picard'" if self.allows_picard else " or 'mean_residual'"
            raise ValueError(
                "coarse='mean_parameters' needs like layers, and these are unlike modules; "
                f"use 'inject'{others}"
            )
        if operator.kind == "picard" and not self.allows_picard:
            raise ValueError(
                "coarse='picard' is for forward Euler and residual blocks; "
                "use 'inject' or 'mean_residual' with this integrator"
            )
        which = factor, operator, blocks
        if which not in self._coarser:
            self._coarser[which] = self._coarsened(*which)
        return self._coarser[which]

    @cached_property
    def _coarser(self) -> dict[tuple[int, CoarseOperator, Blocks | None], GenericChain]:
        """Made once: the adjoint coarsens to the same ones."""
        return {}

    def _coarsened(self, factor: int, operator: CoarseOperator, blocks: Blocks | None) -> GenericChain:
        place, span = self.place, self.span * factor
        place = place.coarser(blocks or place.blocks.coarsened(factor))
        coarse = replace(
            self,
            steps=len(place.mine),
            span=span,
            operator=operator,
            placement=place,
            selected=place.select(self.own, operator, span),
        )
        if isinstance(self.field, Unlike) and not place.group.alone:
            needed = [coarse.layers(steps) for steps in place.blocks.ranges]
            finest = self.finest or self
            assert self.like is not None
            field, shared = finest.field.moved(
                finest.shared, place.group, place.finest.ranges, needed, self.like
            )
            coarse = replace(coarse, field=field, shared=shared, finest=finest)
        return coarse

    def looped(self, u: State) -> bool:
        return isinstance(self.field, Unlike)

    @property
    def allows_picard(self) -> bool:
        return self.integrator in (euler, block)

    @property
    def layer_bytes(self) -> int:
        if isinstance(self.field, Unlike):
            return self.field.layer_bytes
        return sum(p.shape[1:].numel() * p.element_size() for p in self.own)

    @property
    def _first(self) -> int:
        """This block's first step in the whole chain."""
        return self.placement.mine.start if self.placement is not None else 0

    @cached_property
    def _places(self) -> list[float]:
        """Where the layers evaluated in a step of this level stand, in finest steps."""
        if not (self.own or self.field.timed or self.field.unlike):
            return self.operator.places(self.span)[:1]  # all alike
        return self.operator.places(self.span) if self.span > 1 else [0.0]

    def layers(self, steps: Sequence[int]) -> list[int]:
        """The layers evaluated in these steps of the whole chain."""
        return [n * self.span + int(place) for n in steps for place in self._places]

    @property
    def reach(self) -> float:
        """The step size of this level."""
        return self.step_size * self.span

    @cached_property
    def step(self) -> Step:
        samples = len(self._places)
        return Step(self.field, self.integrator, self.operator, self.reach, self.span, samples)

    @cached_property
    def selected_own(self) -> tuple[Tensor, ...]:
        """`own` of this level: (steps, s, ...)."""
        return self.selected if self.selected is not None else tuple(p.unsqueeze(1) for p in self.own)

    def layer_times(self, dtype: torch.dtype) -> Tensor | None:
        """The times of the layers evaluated in every step, (steps, s); None where they need none."""
        times = self.times(Intervals(0, self.steps, 1), torch.device("cpu"))
        return None if times is None else times[0].to(dtype).reshape(self.steps, -1).contiguous()

    def times(self, over: Intervals, device: torch.device) -> list[Tensor] | None:
        """For every position the times (count * s,) of the layers evaluated there."""
        if not self.field.timed:
            return None
        steps = torch.arange(over.first, over.stop, device=device).unflatten(0, (over.count, -1))
        steps = steps + self._first
        places = torch.tensor(self._places, dtype=torch.float64, device=device)
        times = self.start_time + self.step_size * (steps[..., None] * self.span + places)
        return [times[:, j].flatten() for j in range(over.length)]

    def walk(
        self,
        u: State,
        over: Intervals,
        own: Sequence[Tensor],
        shared: Sequence[Tensor],
        rhs: State | None = None,
        onto: State | None = None,
        less: State | None = None,
    ) -> list[State]:
        """All states passed, one entry per position; `own` covers just the steps of `over`.

        `onto` is an array of known states: the walk is set back onto them after every step, while
        derivatives flow through unchanged.
        """
        inside = Intervals(0, over.count, over.length)
        own_at = inside.positions(tuple(own)) if own else [()] * over.length
        rhs_at = over.positions(rhs, 1) if rhs is not None else None
        less_at = over.positions(less, 1) if less is not None else None
        onto_at = over.positions(onto, 1) if onto is not None else None
        times = self.times(over, u[0].device)
        visited = []
        for j in range(over.walked):
            u = self.step(u, own_at[j], shared, self._at(over, j, times))
            if less_at is not None:
                u = state_map(torch.sub, u, less_at[j])
            if rhs_at is not None:
                u = state_map(torch.add, u, rhs_at[j])
            if onto_at is not None:
                u = state_map(lambda a, b: a + (b - a).detach(), u, onto_at[j])
            visited.append(u)
        return visited

    def _at(self, over: Intervals, j: int, times: list[Tensor] | None) -> At:
        """Which layers are evaluated at position j of every interval."""
        layers: Sequence[int] = ()
        if self.field.indexed:
            first = self._first
            layers = self.layers(range(first + over.first + j, first + over.stop, over.length))
        noted = self.statistics if self.span == 1 else None
        if noted is not None:
            noted.step()
        return At(
            layers,
            times[j] if times else None,
            self.key if self.span == 1 else None,
            noted if noted is not None and noted.on else None,
        )

    def advance(
        self,
        u: State,
        over: Intervals,
        rhs: State | None = None,
        into: State | None = None,
        less: State | None = None,
    ) -> State:
        own = tuple(p[over.first : over.stop] for p in self.selected_own)
        visited = self.walk(u, over, own, self.shared, rhs, less=less)
        if into is not None:
            for target, state in zip(over.positions(into, 1), visited, strict=False):
                copy_into(target, state)
        return visited[-1] if visited else u

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """While it lasts, batch statistics are noted."""
        if self.statistics is not None:
            self.statistics.on = True
        try:
            yield
        finally:
            if self.statistics is not None:
                self.statistics.on = False

    def linearise(self, groups: int = 1) -> GenericAdjoint:
        """An adjoint that is filled by its `record`; see `GenericAdjoint`."""
        return GenericAdjoint(self, groups=groups)


class Noting:
    """Stands where an adjoint records, for a propagation that needs batch statistics but no gradient."""

    def __init__(self, chain: GenericChain):
        self.chain = chain

    def record(self, u: State, over: Intervals) -> State:
        """`advance`, with the statistics noted."""
        with self.chain.noting():
            return self.chain.advance(u, over)

    def restart(self) -> None:
        """Forgets what was noted, for another sweep to be noted in its place."""
        assert self.chain.statistics is not None
        self.chain.statistics.clear()


@dataclass(frozen=True)
class _Graph:
    """One recorded walk: an autograd graph from departures and parameters to every state passed."""

    departures: State
    own: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]
    visited: list[State]


def _leaf(p: Tensor, on: bool) -> Tensor:
    return p.detach().requires_grad_(on and differentiable(p))


class GenericAdjoint(TapedAdjoint[_Graph]):
    """The adjoint of a GenericChain: a sweep is one vector-Jacobian product of a recorded walk."""

    chain: GenericChain

    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, **settings)
        self.leaves: list[ReferenceType[Tensor]] = []
        """Of all tapes: they live as long as anybody holds a graph that begins at them."""

    def coarsen(
        self, factor: int, operator: CoarseOperator, blocks: Blocks | None = None
    ) -> GenericAdjoint:
        coarse = cast(GenericAdjoint, super().coarsen(factor, operator, blocks))
        coarse.leaves = self.leaves
        return coarse

    def living(self) -> list[Tensor]:
        """The leaves of graphs that are still held: by others, where this is freed."""
        return [leaf for each in self.leaves if (leaf := each()) is not None]

    def record(self, u: State, over: Intervals) -> State:
        with self.chain.noting():
            return super().record(u, over)

    def restart(self) -> None:
        super().restart()
        if self.chain.statistics is not None:
            self.chain.statistics.clear()

    def _tape(self, u: State, over: Intervals, onto: State | None = None) -> _Graph:
        chain, fine = self.chain, self.chain.span == 1
        selected = [p[over.first : over.stop] for p in chain.selected_own]
        departures = tuple(_leaf(a, True) for a in u)
        own = tuple(_leaf(s, fine and p.requires_grad) for s, p in zip(selected, chain.own, strict=True))
        shared = tuple(_leaf(p, fine and p.requires_grad) for p in chain.shared)
        self.leaves += [ref(a) for a in (*departures, *own, *shared) if a.requires_grad]
        with torch.enable_grad():
            visited = chain.walk(departures, over, own, shared, onto=onto)
        return _Graph(departures, own, shared, visited)

    def _visited(self, tape: _Graph, over: Intervals) -> list[State]:
        return [tuple(a.detach() for a in state) for state in tape.visited]

    def _end(self, tape: _Graph) -> State:
        return tuple(a.detach() for a in tape.visited[-1])

    def _pull(
        self,
        tape: _Graph,
        u: State,
        over: Intervals,
        collect: bool,
        rhs: State | None,
        into: State | None,
    ) -> State:
        outputs, weights = list(tape.visited[over.length - 1]), list(u)
        wanted: list[Tensor] = []
        rhs_at = over.positions(rhs) if rhs is not None else None
        into_at = over.positions(into) if into is not None else None
        down_to = over.length - over.walked  # the leftmost position that is reached
        between = [
            p
            for p in range(over.length - 1, max(down_to, 1) - 1, -1)
            if into_at is not None or p == down_to
        ]
        for p in between:
            wanted += tape.visited[p - 1]
        if rhs_at is not None:
            for p in range(max(down_to, 1), over.length):
                outputs += tape.visited[p - 1]
                weights += rhs_at[p]
        if down_to == 0:
            wanted += tape.departures
        parameters = [p for p in (*tape.own, *tape.shared) if p.requires_grad] if collect else []
        inputs = [*wanted, *parameters]
        kept = self.keep or not collect
        pairs = [
            (a, w) for a, w in zip(outputs, weights, strict=True) if a.requires_grad
        ]  # not detached
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if pairs:
            ends, pulled = zip(*pairs, strict=True)
            found = torch.autograd.grad(ends, inputs, pulled, retain_graph=kept, allow_unused=True)
        if collect:
            self._gather(tape, over, found[len(wanted) :])
        back = [torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=False)]
        parts = len(u)
        states = [tuple(back[k : k + parts]) for k in range(0, len(wanted), parts)]
        if down_to == 0:
            if rhs_at is not None:
                states[-1] = state_map(torch.add, states[-1], rhs_at[0])
            between.append(0)
        if into_at is not None:
            for p, state in zip(between, states, strict=True):
                copy_into(into_at[p], state)
        return states[-1]

    def _gather(self, tape: _Graph, over: Intervals, found: Sequence[Tensor | None]) -> None:
        """Adds up gradients; a parameter that no step has used gets none."""
        remaining = iter(found)
        for k, leaf in enumerate(tape.own):
            if leaf.requires_grad and (gradient := next(remaining)) is not None:
                self._add_own(k, over, gradient[:, 0])
        for k, leaf in enumerate(tape.shared, start=len(tape.own)):
            if leaf.requires_grad and (gradient := next(remaining)) is not None:
                self._add_shared(k, gradient)
