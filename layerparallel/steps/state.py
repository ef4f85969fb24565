"""States: what goes from step to step, as users give it and as the library holds it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""A state inside the library: a tuple of tensors. An array of states has a dimension more, in front."""


def as_state(value: object, what: str) -> State:
    """A tensor or a tuple of tensors as a state.

    Raises:
        TypeError: it is neither.
    """
    parts = value if isinstance(value, tuple) else (value,)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(
            f"{what} must be a tensor or a tuple of tensors, not {type(value).__name__}; "
            "return the state alone, a list as a tuple"
        )
    return parts  # type: ignore[return-value]


def as_given(state: State) -> Tensor | State:
    """A state as the user's code sees it: a bare tensor if it has one part."""
    return state[0] if len(state) == 1 else state


def state_map(function: Callable[..., Tensor], *states: State) -> State:
    """Applies a function of tensors to states, part by part."""
    return tuple(function(*parts) for parts in zip(*states, strict=True))


def copy_into(target: State, source: State) -> None:
    """Copies a state, or an array of states, part by part."""
    for a, b in zip(target, source, strict=True):
        a.copy_(b)


def two_norm(state: State) -> Tensor:
    """The Euclidean norm over all entries: the default norm of residuals, a 0-d tensor."""
    parts = [torch.linalg.vector_norm(part) for part in state]
    return parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts))
