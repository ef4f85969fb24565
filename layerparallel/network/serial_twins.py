"""Bodies layer by layer: ordinary modules with the same parameters, as anyone would write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..steps.contents import takes_time
from ..steps.integrators import INTEGRATORS
from ..steps.state import Carried, State, as_state
from .driven import Driven


class SerialBody(nn.ModuleList):
    """Layer by layer, as anyone would write it; ``state_dict`` names ``{n}.weight``."""

    def __init__(self, layers: Iterable[nn.Module], h: float, integrator: str, timed: bool = True):
        super().__init__(layers)
        self.h, self.integrator, self.timed = h, integrator, timed and takes_time(self[0])
        self.plain = integrator == "euler" and not self.timed

    def forward(self, u: Tensor | State) -> Tensor | State:
        if self.plain and isinstance(u, Tensor):
            for layer in self:
                u = plain_step(layer, u, self.h)
            return u
        for n, layer in enumerate(self):
            u = serial_step(layer, u, n, self.h, self.integrator, timed=self.timed)
        return u


class SerialTied(nn.Module):
    """The same module `depth` times."""

    def __init__(self, layer: nn.Module, depth: int, h: float, integrator: str, timed: bool = True):
        super().__init__()
        self.layer, self.depth, self.h, self.integrator = layer, depth, h, integrator
        self.timed = timed and takes_time(layer)

    def forward(self, u: Tensor | State, *inputs: Tensor) -> Tensor | State:
        for n in range(self.depth):
            here = [x[n] for x in inputs]
            u = serial_step(self.layer, u, n, self.h, self.integrator, *here, timed=self.timed)
        return u


class SerialFunction(nn.Module):
    """A step function applied `depth` times."""

    def __init__(self, step: Callable[..., object], depth: int, h: float):
        super().__init__()
        self.step, self.depth, self.h = step, depth, h

    def forward(self, u: Tensor | State) -> Tensor | State:
        part = u[0] if isinstance(u, tuple) else u
        for n in range(self.depth):
            time = torch.tensor(n * self.h, dtype=part.dtype, device=part.device)
            u = self.step(u, time, self.h)  # type: ignore[assignment]
        return u


def plain_step(layer: nn.Module, u: Tensor, h: float) -> Tensor:
    """``u + h layer(u)``; the layer may return a tuple of one tensor."""
    value = layer(u)
    if not isinstance(value, Tensor):
        (value,) = as_state(value, "a step's value")
    return torch.add(u, value, alpha=h)


def serial_step(
    layer: nn.Module,
    u: Tensor | State,
    n: int,
    h: float,
    integrator: str,
    *inputs: Tensor,
    timed: bool = False,
) -> Tensor | State:
    """One step from the state u, of layer n; `inputs` are those of this step."""
    state, carried = Carried.of(as_state(u, "the state"))
    t = torch.tensor(n * h, dtype=state[0].real.dtype, device=state[0].device)

    def residual(v: State, s: Tensor | None) -> State:
        extra = {"t": s} if timed else {}
        return carried.moving(layer(carried.given(v), *inputs, **extra), "a step's value")

    return carried.given(INTEGRATORS[integrator](residual, state, t, h))


class SerialNetwork(nn.Module):
    """The plain twin of a `Network`: opening, layers one after the other, closing."""

    def __init__(self, opening: nn.Module, body: nn.Module, closing: nn.Module):
        super().__init__()
        self.opening, self.body, self.closing = opening, body, closing

    def forward(self, x: Any) -> Any:
        value = self.opening(x)
        for part in self.body if isinstance(self.body, SerialChains) else [self.body]:
            if isinstance(value, Driven):
                inputs = value.inputs if isinstance(value.inputs, tuple) else (value.inputs,)
                value = part(value.state, *inputs)
            else:
                value = part(value)
        return self.closing(value)


class SerialChains(nn.ModuleList):
    """Several chains layer by layer, with the transitions between them."""
