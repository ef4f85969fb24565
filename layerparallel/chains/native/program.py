"""The list of operations that a step is traced into, for one sample; no emitter is known here.

A `Value` is a flat array of numbers. Every operation reads `View`s of earlier values: which element
stands where. So permutations, slices and broadcasts cost nothing and need no operation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Role = Literal["state", "own", "shared", "adjoint", "h", "t"]

CALL, STEP, SAMPLE = 0, 1, 2
"""How often a value is computed: once a call, once a step, or for every sample of every step."""


@dataclass(frozen=True, eq=False)
class Value:
    """An array of `size` numbers, or flags, that one operation makes.

    Args:
        level: CALL, STEP or SAMPLE.
        after: whether it depends on a sum over samples, which is known only at a step's end.
    """

    op: Op
    size: int
    level: int
    flags: bool = False
    after: bool = False


@dataclass(frozen=True, eq=False)
class View:
    """Elements of a value in some order: `index` has the view's shape and holds places in the value."""

    value: Value
    index: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.index.shape)

    @property
    def size(self) -> int:
        return self.index.numel()

    def flat(self) -> View:
        return View(self.value, self.index.reshape(-1))

    def expand(self, shape: Sequence[int]) -> View:
        return View(self.value, self.index.expand(tuple(shape)))

    @property
    def whole(self) -> bool:
        """Whether it is the value itself, in its order."""
        return self.size == self.value.size and bool(
            (self.index.reshape(-1) == torch.arange(self.size)).all()
        )


@dataclass(frozen=True, eq=False)
class Input:
    """What a step is given: a part of the state, a parameter, the adjoint, h, or the time."""

    role: Role
    place: int
    per_sample: bool = False
    views: tuple[View, ...] = ()


@dataclass(frozen=True, eq=False)
class Constant:
    """Numbers that are the same in every step."""

    numbers: tuple[float, ...]
    views: tuple[View, ...] = ()


@dataclass(frozen=True, eq=False)
class Map:
    """A function of single elements: ``out[i] = f(a[i], b[i], ...)``."""

    function: str
    views: tuple[View, ...]


@dataclass(frozen=True, eq=False)
class Dot:
    """A batched matrix product: views of shapes (G, P, K) and (G, K, Q)."""

    views: tuple[View, View]


@dataclass(frozen=True, eq=False)
class Reduce:
    """A sum, largest or smallest over the second dimension of a view (n, K)."""

    function: Literal["sum", "max", "min"]
    views: tuple[View]


@dataclass(frozen=True, eq=False)
class Gather:
    """Views put side by side: `places` says where the elements of each go; elsewhere is 0."""

    views: tuple[View, ...]
    places: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Total:
    """The sum over samples of all its views, which have one size; over a step's, or a call's."""

    views: tuple[View, ...]
    level: int = STEP


Op = Input | Constant | Map | Dot | Reduce | Gather | Total


@dataclass(frozen=True)
class Program:
    """A step and its vector-Jacobian product, as views of values that operations make.

    Args:
        shapes: of the state's parts, for one sample.
        ends: the next state.
        adjoint: of the state the step departed from, from the inputs of role "adjoint".
        gradients: of parameters, by role and place; none where the step does not use one.
    """

    dtype: torch.dtype
    shapes: tuple[tuple[int, ...], ...]
    ends: tuple[View, ...]
    adjoint: tuple[View, ...]
    gradients: dict[tuple[Role, int], View]
    inputs: tuple[Value, ...]


@dataclass
class Builder:
    """Makes values; equal operations on equal views are made once."""

    made: dict[object, Value] = field(default_factory=dict)

    def value(self, op: Op, size: int, flags: bool = False) -> View:
        key = _key(op, flags)
        if key not in self.made:
            level = max((v.value.level for v in op.views), default=CALL)
            after = any(v.value.after for v in op.views)
            if isinstance(op, Input):
                level = SAMPLE if op.per_sample else {"own": STEP, "t": STEP}.get(op.role, CALL)
            elif isinstance(op, Total):
                level, after = op.level, True
            self.made[key] = Value(op, size, level, flags, after)
        return View(self.made[key], torch.arange(size))

    def constant(self, number: float, shape: Sequence[int] = ()) -> View:
        one = self.value(Constant((float(number),)), 1)
        return one_for_all(one, shape)

    def numbers(self, tensor: Tensor) -> View:
        """A tensor of numbers, or flags, that are the same in every step."""
        flat = tensor.detach().reshape(-1)
        flags = tensor.dtype == torch.bool
        view = self.value(Constant(tuple(map(float, flat.tolist()))), flat.numel(), flags)
        return View(view.value, view.index.reshape(tensor.shape))

    def map(self, function: str, *views: View, flags: bool = False) -> View:
        """`function` of views that are broadcast against each other."""
        shape = torch.broadcast_shapes(*(v.shape for v in views))
        if function == "mul":
            for one, other in (views, views[::-1]):
                if isinstance(one.value.op, Constant) and set(one.value.op.numbers) == {1.0}:
                    return other.expand(shape)
        wide = tuple(v.expand(shape).flat() for v in views)
        out = self.value(Map(function, wide), math.prod(shape), flags)
        return View(out.value, out.index.reshape(shape))

    def reduce(
        self, function: Literal["sum", "max", "min"], view: View, dims: Sequence[int], keep: bool
    ) -> View:
        rank = len(view.shape)
        dims = sorted({d % rank for d in dims} or set(range(rank))) if rank else []
        rest = [d for d in range(rank) if d not in dims]
        shape = [view.shape[d] for d in rest]
        kept = [1 if d in dims else view.shape[d] for d in range(rank)]
        index = view.index.permute(*rest, *dims).reshape(math.prod(shape), -1)
        if index.shape[1] == 1:
            return View(view.value, view.index.reshape(kept if keep else shape))
        out = self.value(Reduce(function, (View(view.value, index),)), index.shape[0])
        return View(out.value, out.index.reshape(kept if keep else shape))

    def dot(self, a: View, b: View) -> View:
        """Matrix products (G, P, K) (G, K, Q)."""
        (g, p, _), q = a.shape, b.shape[2]
        out = self.value(Dot((a, b)), g * p * q)
        return View(out.value, out.index.reshape(g, p, q))

    def gather(self, pieces: Sequence[tuple[View, Tensor]], shape: Sequence[int]) -> View:
        """Every piece at its places in an array of this shape; 0 where none is."""
        views = tuple(v.flat() for v, _ in pieces)
        places = tuple(p.reshape(-1) for _, p in pieces)
        flags = any(v.value.flags for v in views)
        out = self.value(Gather(views, places), math.prod(shape), flags)
        return View(out.value, out.index.reshape(tuple(shape)))


def one_for_all(view: View, shape: Sequence[int]) -> View:
    """A single element in every place of a shape."""
    return View(view.value, view.index.reshape(()).expand(tuple(shape)))


def _key(op: Op, flags: bool) -> object:
    views = tuple((id(v.value), v.shape, tuple(v.index.reshape(-1).tolist())) for v in op.views)
    match op:
        case Input(role, place):
            return "input", role, place
        case Constant(numbers):
            return "constant", flags, tuple(n.hex() for n in numbers)
        case Map(function):
            return function, views
        case Reduce(function):
            return "reduce", function, views
        case Gather(_, places):
            return "gather", views, tuple(tuple(p.tolist()) for p in places)
        case Total(_, level):
            return "total", level, views
        case _:
            return type(op), views
