"""The pieces of a network, in order: what a cut into stages never goes through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..network.driven import Driven
from ..network.network import Network
from ..network.sequence import hooked, in_order, refuse_whole
from ..network.serial_twins import (
    SerialBody,
    SerialFunction,
    SerialTied,
    plain_step,
    serial_step,
)
from ..steps.state import as_state


@dataclass(frozen=True)
class Piece:
    """A module at its place; called with a state, (B, ...) or a tuple of such, it returns the next.

    Attributes:
        holder, name: the module that has it, and under which name.
    """

    holder: nn.Module = field(repr=False)
    name: str

    @property
    def place(self) -> tuple[nn.Module, str]:
        """Holder and name."""
        return self.holder, self.name

    @property
    def module(self) -> nn.Module:
        """What is at the place now."""
        found = self.holder._modules[self.name]
        assert found is not None
        return found

    def __call__(self, value: Any) -> Any:
        return self.module(value)


@dataclass(frozen=True)
class Step(Piece):
    """Step n of a chain whose steps have modules of their own."""

    n: int

    def __call__(self, value: Any) -> Any:
        chain: Any = self.holder
        if chain.plain and isinstance(value, Tensor):
            return plain_step(self.module, value, chain.h)
        return serial_step(self.module, value, self.n, chain.h, chain.integrator, timed=chain.timed)


@dataclass(frozen=True)
class TiedStep(Piece):
    """Step n of a chain of one module; of a `Driven` state it takes its input from there."""

    n: int

    def __call__(self, value: Any) -> Any:
        chain: Any = self.holder
        if not isinstance(value, Driven):
            return serial_step(self.module, value, self.n, chain.h, chain.integrator, timed=chain.timed)
        inputs = value.inputs if isinstance(value.inputs, tuple) else (value.inputs,)
        here = [x[self.n] for x in inputs]
        options = {"timed": chain.timed}
        state = serial_step(
            self.module, value.state, self.n, chain.h, chain.integrator, *here, **options
        )
        return state if self.n == chain.depth - 1 else Driven(state, inputs)


@dataclass(frozen=True)
class FunctionStep(Piece):
    """Step n of a chain of a plain function; its place is that of the whole chain."""

    n: int

    def __call__(self, value: Any) -> Any:
        chain: Any = self.module
        like = as_state(value, "the state")[0]
        time = torch.tensor(self.n * chain.h, dtype=like.dtype, device=like.device)
        return chain.step(value, time, chain.h)


def named_modules(network: Any) -> dict[str, nn.Module]:
    """What a network consists of, under the names that its state has for it.

    Raises:
        TypeError: it has a forward of its own, or holds something that is no module.
    """
    if isinstance(network, Network):
        network = network.to_serial()
    if not isinstance(network, nn.Module):
        for module in network:
            if not isinstance(module, nn.Module):
                raise TypeError(
                    f"{module!r} is not a module; give torch.nn modules, nn.Flatten() for a reshape"
                )
        network = nn.Sequential(*network)
    refuse_whole(network)
    return {name: module for name, module in network._modules.items() if module is not None}


def pieces_of(holder: nn.Module, name: str) -> Iterator[Piece]:
    """Those of the module that `holder` has under this name."""
    module: Any = holder._modules[name]
    if isinstance(module, SerialBody):
        yield from (Step(module, key, n) for n, key in enumerate(module._modules))
    elif isinstance(module, SerialTied):
        yield from (TiedStep(module, "layer", n) for n in range(module.depth))
    elif isinstance(module, SerialFunction):
        yield from (FunctionStep(holder, name, n) for n in range(module.depth))
    elif in_order(module) and not hooked(module):
        for key in module._modules:
            yield from pieces_of(module, key)
    else:
        yield Piece(holder, name)
