"""From PyTorch's operations to those of the list: functions of single elements."""

from __future__ import annotations

from typing import Any

from .program import Builder, View
from .registry import lowers

_UNARY = [
    "neg",
    "abs",
    "sign",
    "exp",
    "expm1",
    "log",
    "log1p",
    "log2",
    "log10",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "sin",
    "cos",
    "tan",
    "sinh",
    "cosh",
    "tanh",
    "asin",
    "acos",
    "atan",
    "asinh",
    "acosh",
    "atanh",
    "sigmoid",
    "erf",
    "erfc",
    "relu",
    "floor",
    "ceil",
    "round",
    "trunc",
    "exp2",
]
_BINARY = ["mul", "div", "maximum", "minimum", "atan2", "fmod", "copysign", "hypot"]
_COMPARISONS = ["gt", "ge", "lt", "le", "eq", "ne"]
_LOGICAL = {"and": "and", "or": "or", "xor": "xor"}


def operand(b: Builder, a: View | float) -> View:
    """A number as a view."""
    return a if isinstance(a, View) else b.constant(a)


def number(b: Builder, a: View | float) -> View:
    """An operand as numbers: flags become 0 and 1."""
    a = operand(b, a)
    return b.map("number", a) if a.value.flags else a


for _name in _UNARY:
    _overloads = [f"aten.{_name}.default", f"prims.{_name}.default"]

    @lowers(*_overloads)
    def _unary(b: Builder, a: View, _name: str = _name) -> View:
        return b.map(_name, number(b, a))


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
        return b.map(_name, number(b, a), number(b, c))


for _name in _COMPARISONS:

    @lowers(f"aten.{_name}.Tensor", f"aten.{_name}.Scalar", f"prims.{_name}.default")
    def _comparison(b: Builder, a: View | float, c: View | float, _name: str = _name) -> View:
        return b.map(_name, number(b, a), number(b, c), flags=True)


for _name, _function in _LOGICAL.items():

    @lowers(f"aten.logical_{_name}.default", f"aten.bitwise_{_name}.Tensor", f"aten.__{_name}__.Tensor")
    def _logical(b: Builder, a: View, c: View, _function: str = _function) -> View:
        return b.map(_function, flags(b, a), flags(b, c), flags=True)


def flags(b: Builder, a: View) -> View:
    """An operand as flags: what is not 0."""
    return a if a.value.flags else b.map("ne", a, b.constant(0.0), flags=True)


@lowers("aten.logical_not.default", "aten.bitwise_not.default")
def _not(b: Builder, a: View) -> View:
    return b.map("not", flags(b, a), flags=True)


def scaled(b: Builder, a: View, by: View | float) -> View:
    """An operand times a number."""
    return a if by == 1 else b.map("mul", a, operand(b, by))


@lowers("aten.add.Tensor", "aten.add.Scalar", "prims.add.default")
def _add(b: Builder, a: View | float, c: View | float, *, alpha: View | float = 1) -> View:
    return b.map("add", number(b, a), scaled(b, number(b, c), alpha))


@lowers("aten.sub.Tensor", "aten.sub.Scalar", "prims.sub.default")
def _sub(b: Builder, a: View | float, c: View | float, *, alpha: View | float = 1) -> View:
    return b.map("sub", number(b, a), scaled(b, number(b, c), alpha))


@lowers("aten.rsub.Tensor", "aten.rsub.Scalar")
def _rsub(b: Builder, a: View, c: View | float, alpha: float = 1) -> View:
    return b.map("sub", number(b, c), scaled(b, number(b, a), alpha))


@lowers("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar", "prims.pow.default")
def _pow(b: Builder, a: View | float, p: View | float) -> View:
    if isinstance(p, View) or not isinstance(a, View):
        return b.map("pow", operand(b, a), operand(b, p))
    a = number(b, a)
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
    return b.map("where", flags(b, which), number(b, a), number(b, c))


@lowers("aten.clamp.default", "aten.clamp.Tensor", "aten.hardtanh.default")
def _clamp(b: Builder, a: View, low: Any = None, high: Any = None) -> View:
    a = a if low is None else b.map("maximum", a, operand(b, low))
    return a if high is None else b.map("minimum", a, operand(b, high))


@lowers("aten.clamp_min.default")
def _clamp_min(b: Builder, a: View, low: float) -> View:
    return _clamp(b, a, low)


@lowers("aten.clamp_max.default")
def _clamp_max(b: Builder, a: View, high: float) -> View:
    return _clamp(b, a, None, high)
