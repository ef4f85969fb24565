"""Where a network's opening ends, its closing begins, and its subnetworks are cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ..errors import InputError
from ..network.network import Network, SerialNetwork
from ..staged.cuts import balanced, costs
from ..staged.pieces import FunctionStep
from .trace import Layer, is_state, shape_of


def found_ends(network: Any, names: Sequence[str], layers: Sequence[Layer]) -> tuple[int, int]:
    """How many pieces the opening has, and how many are in front of the closing.

    A `Network` says so itself. Elsewhere the opening is the first layer with weights if it changes the
    shape, up to the next; the closing what begins with the first flattening, or a pooling just in front
    of it, or else the last layer with weights if it changes the shape.

    Args:
        names: of every piece, that of the network's module it is of.
    """
    count = len(layers)
    if isinstance(network, Network | SerialNetwork):
        return names.count("opening"), count - names.count("closing")
    weighty = [n for n, layer in enumerate(layers) if begins(layer)]
    if not weighty:
        return 0, count
    first, last = weighty[0], weighty[-1]
    opening = first
    if not layers[first].keeps:
        opening = weighty[1] if len(weighty) > 1 else count
    flat = next((n for n in range(first + 1, count) if _flattens(layers[n])), None)
    if flat is None:
        return opening, count if layers[last].keeps or last < opening else last
    while flat > opening and _pools(layers[flat - 1]):
        flat -= 1
    return min(opening, flat), flat


def begins(layer: Layer) -> bool:
    """Whether a cut may be in front of it: norms and activations stay with the layer before them."""
    if isinstance(layer.piece, FunctionStep):
        return True
    return any(p.dim() > 1 for p in layer.piece.module.parameters())


def cut(
    layers: Sequence[Layer],
    states: Sequence[Any],
    opening: int,
    closing: int,
    subnetworks: int,
    cuts: Sequence[int] | None,
) -> tuple[int, ...]:
    """The N + 1 ends of the fine parts: as given, or so that the costliest costs least.

    Raises:
        InputError: there are fewer layers than subnetworks, or the cuts do not fit.
    """
    if not 0 <= opening <= closing <= len(layers):
        raise InputError(
            f"An opening of {opening} pieces and a closing from piece {closing} on do not fit a network "
            f"of {len(layers)} pieces; give growing numbers from 0 to {len(layers)}."
        )
    if subnetworks < 1:
        raise InputError(f"{subnetworks} subnetworks are too few; use 1 or more.")
    if cuts is not None:
        ends = _checked(list(cuts), opening, closing, subnetworks)
    elif subnetworks == 1:
        ends = (opening, closing)
    else:
        ends = _balanced(layers, states, opening, closing, subnetworks)
    for end in ends[: len(ends) * (subnetworks > 1)]:
        if not is_state(states[end]):
            what = shape_of(states[end]) or type(states[end]).__name__
            raise InputError(
                f"What is in front of piece {end}, {what}, is no state of floating-point numbers, so no "
                "differences can be taken of it; cut elsewhere by cuts=, opening= or closing=."
            )
    return ends


def _checked(cuts: list[int], opening: int, closing: int, subnetworks: int) -> tuple[int, ...]:
    if len(cuts) != subnetworks - 1:
        raise InputError(
            f"{len(cuts)} cuts make {len(cuts) + 1} subnetworks, not {subnetworks}; give "
            f"{subnetworks - 1} cuts, or {len(cuts) + 1} subnetworks."
        )
    ends = (opening, *cuts, closing)
    if cuts and any(a >= b for a, b in pairwise(ends)):
        raise InputError(
            f"The cuts {cuts} do not fit the pieces between opening and closing, {opening} to "
            f"{closing - 1}; give growing numbers from {opening + 1} to {closing - 1}, or opening= and "
            "closing= themselves."
        )
    return ends


def _balanced(
    layers: Sequence[Layer], states: Sequence[Any], opening: int, closing: int, subnetworks: int
) -> tuple[int, ...]:
    inside = range(opening, closing)
    starts = [n for n in inside if begins(layers[n]) and is_state(states[n])]
    if subnetworks > len(starts):
        others = sum(begins(layers[n]) for n in inside) > len(starts)
        which = " whose states are tensors of floating-point numbers" if others else ""
        raise InputError(
            f"{subnetworks} subnetworks cannot be made of the {len(starts)} layers between opening and "
            f"closing{which}; use from 1 to {max(1, len(starts))}."
        )
    each = costs([layers[n].piece for n in inside], states[opening])
    bounds = [0, *(n - opening for n in starts[1:]), len(each)]
    parts = balanced(each, [True] * len(each), bounds, subnetworks)
    assert parts is not None
    return (*(opening + part.start for part in parts), closing)


def _flattens(layer: Layer) -> bool:
    before, after = layer.before, layer.after
    return before is not None and after is not None and len(after) < len(before)


def _pools(layer: Layer) -> bool:
    """Whether it makes states smaller without parameters."""
    before, after = layer.before, layer.after
    if any(True for _ in layer.piece.module.parameters()) or before is None or after is None:
        return False
    return len(before) == len(after) and before != after and before[:1] == after[:1]
