"""A step of any level: by the integrator on the finest one, by the coarse operator on the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..steps.fields import At, Function
from ..steps.integrators import Integrator, axpy, block
from ..steps.state import ChangedInPlaceError, State, refuse_other_kind, state_map, versions
from .coarse import CoarseOperator


@dataclass(frozen=True)
class Step:
    """Steps of several intervals at once.

    Args:
        field: the residual function, or a whole step; see steps/fields.py.
        h: step size of this level.
        span: finest steps per step of this level.
        samples: layers evaluated in a step.
    """

    field: Any
    integrator: Integrator | None
    operator: CoarseOperator
    h: float | Tensor
    span: int
    samples: int

    def __call__(self, u: State, own: Sequence[Tensor], shared: Sequence[Tensor], at: At) -> State:
        samples, t = self.samples, at.t
        h = self.h
        if isinstance(self.field, Function):
            assert t is not None
            if samples == 1:
                return _like(u, self.field.whole_step(u, t.to(u[0].dtype), h))
            many = self.field.whole_step(_repeat(u, samples), t.to(u[0].dtype), h)
            return _like(u, _mean(many, samples))
        own = tuple(p.flatten(0, 1) for p in own)

        def residual(v: State, s: Tensor | None) -> State:
            s = None if s is None else s.to(v[0].real.dtype)
            if samples == 1:
                before = versions(v)
                value = _like(v, self.field(v, own, shared, _timed(at, s)))
                if versions(v) != before:
                    raise ChangedInPlaceError
                return value
            return _mean(self.field(_repeat(v, samples), own, shared, _timed(at, s)), samples)

        assert self.integrator is not None
        if self.span == 1 or self.operator.kind != "picard":
            return self.integrator(residual, u, t, h)
        t = None if t is None else t.to(u[0].dtype)

        def rates(v: State) -> State:
            """F of every layer at its own state, (intervals * s, ...)."""
            value = _like(v, self.field(v, own, shared, _timed(at, t)))
            return state_map(torch.sub, value, v) if self.integrator is block else value

        many, reach = _repeat(u, samples), h / samples
        operator = self.operator if samples > 1 else replace(self.operator, samples=1)
        mixing = operator.mixing(self.span, u[0]).mul_(reach)
        shifts = tuple(
            torch.tensordot(f.unflatten(0, (-1, samples)), mixing, dims=([1], [1])).movedim(-1, 1)  # type: ignore[arg-type]
            for f in rates(many)
        )
        later = rates(tuple(a + s.flatten(0, 1) for a, s in zip(many, shifts, strict=True)))
        return axpy(u, _mean(later, samples), h)


def _timed(at: At, t: Tensor | None) -> At:
    return at if t is None else replace(at, t=t)


def _repeat(u: State, samples: int) -> State:
    return tuple(a.unsqueeze(1).expand(-1, samples, *a.shape[1:]).flatten(0, 1) for a in u)


def _mean(u: State, samples: int) -> State:
    return tuple(a.unflatten(0, (-1, samples)).mean(1) for a in u)


def _like(u: State, value: State) -> State:
    """A step's value in the state's dtype (autocast may change it); refuses any other change."""
    refuse_other_kind(u, value, arrays=True)
    return state_map(lambda a, b: b.to(a.dtype), u, value)
