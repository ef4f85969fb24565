"""From PyTorch's operations to those of the list, one function a kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .program import Builder, View, one_for_all

Lower = Callable[..., Any]
LOWERED: dict[str, Lower] = {}
"""By the operation's name, with its overload: ``f(builder, *arguments, **keywords)``."""


class UnsupportedError(Exception):
    """A step has something that no native loop has; the message says what."""


def lowers(*names: str) -> Callable[[Lower], Lower]:
    def register(function: Lower) -> Lower:
        LOWERED.update(dict.fromkeys(names, function))
        return function

    return register


# ---- functions of single elements ---------------------------------------------------------------

_UNARY = ["neg", "abs", "sign", "exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "asinh", "acosh", "atanh", "sigmoid", "erf", "erfc", "relu", "floor", "ceil", "round", "trunc", "exp2"]
_BINARY = ["mul", "div", "maximum", "minimum", "atan2", "fmod", "copysign", "hypot"]
_COMPARISONS = ["gt", "ge", "lt", "le", "eq", "ne"]
_LOGICAL = {"and": "and", "or": "or", "xor": "xor"}


def _operand(b: Builder, a: View | float) -> View:
    return a if isinstance(a, View) else b.constant(a)


def _number(b: Builder, a: View | float) -> View:
    """An operand as numbers: flags become 0 and 1."""
    a = _operand(b, a)
    return b.map("number", a) if a.value.flags else a


for _name in _UNARY:
    _overloads = [f"aten.{_name}.default", f"prims.{_name}.default"]

    @lowers(*_overloads)
    def _unary(b: Builder, a: View, _name: str = _name) -> View:
        return b.map(_name, _number(b, a))


for _name in _BINARY:

    @lowers(
        f"aten.{_name}.Tensor", f"aten.{_name}.default", f"aten.{_name}.Scalar", f"prims.{_name}.default"
    )
    def _binary(b: Builder, a: View | float, c: View | float, _name: str = _name) -> View:
        if (
            _name == "mul"
            and isinstance(a, View)
            and isinstance(c, View)
            and a.value.flags
            and c.value.flags
        ):
            return b.map("and", a, c, flags=True)
        return b.map(_name, _number(b, a), _number(b, c))


for _name in _COMPARISONS:

    @lowers(f"aten.{_name}.Tensor", f"aten.{_name}.Scalar", f"prims.{_name}.default")
    def _comparison(b: Builder, a: View | float, c: View | float, _name: str = _name) -> View:
        return b.map(_name, _number(b, a), _number(b, c), flags=True)


for _name, _function in _LOGICAL.items():

    @lowers(f"aten.logical_{_name}.default", f"aten.bitwise_{_name}.Tensor", f"aten.__{_name}__.Tensor")
    def _logical(b: Builder, a: View, c: View, _function: str = _function) -> View:
        return b.map(_function, _flags(b, a), _flags(b, c), flags=True)


def _flags(b: Builder, a: View) -> View:
    return a if a.value.flags else b.map("ne", a, b.constant(0.0), flags=True)


@lowers("aten.logical_not.default", "aten.bitwise_not.default")
def _not(b: Builder, a: View) -> View:
    return b.map("not", _flags(b, a), flags=True)


def _scaled(b: Builder, a: View, by: View | float) -> View:
    return a if by == 1 else b.map("mul", a, _operand(b, by))


@lowers("aten.add.Tensor", "aten.add.Scalar", "prims.add.default")
def _add(b: Builder, a: View | float, c: View | float, *, alpha: View | float = 1) -> View:
    return b.map("add", _number(b, a), _scaled(b, _number(b, c), alpha))


@lowers("aten.sub.Tensor", "aten.sub.Scalar", "prims.sub.default")
def _sub(b: Builder, a: View | float, c: View | float, *, alpha: View | float = 1) -> View:
    return b.map("sub", _number(b, a), _scaled(b, _number(b, c), alpha))


@lowers("aten.rsub.Tensor", "aten.rsub.Scalar")
def _rsub(b: Builder, a: View, c: View | float, alpha: float = 1) -> View:
    return b.map("sub", _number(b, c), _scaled(b, _number(b, a), alpha))


@lowers("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar", "prims.pow.default")
def _pow(b: Builder, a: View | float, p: View | float) -> View:
    if isinstance(p, View) or not isinstance(a, View):
        return b.map("pow", _operand(b, a), _operand(b, p))
    a = _number(b, a)
    if p in (0.5, -0.5, -1.0):
        return b.map({0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}[p], a)
    if p == 0:
        return b.constant(1.0, a.shape)
    if p != int(p) or abs(p) > 8:
        return b.map("pow", a, b.constant(p))
    out = a
    for bit in bin(int(abs(p)))[3:]:
        out = b.map("mul", out, out)
        out = b.map("mul", out, a) if bit == "1" else out
    return b.map("reciprocal", out) if p < 0 else out


@lowers("aten.where.self", "prims.where.default")
def _where(b: Builder, which: View, a: View | float, c: View | float) -> View:
    return b.map("where", _flags(b, which), _number(b, a), _number(b, c))


@lowers("aten.clamp.default", "aten.clamp.Tensor", "aten.hardtanh.default")
def _clamp(b: Builder, a: View, low: Any = None, high: Any = None) -> View:
    a = a if low is None else b.map("maximum", a, _operand(b, low))
    return a if high is None else b.map("minimum", a, _operand(b, high))


@lowers("aten.clamp_min.default")
def _clamp_min(b: Builder, a: View, low: float) -> View:
    return _clamp(b, a, low)


@lowers("aten.clamp_max.default")
def _clamp_max(b: Builder, a: View, high: float) -> View:
    return _clamp(b, a, None, high)


# ---- views: the operation itself, done with the places of elements ------------------------------

_MOVES = ["alias", "view", "_unsafe_view", "reshape", "permute", "t", "transpose.int", "expand", "unsqueeze", "squeeze", "squeeze.dim", "squeeze.dims", "slice.Tensor", "select.int", "clone", "as_strided", "detach", "lift_fresh_copy", "flip", "roll", "diagonal", "unfold", "repeat", "detach_", "contiguous", "movedim.int", "index_select", "_reshape_alias", "view_copy"]


def _is_number(dtype: torch.dtype | None) -> bool:
    return dtype is None or dtype.is_floating_point


def _moved(op: Any, a: View, *args: Any, **kw: Any) -> View:
    kw.pop("memory_format", None)
    return View(a.value, op(a.index.contiguous(), *args, **kw))


for _name in _MOVES:
    _full = _name if "." in _name else f"{_name}.default"

    @lowers(f"aten.{_full}")
    def _move(b: Builder, a: View, *args: Any, _full: str = _full, **kw: Any) -> View:
        packet, overload = _full.split(".")
        return _moved(getattr(getattr(torch.ops.aten, packet), overload), a, *args, **kw)


@lowers("prims.broadcast_in_dim.default")
def _broadcast(b: Builder, a: View, shape: Sequence[int], dims: Sequence[int]) -> View:
    wide = [1] * len(shape)
    for d, to in enumerate(dims):
        wide[to] = a.shape[d]
    return View(a.value, a.index.reshape(wide).expand(*shape))


@lowers("aten.split_with_sizes.default", "aten.split_with_sizes_copy.default")
def _split(b: Builder, a: View, sizes: Sequence[int], dim: int = 0) -> list[View]:
    return [View(a.value, part) for part in a.index.split(list(sizes), dim)]


@lowers("aten.split.Tensor")
def _split_equal(b: Builder, a: View, size: int, dim: int = 0) -> list[View]:
    return [View(a.value, part) for part in a.index.split(size, dim)]


@lowers("aten.unbind.int")
def _unbind(b: Builder, a: View, dim: int = 0) -> list[View]:
    return [View(a.value, part) for part in a.index.unbind(dim)]


def _fixed(which: Sequence[Any]) -> list[Tensor | None]:
    if not all(w is None or isinstance(w, Tensor) for w in which):
        raise UnsupportedError("it looks up elements by numbers that it computes")
    return list(which)


@lowers("aten.index.Tensor")
def _index(b: Builder, a: View, which: Sequence[Any]) -> View:
    return View(a.value, torch.ops.aten.index.Tensor(a.index, _fixed(which)))


@lowers("aten.gather.default")
def _gather(b: Builder, a: View, dim: int, which: Any) -> View:
    _fixed([which])
    return View(a.value, a.index.gather(dim, which))


@lowers("aten._to_copy.default", "prims.convert_element_type.default")
def _to_copy(b: Builder, a: View, dtype: torch.dtype | None = None, **_: Any) -> View:
    if not _is_number(dtype) and dtype != torch.bool:
        raise UnsupportedError(f"it computes with {dtype}")
    return _flags(b, a) if dtype == torch.bool else _number(b, a)


@lowers("aten.copy.default")
def _copy(b: Builder, a: View, c: View, *_: Any) -> View:
    return c.expand(a.shape)


# ---- arrays put together ------------------------------------------------------------------------


def _places(shape: Sequence[int]) -> Tensor:
    return torch.arange(math.prod(shape)).reshape(tuple(shape))


def _overwritten(b: Builder, a: View, c: View, places: Tensor) -> View:
    """`a` with `c` at some places."""
    rest = torch.ones(a.size, dtype=torch.bool)
    rest[places.reshape(-1)] = False
    kept = View(a.value, a.index.reshape(-1)[rest])
    pieces = [(kept, _places(a.shape).reshape(-1)[rest]), (c.expand(places.shape), places)]
    return b.gather([p for p in pieces if p[0].size], a.shape)


@lowers("aten.cat.default", "prims.cat.default")
def _cat(b: Builder, parts: Sequence[View], dim: int = 0) -> View:
    parts = [p for p in parts if p.shape != (0,)]
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].shape)
    shape[dim] = sum(p.shape[dim] for p in parts)
    places = _places(shape).split([p.shape[dim] for p in parts], dim)
    return b.gather(list(zip(parts, places, strict=True)), shape)


@lowers("aten.stack.default")
def _stack(b: Builder, parts: Sequence[View], dim: int = 0) -> View:
    return _cat(b, [View(p.value, p.index.unsqueeze(dim)) for p in parts], dim)


@lowers("aten.constant_pad_nd.default")
def _pad(b: Builder, a: View, pad: Sequence[int], value: float = 0.0) -> View:
    where = torch.ops.aten.constant_pad_nd.default(a.index + 1, list(pad), 0)
    inside = where > 0
    places = _places(where.shape)
    pieces = [(View(a.value, where[inside] - 1), places[inside])]
    if value:
        rest = places[~inside]
        pieces.append((b.constant(value, rest.shape), rest))
    return b.gather(pieces, where.shape)


@lowers("aten.slice_scatter.default")
def _slice_scatter(b: Builder, a: View, c: View, *where: Any, **kw: Any) -> View:
    return _overwritten(b, a, c, torch.ops.aten.slice.Tensor(_places(a.shape), *where, **kw))


@lowers("aten.select_scatter.default")
def _select_scatter(b: Builder, a: View, c: View, dim: int, at: int) -> View:
    return _overwritten(b, a, c, _places(a.shape).select(dim, at))


@lowers("aten.as_strided_scatter.default")
def _strided_scatter(b: Builder, a: View, c: View, *where: Any) -> View:
    return _overwritten(b, a, c, torch.as_strided(_places(a.shape), *where))


@lowers("aten.index_put.default", "aten._unsafe_index_put.default")
def _index_put(b: Builder, a: View, which: Sequence[Any], c: View, accumulate: bool = False) -> View:
    places = torch.ops.aten.index.Tensor(_places(a.shape), _fixed(which))
    if not accumulate:
        return _overwritten(b, a, c, places)
    c, rows = c.expand(places.shape).flat(), places.reshape(-1)
    turns: list[list[int]] = []
    seen: dict[int, int] = {}
    for k, place in enumerate(rows.tolist()):  # one piece for every first, second, ... use of a place
        turn = seen[place] = seen.get(place, -1) + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(k)
    for turn in turns:
        picked = torch.tensor(turn)
        a = b.map("add", a, b.gather([(View(c.value, c.index[picked]), rows[picked])], a.shape))
    return a


@lowers("aten.scalar_tensor.default")
def _scalar(b: Builder, value: float, **_: Any) -> View:
    return b.constant(value)


@lowers("aten.full.default", "aten.full_like.default", "aten.new_full.default")
def _full(b: Builder, like: Any, *rest: Any, **_: Any) -> View:
    if isinstance(like, View):
        return b.constant(rest[-1], like.shape if len(rest) == 1 else rest[0])
    return b.constant(rest[0], like)


@lowers("aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default")
@lowers("aten.empty.memory_format", "aten.new_empty.default", "aten.new_empty_strided.default")
@lowers("aten.empty_like.default", "aten.empty_strided.default")
def _zeros(b: Builder, like: Any, *rest: Any, **_: Any) -> View:
    if isinstance(like, View):
        return b.constant(0.0, rest[0] if rest else like.shape)
    return b.constant(0.0, like)


@lowers("aten.ones.default", "aten.ones_like.default")
def _ones(b: Builder, like: Any, **_: Any) -> View:
    return b.constant(1.0, like.shape if isinstance(like, View) else like)


# ---- sums ---------------------------------------------------------------------------------------


def _dims(a: View, dims: Any) -> list[int]:
    return list(range(len(a.shape))) if dims in (None, []) else [dims] if isinstance(dims, int) else dims


@lowers("aten.sum.dim_IntList", "aten.sum.default", "prims.sum.default")
def _sum(b: Builder, a: View, dims: Any = None, keep: bool = False, **_: Any) -> View:
    return b.reduce("sum", _number(b, a), _dims(a, dims), keep)


@lowers("aten.mean.dim", "aten.mean.default")
def _mean(b: Builder, a: View, dims: Any = None, keep: bool = False, **_: Any) -> View:
    total = _sum(b, a, dims, keep)
    return b.map("mul", total, b.constant(total.size / a.size))


@lowers("aten.amax.default", "prims.amax.default")
def _amax(b: Builder, a: View, dims: Any = None, keep: bool = False) -> View:
    return b.reduce("max", a, _dims(a, dims), keep)


@lowers("aten.amin.default", "prims.amin.default")
def _amin(b: Builder, a: View, dims: Any = None, keep: bool = False) -> View:
    return b.reduce("min", a, _dims(a, dims), keep)


@lowers("prims.var.default")
def _var(b: Builder, a: View, dims: Any = None, correction: float = 1, **_: Any) -> View:
    mean = _mean(b, a, dims, True)
    off = b.map("sub", a, mean)
    total = _sum(b, b.map("mul", off, off), dims, False)
    return b.map("mul", total, b.constant(1.0 / max(a.size / total.size - correction, 0.0)))


@lowers("aten.linalg_vector_norm.default")
def _norm(b: Builder, a: View, order: float = 2, dims: Any = None, keep: bool = False, **_: Any) -> View:
    if order == 2:
        return b.map("sqrt", _sum(b, b.map("mul", a, a), dims, keep))
    if order == 1:
        return _sum(b, b.map("abs", a), dims, keep)
    raise UnsupportedError(f"it takes a norm of order {order}")


@lowers("aten.cumsum.default")
def _cumsum(b: Builder, a: View, dim: int, **_: Any) -> View:
    parts = a.index.unbind(dim)
    sums = [View(a.value, parts[0])]
    for part in parts[1:]:
        sums.append(b.map("add", sums[-1], View(a.value, part)))
    return _stack(b, sums, dim % len(a.shape))


# ---- products -----------------------------------------------------------------------------------


@lowers("aten.mm.default")
def _mm(b: Builder, a: View, c: View) -> View:
    one = b.dot(View(a.value, a.index[None]), View(c.value, c.index[None]))
    return View(one.value, one.index[0])


@lowers("aten.addmm.default")
def _addmm(b: Builder, c: View, one: View, two: View, *, beta: float = 1, alpha: float = 1) -> View:
    return b.map("add", _scaled(b, c, beta), _scaled(b, _mm(b, one, two), alpha))


@lowers("aten.bmm.default")
def _bmm(b: Builder, a: View, c: View) -> View:
    return b.dot(a, c)


@lowers("aten.mv.default")
def _mv(b: Builder, a: View, c: View) -> View:
    one = _mm(b, a, View(c.value, c.index[:, None]))
    return View(one.value, one.index[:, 0])


@lowers("aten.dot.default")
def _dot(b: Builder, a: View, c: View) -> View:
    one = _mm(b, View(a.value, a.index[None]), View(c.value, c.index[:, None]))
    return View(one.value, one.index[0, 0])


@lowers("aten._trilinear.default")
def _trilinear(
    b: Builder,
    one: View,
    two: View,
    three: View,
    first: Sequence[int],
    second: Sequence[int],
    third: Sequence[int],
    summed: Sequence[int],
    *_: Any,
) -> View:
    wide = []
    for view, dims in ((one, first), (two, second), (three, third)):
        index = view.index
        for d in sorted(dims):
            index = index.unsqueeze(d)
        wide.append(View(view.value, index))
    product = b.map("mul", b.map("mul", wide[0], wide[2]), wide[1])
    return _sum(b, product, list(summed))


def lowered(b: Builder, target: Any, args: Sequence[Any], kw: dict[str, Any]) -> Any:
    """What an operation of PyTorch makes of views.

    Raises:
        UnsupportedError: there is no such operation in the list.
    """
    name = str(target)
    if name not in LOWERED:
        plain = name.removeprefix("aten.").removeprefix("prims.").partition(".")[0]
        raise UnsupportedError(f"it calls {plain}, which native loops do not have")
    return LOWERED[name](b, *args, **kw)


__all__ = ["UnsupportedError", "lowered", "one_for_all"]
