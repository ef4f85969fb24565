"""Integrators: how a residual function F becomes a step ``u[n+1] = Phi_n(u[n])``.

Each is a function ``(f, u, t, h) -> u[n+1]`` with ``f(u, t)`` the residual function; u is a tuple of
tensors with the intervals in front, h a number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .state import State, state_map

ResidualFunction = Callable[[State, torch.Tensor | None], State]
Size = float | torch.Tensor
Integrator = Callable[[ResidualFunction, State, torch.Tensor | None, Size], State]


def axpy(u: State, f: State, h: Size) -> State:
    """u + h f in u's dtype: under autocast only f is computed in the lower precision.

    h is a tensor where a step is traced, so that the trace is of every h.
    """
    if isinstance(h, torch.Tensor):
        return state_map(lambda a, b: a + h * b, u, f)
    return state_map(lambda a, b: torch.add(a, b.to(a.dtype), alpha=h), u, f)


def _later(t: torch.Tensor | None, h: Size) -> torch.Tensor | None:
    return None if t is None else t + h


def euler(f: ResidualFunction, u: State, t: torch.Tensor | None, h: Size) -> State:
    """Forward Euler: ``u + h F(u, t)``, the residual layer itself."""
    return axpy(u, f(u, t), h)


def rk4(f: ResidualFunction, u: State, t: torch.Tensor | None, h: Size) -> State:
    """The classical fourth-order Runge-Kutta method, the layer's parameters fixed over the step."""
    k1 = f(u, t)
    k2 = f(axpy(u, k1, h / 2), _later(t, h / 2))
    k3 = f(axpy(u, k2, h / 2), _later(t, h / 2))
    k4 = f(axpy(u, k3, h), _later(t, h))
    for k, weight in ((k1, h / 6), (k2, h / 3), (k3, h / 3), (k4, h / 6)):
        u = axpy(u, k, weight)
    return u


def verlet(f: ResidualFunction, u: State, t: torch.Tensor | None, h: Size) -> State:
    """Stoermer-Verlet on a state (y, z) with ``y' = F_y(z)``, ``z' = F_z(y)`` (Hamiltonian networks).

    ``z[n+1] = z[n] + h F_z(y[n])``, then ``y[n+1] = y[n] + h F_y(z[n+1])``.

    Raises:
        ValueError: the state is not a pair.
    """
    if len(u) != 2:
        raise ValueError(
            f"the Verlet integrator needs a state (y, z) of 2 tensors, not {len(u)}; "
            "let the opening return a pair"
        )
    y, z = u
    (z,) = axpy((z,), (f((y, z), t)[1],), h)
    (y,) = axpy((y,), (f((y, z), t)[0],), h)
    return y, z


def block(f: ResidualFunction, u: State, t: torch.Tensor | None, h: Size) -> State:
    """For a whole residual block B: ``u + h (B(u) - u)``, which is B(u) itself at h = 1."""
    out = f(u, t)
    if not isinstance(h, torch.Tensor) and h == 1:
        return state_map(lambda a, b: b.to(a.dtype), u, out)
    return state_map(lambda a, b: torch.lerp(a, b.to(a.dtype), h), u, out)


INTEGRATORS: dict[str, Integrator] = {"euler": euler, "rk4": rk4, "verlet": verlet, "block": block}
