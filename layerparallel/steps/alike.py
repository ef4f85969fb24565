"""Whether two modules differ in the values of their parameters alone: then one can stand for both.

Compared are classes, settings (attributes of any kind), training modes, shapes, dtypes and flags of the
parameters and which of them are shared, and buffers. Hooks are called on one module, so modules that
have any are not alike.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from .comparing import equal
from .repeatable import BatchNorm

WITHIN = ("_modules", "_parameters", "_buffers")
"""What a module holds, not how it is set."""
PLAIN = frozenset([bool, int, float, complex, str, bytes, set, frozenset, torch.dtype, torch.device])
"""Of settings that are compared by value."""


def matched(a: nn.Module, b: nn.Module, buffers: bool = False) -> dict[Tensor, Tensor] | None:
    """The parameter of `b` that stands where each of `a` does, in order; None where they are not alike.

    Args:
        buffers: modules with buffers may be alike: where the values are equal, those of batch norms'
            running statistics left out. If not, they never are, and nothing but names is compared,
            which takes some 4 microseconds a module.
    """
    pairs: dict[Tensor, Tensor] = {}
    return None if _gather(a, b, pairs, buffers) or _joined(pairs) else pairs


def difference(a: nn.Module, b: nn.Module) -> str | None:
    """In what two modules are not alike, buffers or not: ``"attribute 1.p"``; None where they are."""
    pairs: dict[Tensor, Tensor] = {}
    found = _gather(a, b, pairs, buffers=True)
    return found or ("which parameters are shared" if _joined(pairs) else None)


def _joined(pairs: dict[Tensor, Tensor]) -> bool:
    """Whether one parameter stands where the other module has several."""
    return len(set(pairs.values())) < len(pairs)


def _gather(
    a: nn.Module, b: nn.Module, pairs: dict[Tensor, Tensor], buffers: bool, place: str = ""
) -> str | None:
    """Adds the pairs of parameters; the first difference, if there is one.

    Args:
        place: of the two modules, with a dot behind it.
    """
    mine, theirs = a.__dict__, b.__dict__
    if not _same_kind(a, b):
        return f"classes{_of(place)}, {type(a).__name__} and {type(b).__name__}"
    places = mine["_parameters"], theirs["_parameters"]
    own = {id(p): places[1].get(name) for name, p in places[0].items()}
    for name, value in mine.items():
        other = theirs.get(name, theirs)
        if type(value) is dict or type(value) is OrderedDict:
            if not (value or other) or name in WITHIN:
                continue
            if "state_dict" in name and _same_functions(value, other):
                continue
            if name.endswith("_hooks"):
                return f"hooks{_of(place)}"
            if not _equal(value, other, own):
                return f"attribute {place}{name}"
        elif value is not other and not _equal(value, other, own):
            return f"attribute {place}{name}"
    if len(mine) != len(theirs):
        return f"attribute {place}{next(name for name in theirs if name not in mine)}"
    if (mine["_buffers"] or theirs["_buffers"]) and not (buffers and _equal_buffers(a, b)):
        return f"buffers{_of(place)}"
    named, others = mine["_parameters"], theirs["_parameters"]
    for name, p in named.items():
        q = others.get(name)
        if p is None or q is None:
            if p is not q:
                return f"parameter {place}{name}, which one of them lacks"
            continue
        if p._backward_hooks or q._backward_hooks:
            return f"hooks of {place}{name}"
        same = p.shape == q.shape and p.dtype == q.dtype and p.requires_grad == q.requires_grad
        if not same:
            return f"shape, dtype or requires_grad of {place}{name}"
        if pairs.setdefault(p, q) is not q:  # shared here, and not there
            return "which parameters are shared"
    inside, within = mine["_modules"], theirs["_modules"]
    if len(named) != len(others) or len(inside) != len(within):
        return f"names of parameters and modules{_of(place)}"
    for name, module in inside.items():
        other = within.get(name)
        if module is None or other is None:
            if module is not other:
                return f"module {place}{name}, which one of them lacks"
        elif found := _gather(module, other, pairs, buffers, f"{place}{name}."):
            return found
    return None


def _of(place: str) -> str:
    return f" of {place[:-1]}" if place else ""


def switches(part: nn.Module) -> tuple[Any, ...]:
    """What switches a module over: texts, functions, and which numbers are 0.

    A number that grows, as a count or a rate does, is no switch.
    """
    values = part.__dict__.values()
    return tuple([v if type(v) in TOLD else not v for v in values if type(v) in SWITCHES])


TOLD = frozenset([str, types.FunctionType, types.BuiltinFunctionType])
SWITCHES = TOLD | {bool, int, float, type(None)}


def _same_functions(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    """Whether hooks of loading and saving, which no evaluation calls, are the same functions."""
    names = [[getattr(hook, "__qualname__", type(hook)) for hook in each.values()] for each in (a, b)]
    return names[0] == names[1]


def _same_kind(a: nn.Module, b: nn.Module) -> bool:
    """Of one class; torch.nn.utils.parametrize gives every module that it changes a class of its own."""
    mine, theirs = type(a), type(b)
    both = is_parametrized(a) and is_parametrized(b)
    return mine is theirs or (both and mine.__bases__ == theirs.__bases__)


def _equal_buffers(a: nn.Module, b: nn.Module) -> bool:
    if isinstance(a, BatchNorm):
        return True  # every layer has its own
    mine, theirs = a._buffers, b._buffers
    return mine.keys() == theirs.keys() and all(_equal(x, theirs[name], {}) for name, x in mine.items())


def _equal(a: Any, b: Any, own: dict[int, Any]) -> bool:
    """Of settings: plain values and containers by value, anything else only if it is the same object.

    Args:
        own: by its identity, the parameter that stands where each of the first module's own does.
    """

    def each(xs: Iterable[Any], ys: Iterable[Any]) -> bool:
        return all(_equal(x, y, own) for x, y in zip(xs, ys, strict=True))

    if type(a) in PLAIN:
        return type(b) is type(a) and a == b
    if a is b or type(a) is not type(b):
        return a is b
    if id(a) in own:
        return own[id(a)] is b  # as in the flat weights of recurrent layers
    if isinstance(a, Tensor):
        if a.requires_grad or b.requires_grad:
            return False  # one copy for all would get the gradients of all
        return equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and each(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and each(a.values(), [b[key] for key in a])
    if isinstance(a, functools.partial):
        return each((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    if isinstance(a, weakref.ref):
        return _equal(a(), b(), own)
    return False
