"""What a step may not do, because a solve evaluates it several times and many steps at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from .state import State

SAME = 1e-2
"""Relative difference up to which two evaluations agree: rounding, but not a mask or a mean."""


@contextlib.contextmanager
def no_buffer_changes(module: nn.Module, which: str) -> Iterator[None]:
    """Watches the buffers of a module while its step is evaluated.

    Raises:
        ValueError: one has changed.
    """
    before = [(name, b, b.clone()) for name, b in module.named_buffers()]
    yield
    for name, buffer, copy in before:
        if not torch.equal(buffer, copy):
            buffer.copy_(copy)
            raise ValueError(
                f"{which} changes its buffer {name} when it is evaluated, and a solve evaluates a step "
                "several times; of all layers with memory only batch norm is known here, so keep the "
                "others out of the chain"
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
