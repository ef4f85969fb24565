"""States: what goes from step to step, as users give it and as the library holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]
"""A state inside the library: a tuple of tensors. An array of states has a dimension more, in front."""


def as_state(value: object, what: str) -> State:
    """A tensor or a tuple of tensors as a state.

    Raises:
        TypeError: it is neither.
    """
    parts = value if type(value) is tuple else (value,)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(
            f"{what} must be a tensor or a plain tuple of tensors, not {type(value).__name__}; "
            "return the state alone, a list or a named tuple as a tuple"
        )
    return parts  # type: ignore[return-value]


def entering(value: object, what: str) -> State:
    """What a module in front of a chain has returned, as the state that enters it.

    Raises:
        TypeError: it is no state, or a tuple of one tensor, in place of which steps get the tensor.
    """
    if type(value) is tuple and len(value) == 1:
        raise TypeError(f"{what} is a tuple of one tensor, and steps are given tensors; return it alone")
    return as_state(value, what)


def as_given(state: State) -> Tensor | State:
    """A state as the user's code sees it: a bare tensor if it has one part."""
    return state[0] if len(state) == 1 else state


def differentiable(a: Tensor) -> bool:
    """Whether a tensor can have a gradient: real or complex numbers, no integers or flags."""
    return a.is_floating_point() or a.is_complex()


@dataclass(frozen=True)
class Carried:
    """Parts of a state that have no derivative (masks, indices).

    Steps are given them, by their places in the state, and have to pass them along unchanged; chains
    and solvers do not see them.
    """

    parts: Mapping[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, state: State) -> tuple[State, Carried]:
        """What moves from step to step, and what is carried along.

        Raises:
            ValueError: nothing moves.
        """
        carried = {k: a for k, a in enumerate(state) if not differentiable(a)}
        if len(carried) == len(state):
            raise ValueError(
                f"the state is {', '.join(sorted({str(a.dtype) for a in state}))}, which has no "
                "derivative; convert it to real or complex numbers"
            )
        return tuple(a for a in state if differentiable(a)), cls(carried)

    def whole(self, moving: State) -> State:
        """A state with all of its parts."""
        if not self.parts:
            return moving
        rest = iter(moving)
        count = len(moving) + len(self.parts)
        return tuple(self.parts[k] if k in self.parts else next(rest) for k in range(count))

    def given(self, moving: State) -> Tensor | State:
        """A state as the user's code sees it."""
        return as_given(self.whole(moving))

    def moving(self, value: object, what: str) -> State:
        """The parts that move of what the user's code has returned.

        Raises:
            TypeError: it is no state.
        """
        state = as_state(value, what)
        return tuple(a for k, a in enumerate(state) if k not in self.parts) if self.parts else state


NOTHING = Carried()


def refuse_sparse(tensors: Iterable[Tensor], what: str) -> None:
    """Refuses tensors whose entries do not stand in a rectangle.

    Raises:
        ValueError: one is sparse or nested.
    """
    for a in tensors:
        if a.is_nested or a.layout != torch.strided:
            raise ValueError(
                f"{what} is {'nested' if a.is_nested else a.layout}; give a chain dense tensors, "
                "ragged ones filled up, with a mask as a part of the state"
            )


def refuse_other_classes(tensors: Iterable[Tensor], what: str) -> None:
    """Refuses tensors of classes of their own, which a chain would lose: it takes tensors apart.

    Raises:
        ValueError: one is of such a class.
    """
    for kind in set(map(type, tensors)) - PLAIN:
        if not kind.__module__.startswith(KNOWN_CLASSES):
            raise ValueError(
                f"{what} is of the class {kind.__name__}, which a chain does not keep; "
                "give a plain tensor, .as_subclass(torch.Tensor)"
            )


PLAIN = frozenset([Tensor, nn.Parameter])
KNOWN_CLASSES = ("torch.distributed.", "torch.nn.parameter")
"""Modules of classes that stand for plain tensors, or are refused by torch."""


class ChangedInPlaceError(RuntimeError):
    """A step that is not known to do so has changed the state in place."""


def versions(u: Iterable[Tensor]) -> list[int]:
    """They move when tensors are changed in place; those of inference mode have none."""
    return [] if torch.is_inference_mode_enabled() else [a._version for a in u if not a.is_inference()]


def refuse_other_kind(u: State, value: State, arrays: bool = False) -> None:
    """Refuses a step's value that is no state like u: of other shapes, or dtypes without autocast.

    Args:
        arrays: both are arrays of states.

    Raises:
        ValueError: it is none.
    """
    if len(u) != len(value) or any(a.shape != b.shape for a, b in zip(u, value, strict=True)):
        before, now = ([tuple(a.shape[arrays:]) for a in state] for state in (u, value))
        raise ValueError(
            f"a step changed the state's shape from {before} to {now}; a chain needs one shape "
            "throughout, so put the change into the opening or the closing"
        )
    for a, b in zip(u, value, strict=True):
        if a.dtype != b.dtype and not torch.is_autocast_enabled(a.device.type):
            raise ValueError(
                f"a step changed the state's dtype from {a.dtype} to {b.dtype}; "
                "cast inside the step or use autocast"
            )


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
