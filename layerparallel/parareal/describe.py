"""What the parts of a parareal network cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..staged.in_place import copied
from ..steps.state import as_state


@dataclass(frozen=True)
class Part:
    """One part of a parareal network.

    Attributes:
        name: C^j, g^j, F^j or h.
        parameters: how many numbers it learns.
        operations: of its products and convolutions for one sample, a multiplication and an addition
            counted as two.
    """

    name: str
    parameters: int
    operations: int


def part(name: str, modules: Iterable[nn.Module], call: Callable[[Any], Any], given: Any) -> Part:
    """Counts a part while it is called; whoever calls this sees to modes and gradients."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call(copied(given))
    samples = as_state(given, "what a part is called with")[0].shape[0]
    parameters = {p for module in modules for p in module.parameters()}
    return Part(name, sum(p.numel() for p in parameters), counter.get_total_flops() // samples)


def table(parts: Iterable[Part]) -> str:
    """The parts as lines of text."""
    rows = [(p.name, f"{p.parameters:,}", f"{p.operations:,}") for p in parts]
    rows = [("part", "parameters", "operations"), *rows]
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    return "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows)
