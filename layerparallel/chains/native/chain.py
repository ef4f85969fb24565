"""The chain of a step that native loops have: compiled walks, forward and back, with exact gradients."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...group.blocks import Blocks
from ...steps.state import State
from ..chain import Chain, Intervals
from ..coarse import CoarseOperator
from ..generic import GenericChain
from ..placement import Placement
from ..taped import TapedAdjoint
from ..workspace import Workspace
from .compiler import CompilerError
from .kernel import Kernel
from .loops import Loop, Loops, own_of, shared_of

FITS = 1 << 22
"""Bytes up to which a tape keeps what is dear to compute, and not states alone."""


@dataclass(frozen=True)
class NativeChain(Chain):
    """The steps of a `GenericChain`, walked by machine code.

    Args:
        plain: the same chain, evaluated by PyTorch.
        loop: its step, compiled.
        loops: where the steps of coarser levels are found.
        own: what every step has of its own, (N, ...), in the order of the step's program.
        shared: what all steps have in common, likewise.
        like: a state of the user's, for shapes and dtype.
    """

    interpreted = False

    plain: GenericChain
    loop: Loop
    loops: Loops
    own: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]
    like: State
    workspace: Workspace

    @property
    def steps(self) -> int:
        return self.plain.steps

    @property
    def placement(self) -> Placement | None:
        return self.plain.placement

    @property
    def allows_picard(self) -> bool:
        return self.plain.allows_picard

    @property
    def layer_bytes(self) -> int:
        return self.plain.layer_bytes

    def coarsen(self, factor: int, operator: CoarseOperator, blocks: Blocks | None = None) -> Chain:
        which = factor, operator, blocks
        if which not in self._coarser:
            coarse = self.plain.coarsen(factor, operator, blocks)
            self._coarser[which] = native(coarse, self.loops, self.like, self.workspace)
        return self._coarser[which]

    @cached_property
    def _coarser(self) -> dict[tuple[int, CoarseOperator, Blocks | None], Chain]:
        """Made once: the adjoint coarsens to the same ones."""
        return {}

    @cached_property
    def times(self) -> Tensor | None:
        """Of the layers evaluated in every step, (steps, s)."""
        return self.plain.layer_times(self.loop.dtype)

    def advance(
        self,
        u: State,
        over: Intervals,
        rhs: State | None = None,
        into: State | None = None,
        less: State | None = None,
    ) -> State:
        if not over.walked or not over.count:
            return u
        kernel = self.loop.kernel(u[0].shape[1])
        return self.walk(kernel, u, over, rhs=rhs, into=into, less=less)

    def walk(
        self,
        kernel: Kernel,
        u: State,
        over: Intervals,
        tape: Tensor | None = None,
        onto: State | None = None,
        rhs: State | None = None,
        into: State | None = None,
        less: State | None = None,
    ) -> State:
        """From departures u to arrivals; with a tape, what the walk back needs is written there."""
        end = tuple(torch.empty(a.shape, dtype=a.dtype) for a in u)
        kernel(
            "forward",
            length=over.length,
            walked=over.walked,
            h=self.plain.reach,
            start=[a.contiguous() for a in u],
            end=end,
            tape=tape,
            onto=None if onto is None else [a[over.first : over.stop + 1].contiguous() for a in onto],
            rhs=part(rhs, over),
            into=part(into, over),
            less=part(less, over),
            **self.given(over),
        )
        return end

    def given(self, over: Intervals) -> dict[str, Any]:
        """What a kernel is given of the steps of `over`."""
        times = self.times
        return {
            "own": [a[over.first : over.stop] for a in self.own],
            "shared": self.shared,
            "times": None if times is None else times[over.first : over.stop],
        }

    def linearise(self, groups: int = 1) -> NativeAdjoint:
        return NativeAdjoint(self, groups=groups)


def native(plain: GenericChain, loops: Loops, like: State, workspace: Workspace) -> Chain:
    """The chain in native loops, or as it is where there are none for its step.

    Args:
        like: a state, each part (samples, ...).
    """
    loop = loops.of(plain, like) if plain.steps else None
    if loop is None:
        return plain
    return NativeChain(plain, loop, loops, own_of(plain), shared_of(plain), like, workspace)


def part(array: State | None, over: Intervals) -> list[Tensor] | None:
    """Of an array of states, those from the first of `over` on; in place where it is written to."""
    if array is None:
        return None
    assert all(a.is_contiguous() for a in array)
    return [a[over.first : over.stop + 1] for a in array]


@dataclass(frozen=True)
class NativeTape:
    """What a walk back needs of a walk forward."""

    kernel: Kernel
    kept: Tensor
    arrivals: State


class NativeAdjoint(TapedAdjoint[NativeTape]):
    """The adjoint of a native chain: a compiled walk back along the tape."""

    chain: NativeChain

    def _tape(self, u: State, over: Intervals, onto: State | None = None) -> NativeTape:
        chain, batch = self.chain, u[0].shape[1]
        kernel = chain.loop.kernel(batch)
        steps = over.count * over.length
        if steps * kernel.tiles(batch) * kernel.record * kernel.lanes * u[0].element_size() > FITS:
            with contextlib.suppress(CompilerError):
                kernel = chain.loop.kernel(batch, keep=False)
        kept = chain.workspace.take(kernel.tape_shape(steps, batch), u[0])
        return NativeTape(kernel, kept, chain.walk(kernel, u, over, kept, onto))

    def _visited(self, tape: NativeTape, over: Intervals) -> list[State]:
        states = tape.kernel.unrolled(tape.kept, tape.arrivals[0].shape[1])
        inside = Intervals(0, over.count, over.length)
        return [*inside.positions(states)[1:], tape.arrivals]

    def _end(self, tape: NativeTape) -> State:
        return tape.arrivals

    def _release(self, tape: NativeTape) -> None:
        self.chain.workspace.give(tape.kept)

    def _pull(
        self,
        tape: NativeTape,
        u: State,
        over: Intervals,
        collect: bool,
        rhs: State | None,
        into: State | None,
    ) -> State:
        chain, kernel = self.chain, tape.kernel
        end = tuple(torch.empty(a.shape, dtype=a.dtype) for a in u)
        gradients = self._fresh(kernel, over) if collect else ([], [])
        kernel(
            "backward",
            length=over.length,
            walked=over.walked,
            h=chain.plain.reach,
            start=[a.contiguous() for a in u],
            end=end,
            tape=tape.kept,
            own_gradient=gradients[0],
            shared_gradient=gradients[1],
            collect=collect,
            rhs=part(rhs, over),
            into=part(into, over),
            **chain.given(over),
        )
        for k, g in enumerate(gradients[0]):
            if g is not None:
                self._add_own(k, over, g)
        for k, g in enumerate(gradients[1], len(gradients[0])):
            if g is not None:
                self._add_shared(k, g)
        return end

    def _fresh(self, kernel: Kernel, over: Intervals) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Memory for the gradients of steps; None for those that there are none of."""
        chain, steps = self.chain, over.count * over.length

        def fresh(role: str, k: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
            if kernel.written(role, k) and role == "own":
                return torch.empty(shape, dtype=dtype)
            return torch.zeros(shape, dtype=dtype) if kernel.has(role, k) else None

        plain = chain.plain
        own = [fresh("own", k, (steps, *a.shape[1:]), a.dtype) for k, a in enumerate(plain.own)]
        shared = [fresh("shared", k, tuple(a.shape), a.dtype) for k, a in enumerate(plain.shared)]
        return own, shared
