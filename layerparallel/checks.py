"""What a step may not do, because a solve evaluates it several times and many steps at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .chain import State

SAME = 1e-2
"""Relative difference up to which two evaluations agree: rounding, but not a mask or a mean."""


def refuse_stateful(module: nn.Module) -> None:
    """Refuses layers whose repeated evaluation would change the result or their own statistics.

    Raises:
        ValueError: batch norm with running statistics, or dropout.
    """
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats:
            raise ValueError(
                f"{type(part).__name__} keeps running statistics, which repeated evaluation in a "
                "solve would spoil; use LayerNorm or GroupNorm, or track_running_stats=False"
            )
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            raise ValueError(
                f"{type(part).__name__}(p={part.p}) draws another mask at every evaluation of a "
                "step; use p=0"
            )


def refuse_random(step: Callable[[], State], which: str) -> State:
    """The value of a step that is evaluated twice.

    Raises:
        ValueError: it differs, so the step draws random numbers (dropout inside a forward).
    """
    value = step()
    if not same(value, step()):
        raise ValueError(
            f"{which} draws random numbers or changes its input in place: two evaluations of the same "
            "state differ, and a solve evaluates a step several times; take the dropout or noise out "
            "of the chain, and in-place operations off the state"
        )
    return value


def same(a: State, b: State) -> bool:
    """Whether two values of a step are equal but for rounding."""
    return all(
        torch.allclose(x, y, rtol=SAME, atol=SAME * float(x.detach().abs().amax()), equal_nan=True)
        for x, y in zip(a, b, strict=True)
        if x.numel()
    )
