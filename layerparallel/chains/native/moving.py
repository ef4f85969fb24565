"""From PyTorch's operations to those of the list: what moves elements, and computes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .elements import flags, number
from .program import Builder, View
from .registry import UnsupportedError, lowers

# ---- views: the operation itself, done with the places of elements ------------------------------

_MOVES = [
    "alias",
    "view",
    "_unsafe_view",
    "reshape",
    "permute",
    "t",
    "transpose.int",
    "expand",
    "unsqueeze",
    "squeeze",
    "squeeze.dim",
    "squeeze.dims",
    "slice.Tensor",
    "select.int",
    "clone",
    "as_strided",
    "detach",
    "lift_fresh_copy",
    "flip",
    "roll",
    "diagonal",
    "unfold",
    "repeat",
    "detach_",
    "contiguous",
    "movedim.int",
    "index_select",
    "_reshape_alias",
    "view_copy",
]


def _isnumber(dtype: torch.dtype | None) -> bool:
    return dtype is None or dtype.is_floating_point


def _moved(op: Any, a: View, *args: Any, **kw: Any) -> View:
    kw.pop("memory_format", None)
    return View(a.value, op(a.index.contiguous(), *args, **kw))


for _name in _MOVES:
    _called = _name if "." in _name else f"{_name}.default"

    @lowers(f"aten.{_called}")
    def _move(b: Builder, a: View, *args: Any, _called: str = _called, **kw: Any) -> View:
        packet, overload = _called.split(".")
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
    if not _isnumber(dtype) and dtype != torch.bool:
        raise UnsupportedError(f"it computes with {dtype}")
    return flags(b, a) if dtype == torch.bool else number(b, a)


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
def stack(b: Builder, parts: Sequence[View], dim: int = 0) -> View:
    """Views of one shape along a new dimension."""
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
