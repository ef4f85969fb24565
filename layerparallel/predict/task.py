"""What is predicted: one gradient of a network of any depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..network.network import Network
from ..solvers.measure import Gradients, gradients
from ..solvers.variants import Solvers
from ..steps.state import as_state


@dataclass(frozen=True)
class Task:
    """One gradient, forward and backward, on one batch.

    Args:
        name: of the network.
        make: a network of so many layers, the same one every time.
        depth: N.
        x, y: the batch; samples are the first dimension.
        criterion: ``criterion(network(x), y)`` is the loss.
        repeats: of every measurement, of which the median counts.
    """

    name: str
    make: Callable[[int], Network]
    depth: int
    x: Tensor
    y: Tensor
    criterion: Callable[[Any, Tensor], Tensor] = nn.functional.cross_entropy
    repeats: int = 5

    @cached_property
    def network(self) -> Network:
        """The network of this depth."""
        return self.make(self.depth)

    @cached_property
    def plain(self) -> nn.Module:
        """The same network in ordinary PyTorch."""
        return self.network.to_serial()

    @property
    def batch(self) -> int:
        """Samples."""
        return len(self.x)

    @cached_property
    def parameter_bytes(self) -> int:
        """Of all parameters together: what data parallelism has to sum."""
        return sum(p.nbytes for p in self.network.parameters())

    @cached_property
    def state_bytes(self) -> int:
        """Of a state between two layers of the first chain, for the whole batch."""
        with torch.no_grad():
            first = self.network.opening(self.x)
        return sum(part.nbytes for part in as_state(getattr(first, "state", first), "the first state"))

    def at(self, depth: int) -> Task:
        """The same task at another depth."""
        return self if depth == self.depth else replace(self, depth=depth)

    def part(self, samples: int) -> Task:
        """The same network on so many samples of the batch."""
        if samples == self.batch:
            return self
        fewer = replace(self, x=self.x[:samples], y=self.y[:samples])
        fewer.__dict__["network"] = self.network  # not made again
        return fewer

    def gradient(self, module: nn.Module | None = None) -> None:
        """Leaves the gradient of the loss in the parameters."""
        module = self.network if module is None else module
        module.zero_grad(set_to_none=True)
        self.criterion(module(self.x), self.y).backward()

    def gradients(self, solver: Solvers) -> Gradients:
        """What a solver on one process finds."""
        with self.network.solved_by(solver):
            self.gradient()
        found = gradients(self.network)
        self.network.zero_grad(set_to_none=True)
        return found


def check_recipe(recipe: Any) -> None:
    """Of a recipe, or of its options.

    Raises:
        InputError: it trains stages or subnetworks, and not layers in parallel.
    """
    if not hasattr(recipe, "solver"):
        raise InputError(
            f"The recipe {recipe.name!r} trains stages or subnetworks, without a solver whose scaling "
            "could be predicted: name one of layers, such as level-sets or mnist."
        )


def from_recipe(options: Any) -> Task:
    """The gradient of a recipe's network on one of its batches, at its initial weights.

    Raises:
        InputError: an option is out of its bounds, the data cannot be had, or the recipe trains stages
            and not layers in parallel.
    """
    check_recipe(options)
    try:
        plain = replace(options, solver="serial", adaptive=False, device="cpu")
        plain.check()
        data = plain.load()
        network = plain._network(data, options.depth)
    except ValueError as error:  # what the library says about an option
        raise InputError(str(error)) from error
    chosen = slice(0, options.batch)
    x = plain.prepare(data)(data.train_x[chosen], None)
    made = Task(
        name=options.name,
        make=lambda depth: plain._network(data, depth),
        depth=options.depth,
        x=x,
        y=data.train_y[chosen],
    )
    made.__dict__["network"] = network
    return made
