"""`chain`, the one way to a body.

It makes the one that fits what it is given (a template module and a depth, one module for all steps, a
list of unlike modules, a plain step function).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import UnknownNameError
from ..steps.integrators import INTEGRATORS
from .bodies import Body, FunctionBody, StackedBody, TiedBody, UnlikeBody
from .copying import copyable
from .stacking import INITIAL, Initial, refuse_hooks


def chain(
    layer: nn.Module | Sequence[nn.Module] | Callable[..., object],
    depth: int | None = None,
    *,
    T: float | None = None,
    h: float | None = None,
    integrator: Literal["euler", "rk4", "verlet", "block"] = "euler",
    tied: bool = False,
    stacked: bool = False,
    initial: Initial = "smooth",
) -> Body:
    """A chain of `depth` steps ``u[n+1] = u[n] + h F(u[n], theta_n)`` as a module.

    Args:
        layer: the residual function F: a template module (its parameters are stacked along depth,
            each layer has its own), with ``tied=True`` one module for all steps, a sequence of
            unlike modules, or a plain function ``step(u, t, dt)`` that returns the next state.
            A module whose forward has an argument ``t`` is given the time t = n h. For a compiled
            module, ``torch.compile(layer)``, it is the batched step that is compiled.
        depth: number of steps N; taken from a sequence of modules.
        T: final time, h = T / N; 1 if neither is given.
        h: step size, in place of T.
        integrator: "euler", "rk4", "verlet" (F returns a pair), or "block" for a module that returns
            the next state itself (then h is 1).
        tied: the same parameters at every step.
        stacked: a sequence of modules that are alike is not evaluated one by one: their parameters
            are copied and stacked along depth, as those of a template are.
        initial: stacked parameters are drawn "smooth" in depth (two draws blended over depth), the
            same for all layers ("tied"), or independently for every layer ("independent").

    Raises:
        ValueError: depth, T or h out of range, unknown integrator or initialisation, modules that
            cannot be stacked, a lazy parameter.
        TypeError: the layer is none of the four kinds.
    """
    if integrator not in INTEGRATORS:
        raise UnknownNameError("integrator", integrator, INTEGRATORS)
    if initial not in INITIAL:
        raise UnknownNameError("initialisation", initial, INITIAL)
    _refuse_lazy(layer)
    several: list[nn.Module] | None = None
    if isinstance(layer, Sequence | nn.ModuleList):
        several = list(layer)
        if depth is not None and depth != len(several):
            raise ValueError(f"depth {depth} is not the number of modules given, {len(several)}")
        depth = len(several)
    if not isinstance(depth, int) or depth < 1:
        raise ValueError(f"depth {depth} is out of range; use a whole number of steps, 1 or more")
    if T is not None and h is not None:
        raise ValueError(f"T={T} and h={h} are both given; give one, h = T / depth")
    if integrator == "block":
        if T is not None or h not in (None, 1):
            raise ValueError("a block returns the next state itself, so h is 1; leave T and h out")
        h = 1.0
    step_size = h if h is not None else (1.0 if T is None else T) / depth
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step size {step_size} is out of range; use a positive T or h")
    if several is not None:
        if stacked:
            refuse_hooks(several)
        make = StackedBody.of if stacked else UnlikeBody
        return make(several, step_size, integrator)
    if stacked:
        raise ValueError("stacked=True is for a sequence of modules; a single one is a template already")
    if isinstance(layer, type):
        raise TypeError(
            f"{layer.__name__} is a class; give chain a module made of it, {layer.__name__}(...)"
        )
    if isinstance(layer, nn.Module):
        if tied:
            return TiedBody(layer, depth, step_size, integrator)
        with copyable(layer):
            return StackedBody(layer, depth, step_size, integrator, initial)
    if callable(layer):
        return FunctionBody(layer, depth, step_size)
    raise TypeError(
        f"a chain is made of a module, a sequence of modules or a function, not {type(layer).__name__}"
    )


def _refuse_lazy(layer: object) -> None:
    for module in layer if isinstance(layer, Sequence | nn.ModuleList) else [layer]:
        for name, p in module.named_parameters() if isinstance(module, nn.Module) else ():
            if is_lazy(p):
                raise ValueError(
                    f"the parameter {name} of {type(module).__name__} is lazy, and a chain needs its "
                    "shape; call the module once with a state before it is given to chain"
                )
