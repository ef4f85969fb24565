"""From PyTorch's operations to those of the list: sums and products, and where to look them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import moving
from .elements import number, scaled
from .program import Builder, View
from .registry import LOWERED, UnsupportedError, lowers

# ---- sums ---------------------------------------------------------------------------------------


def _dims(a: View, dims: Any) -> list[int]:
    return list(range(len(a.shape))) if dims in (None, []) else [dims] if isinstance(dims, int) else dims


@lowers("aten.sum.dim_IntList", "aten.sum.default", "prims.sum.default")
def _sum(b: Builder, a: View, dims: Any = None, keep: bool = False, **_: Any) -> View:
    return b.reduce("sum", number(b, a), _dims(a, dims), keep)


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
    return moving.stack(b, sums, dim % len(a.shape))


# ---- products -----------------------------------------------------------------------------------


@lowers("aten.mm.default")
def _mm(b: Builder, a: View, c: View) -> View:
    one = b.dot(View(a.value, a.index[None]), View(c.value, c.index[None]))
    return View(one.value, one.index[0])


@lowers("aten.addmm.default")
def _addmm(b: Builder, c: View, one: View, two: View, *, beta: float = 1, alpha: float = 1) -> View:
    return b.map("add", scaled(b, c, beta), scaled(b, _mm(b, one, two), alpha))


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
