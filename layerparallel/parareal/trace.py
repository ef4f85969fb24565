"""What shapes the states of a network have, found by one forward of an example."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..staged.in_place import copied
from ..staged.pieces import Piece
from ..steps import draws
from ..steps.attention import plain_attention

Shape = tuple[Any, ...]
"""Of a state without its samples, (C, H, W); of a tuple of tensors the tuple of theirs."""


@dataclass(frozen=True)
class Layer:
    """A piece, and the shapes of the states in front of it and behind it; None where it is no state."""

    piece: Piece
    before: Shape | None
    after: Shape | None

    @property
    def keeps(self) -> bool:
        """Whether the state keeps its shape."""
        return self.before == self.after


def shape_of(value: Any) -> Shape | None:
    """Without samples; None of what is neither a tensor of samples nor a tuple of such."""
    if isinstance(value, Tensor) and value.dim():
        return tuple(value.shape[1:])
    if isinstance(value, tuple) and value and all(isinstance(a, Tensor) and a.dim() for a in value):
        return tuple(tuple(a.shape[1:]) for a in value)
    return None


def through(pieces: Sequence[Piece], value: Any) -> Any:
    """One piece after the other."""
    for piece in pieces:
        value = piece(value)
    return value


@contextlib.contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within it the modules evaluate without gradients; modes and random numbers stay what they were."""
    modes = {part: part.training for module in modules for part in module.modules()}
    try:
        # Attention's fast path is one operation that nobody counts.
        with torch.no_grad(), draws.apart(), plain_attention(True), _exactly():
            for part in modes:
                part.training = False
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextlib.contextmanager
def _exactly() -> Iterator[None]:
    """Without autocasting: parts are made in the dtypes that states have by themselves."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def traced(pieces: Sequence[Piece], example: Any) -> tuple[list[Layer], list[Any]]:
    """All pieces with the shapes around them, and the states: in front of all, and behind each.

    Raises:
        InputError: a piece cannot take what the example becomes, or there are no samples.
    """
    states = [example]
    if isinstance(example, Tensor) and not (example.dim() and len(example)):
        raise InputError(
            f"The example of shape {tuple(example.shape)} has no samples: give at least one, (B, ...)."
        )
    with evaluating(piece.module for piece in pieces):
        for n, piece in enumerate(pieces):
            try:
                states.append(piece(copied(states[-1])))
            except Exception as error:
                raise InputError(
                    f"Piece {n} of the network, {type(piece.module).__name__}, cannot take the example, "
                    f"there {_named(states[-1])} ({reason(error)}); give an example like the network's "
                    "inputs, samples first."
                ) from error
    shapes = [shape_of(state) for state in states]
    layers = [Layer(piece, shapes[n], shapes[n + 1]) for n, piece in enumerate(pieces)]
    return layers, states


def is_state(value: Any) -> bool:
    """Whether differences of such values can be taken: floating-point tensors, each with samples."""
    parts = value if isinstance(value, tuple) else (value,)
    return shape_of(value) is not None and all(a.is_floating_point() for a in parts)


def check(name: str, call: Callable[[Any], Any], given: Any, wanted: Any, remedy: str) -> Any:
    """The value of a part, if it has the shape that is wanted.

    Args:
        name: of the part, ``"coarse F^1"``.
        given, wanted: a state it gets, and one of the shape that it is to return.
        remedy: what to do about a wrong one.

    Raises:
        InputError: it cannot be called with the state, or returns another shape or dtype.
    """
    before, after = shape_of(given), shape_of(wanted)
    try:
        value = call(copied(given))
    except Exception as error:
        raise InputError(
            f"The {name} cannot take a state of shape {before} ({reason(error)}); {remedy}."
        ) from error
    if shape_of(value) != after or not _alike(value, wanted):
        raise InputError(
            f"The {name} makes {_named(value)} of a state of shape {before}, where {_named(wanted)} is "
            f"needed; {remedy}."
        )
    return value


def reason(error: Exception) -> str:
    """An error's kind and first line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0] or 'no message'}"


def _alike(a: Any, b: Any) -> bool:
    pairs = zip(*(v if isinstance(v, tuple) else (v,) for v in (a, b)), strict=True)
    return all(x.dtype == y.dtype and x.device == y.device for x, y in pairs)


def _named(value: Any) -> str:
    if shape_of(value) is None:
        return f"a {type(value).__name__}"
    part = value[0] if isinstance(value, tuple) else value
    return f"{shape_of(value)} of {part.dtype} on {part.device}"
