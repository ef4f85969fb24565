"""Compiled walks of a step, called with tensors."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .code import CALL_FIELDS, Target, source
from .compiler import compiled
from .program import Input, Program
from .split import Walks, is_zero, part
from .walking import record

State = tuple[Tensor, ...]


def target(batch: int, itemsize: int) -> Target:
    """Vectors and tiles for a batch: no wider than there are samples."""
    vector = 64
    while vector > 16 and vector // itemsize >= 2 * batch:
        vector //= 2
    return Target(vector, 2 if batch > vector // itemsize else 1)


@dataclass(frozen=True, eq=False)
class Kernel:
    """The two walks of a program as machine code."""

    walks: Walks
    target: Target
    library: ctypes.CDLL

    @classmethod
    def of(cls, program: Program, goal: Target, keep: bool) -> Kernel:
        """Compiles a program, or finds it compiled.

        Args:
            keep: whether the tape keeps more than states.
        """
        walks = part(program, keep)
        return cls(walks, goal, compiled(source(walks, goal)))

    @cached_property
    def _struct(self) -> type[ctypes.Structure]:
        inputs = [v.op for v in self.walks.program.inputs if isinstance(v.op, Input)]
        own = max(sum(op.role == "own" for op in inputs), 1)
        shared = max(sum(op.role == "shared" for op in inputs), 1)
        parts = len(self.walks.program.shapes)
        many = {
            "own": own,
            "own_step": own,
            "own_gradient": own,
            "shared": shared,
            "shared_gradient": shared,
        }
        many |= dict.fromkeys(("start", "end", "onto", "rhs", "less", "into"), parts)
        fields = [
            (name, ctypes.c_int64 * many[name] if name in many else ctypes.c_int64)
            for name in CALL_FIELDS
        ]
        return type("Call", (ctypes.Structure,), {"_fields_": [*fields, ("h", ctypes.c_double)]})

    @property
    def lanes(self) -> int:
        """Samples in a tile."""
        itemsize = 4 if self.walks.program.dtype == torch.float32 else 8
        return self.target.vector // itemsize * self.target.tile

    @cached_property
    def record(self) -> int:
        """Numbers that the tape keeps of a sample and a step."""
        return record(self.walks)

    @cached_property
    def state(self) -> int:
        return sum(math.prod(shape) for shape in self.walks.program.shapes)

    def tiles(self, batch: int) -> int:
        return -(-batch // self.lanes)

    def tape_shape(self, steps: int, batch: int) -> tuple[int, ...]:
        """(steps, tiles, numbers of a sample, lanes)."""
        return (steps, self.tiles(batch), self.record, self.lanes)

    def unrolled(self, tape: Tensor, batch: int) -> State:
        """The states of a tape: every step's departure, (steps, batch, ...)."""
        parts, at = [], 0
        for shape in self.walks.program.shapes:
            size = math.prod(shape)
            piece = tape[:, :, at : at + size].permute(0, 1, 3, 2).flatten(1, 2)[:, :batch]
            parts.append(piece.reshape(-1, batch, *shape))
            at += size
        return tuple(parts)

    def has(self, role: str, place: int) -> bool:
        """Whether there is a gradient: the step uses it."""
        return (role, place) in self.walks.summed

    def written(self, role: str, place: int) -> bool:
        """Whether a gradient is written: it is not always zero."""
        return self.has(role, place) and not is_zero(self.walks.summed[role, place])

    def __call__(
        self,
        name: str,
        *,
        length: int,
        walked: int,
        h: float,
        start: Sequence[Tensor],
        end: Sequence[Tensor],
        own: Sequence[Tensor],
        shared: Sequence[Tensor],
        times: Tensor | None = None,
        tape: Tensor | None = None,
        own_gradient: Sequence[Tensor | None] = (),
        shared_gradient: Sequence[Tensor | None] = (),
        collect: bool = False,
        onto: Sequence[Tensor] | None = None,
        rhs: Sequence[Tensor] | None = None,
        less: Sequence[Tensor] | None = None,
        into: Sequence[Tensor] | None = None,
    ) -> None:
        """Walks; all tensors are contiguous.

        Args:
            name: "forward" or "backward".
            start, end: parts of the state where the intervals depart and arrive, (count, batch, ...).
            own: (steps, ...) from the first step on.
            onto, rhs, less, into: parts of arrays of states, from the first on; see `Chain.advance`.
        """
        call = self._struct()
        count, batch = start[0].shape[:2]
        call.count, call.length, call.walked, call.batch, call.h = count, length, walked, batch, h
        call.collect = collect
        for k, a in enumerate(own):
            call.own[k], call.own_step[k] = a.data_ptr(), a.stride(0)
        for k, a in enumerate(shared):
            call.shared[k] = a.data_ptr()
        arrays = {"start": start, "end": end, "onto": onto, "rhs": rhs, "less": less, "into": into}
        for field, tensors in arrays.items():
            for k, a in enumerate(tensors or ()):
                getattr(call, field)[k] = a.data_ptr()
        for field, gradients in (("own_gradient", own_gradient), ("shared_gradient", shared_gradient)):
            for k, g in enumerate(gradients):
                if g is not None:
                    getattr(call, field)[k] = g.data_ptr()
        if times is not None:
            call.times = times.data_ptr()
        if tape is not None:
            call.tape = tape.data_ptr()
        scratch = torch.empty(2 * self.tiles(batch) * self.state * self.lanes, dtype=start[0].dtype)
        call.scratch = scratch.data_ptr()
        getattr(self.library, name)(ctypes.byref(call))
