"""What is computed when: a program parted into a walk forward, a tape, and a walk back.

Sums over samples are taken as early as they can be: of a product ``delta u^T`` and not of what a
parametrisation makes of it. What follows them is computed once a step, or once a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from .program import (
    CALL,
    SAMPLE,
    STEP,
    Builder,
    Constant,
    Dot,
    Gather,
    Input,
    Map,
    Program,
    Total,
    Value,
    View,
)

CHEAP = frozenset(
    [
        "neg",
        "abs",
        "add",
        "sub",
        "mul",
        "maximum",
        "minimum",
        "relu",
        "where",
        "number",
        "and",
        "or",
        "xor",
        "not",
        "gt",
        "ge",
        "lt",
        "le",
        "eq",
        "ne",
        "sign",
    ]
)
"""Functions that are computed anew sooner than kept."""


@dataclass(frozen=True)
class Walks:
    """A step's two walks.

    Args:
        saved: values of every sample that go from the walk forward to the walk back; the state first.
        summed: gradients, by role and place: sums over samples of a step, or of all steps where the
            level is CALL; of inputs that samples have of their own, of one sample.
    """

    program: Program
    saved: tuple[Value, ...]
    ends: tuple[View, ...]
    adjoint: tuple[View, ...]
    summed: dict[tuple[str, int], View]


def part(program: Program, keep: bool) -> Walks:
    """The walks of a program.

    Args:
        keep: values that are dear to compute are kept on the tape, and not the state alone.
    """
    b = Builder()
    main = reached([*program.ends, *program.adjoint])
    summed = {}
    for (role, place), view in program.gradients.items():
        per_sample = any(_is(v, role, place) and v.level == SAMPLE for v in program.inputs)
        summed[role, place] = view if per_sample else _summed(b, view, role, main)
    back = reached([*program.adjoint, *summed.values()])
    pulled = _pulled(back)
    states = tuple(v for v in program.inputs if isinstance(v.op, Input) and v.op.role == "state")
    saved = states + (tuple(_kept(pulled, set(states))) if keep else ())
    return Walks(program, saved, program.ends, program.adjoint, summed)


def _is(value: Value, role: str, place: int) -> bool:
    return isinstance(value.op, Input) and (value.op.role, value.op.place) == (role, place)


def reached(views: Iterable[View], known: Iterable[Value] = ()) -> dict[Value, None]:
    """All values that views need, those first that others need; `known` ones need nothing."""
    found: dict[Value, None] = {}
    stop = set(known)
    stack = [(v.value, False) for v in views][::-1]
    while stack:
        value, done = stack.pop()
        if value in found:
            continue
        if done or value in stop:
            found[value] = None
            continue
        stack.append((value, True))
        stack += [(v.value, False) for v in value.op.views][::-1]
    return found


def _pulled(values: Iterable[Value]) -> list[Value]:
    """Those that depend on the adjoint; `values` stand in an order in which they can be computed."""
    found: dict[Value, None] = {}
    for value in values:
        own = isinstance(value.op, Input) and value.op.role == "adjoint"
        if own or any(v.value in found for v in value.op.views):
            found[value] = None
    return list(found)


def _kept(pulled: Sequence[Value], had: set[Value]) -> Iterator[Value]:
    """What of the walk forward the walk back takes from the tape."""
    known = set(pulled)
    given = dict.fromkeys(v.value for p in pulled for v in p.op.views if v.value not in known)
    for value in given:
        for v in _sources(value, had):
            if v not in had:
                had.add(v)
                yield v


def _sources(value: Value, had: set[Value]) -> list[Value]:
    """What has to be kept so that `value` can be had cheaply."""
    op = value.op
    if value in had or value.level < SAMPLE or isinstance(op, Input):
        return []
    if isinstance(op, Gather) or (isinstance(op, Map) and op.function in CHEAP):
        needed = list(dict.fromkeys(s for v in op.views for s in _sources(v.value, had)))
        if sum(v.size for v in needed) <= value.size or value.flags:
            return needed
    return [value]


def _summed(b: Builder, view: View, role: str, main: dict[Value, None]) -> View:
    if role == "shared":
        total = _total(b, view, main, CALL)
        if total.value.level == CALL:
            return total
    return _total(b, view, main, STEP)


def _total(b: Builder, view: View, main: dict[Value, None], level: int) -> View:
    """The sum over samples of a view."""
    value, op = view.value, view.value.op
    if value.level < SAMPLE:
        assert is_zero(view), "a gradient is linear in the adjoint"
        return view
    if value not in main and isinstance(op, Map | Gather | Dot):
        inside = [v.value.level == SAMPLE for v in op.views]
        others = [v for v, i in zip(op.views, inside, strict=True) if not i]
        function, one = (op.function if isinstance(op, Map) else None), sum(inside) == 1
        if function in ("add", "sub", "neg", "number") or isinstance(op, Gather):
            linear = all(map(is_zero, others))
        elif function == "where":
            linear = not inside[0] and all(map(is_zero, others[1:]))
        else:
            linear = one and (
                function == "mul" or isinstance(op, Dot) or (function == "div" and inside[0])
            )
        if linear:
            parts = [
                _total(b, v, main, level) if i else v for v, i in zip(op.views, inside, strict=True)
            ]
            if function == "add" and all(inside):
                merged = _merged(b, parts, level)
                if merged is not None:
                    return View(merged.value, merged.index[view.index])
            out = b.value(replace(op, views=tuple(parts)), value.size)
            return View(out.value, view.index)
    whole = View(value, torch.arange(value.size))
    return View(b.value(Total((whole,), level), value.size).value, view.index)


def is_zero(view: View) -> bool:
    """Whether it is 0 in every step."""
    return isinstance(view.value.op, Constant) and not any(view.value.op.numbers)


def _merged(b: Builder, parts: Sequence[View], level: int) -> View | None:
    """One sum for two that are added, element by element in the same order."""
    (p, q) = parts
    if not (isinstance(p.value.op, Total) and isinstance(q.value.op, Total)):
        return None
    if p.value.size != q.value.size or not (p.index == q.index).all():
        return None
    views = (*p.value.op.views, *q.value.op.views)
    return View(b.value(Total(views, level), p.value.size).value, p.index)
