"""Where a network is cut: as asked for, or so that the costliest stage costs least."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import inf
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..steps import draws
from ..steps.attention import plain_attention
from .in_place import copied
from .pieces import Piece

Bond = tuple[int, int, nn.Parameter]
"""Two pieces, by number, and a parameter that both have."""


def cut(pieces: Sequence[Piece], stages: int | Sequence[int], example: Any) -> tuple[range, ...]:
    """The pieces of every stage, as `Staged` describes it.

    Raises:
        InputError: there are fewer pieces than stages, a stage would have no parameters or share some
            with another, or the cuts do not fit.
    """
    trained = [any(True for _ in piece.module.parameters()) for piece in pieces]
    bonds = _bonds(pieces)
    if not isinstance(stages, int):
        return _checked(list(stages), trained, bonds)
    count = len(pieces)
    if not 1 <= stages <= count:
        raise InputError(
            f"{stages} stages cannot be made of a network of {count} pieces; use from 1 to {count}."
        )
    ends = [n for n in range(count + 1) if n not in bonds]
    found = balanced(costs(pieces, example), trained, ends, stages)
    if found is None:
        most = sum(any(trained[a:b]) for a, b in pairwise(ends))
        why = f"only {sum(trained)} of the {count} pieces have parameters, and every stage needs some"
        if stages <= sum(trained):
            first, last, _ = next(iter(bonds.values()))
            why = f"pieces such as {first} and {last} share a parameter and so have to be in one"
        remedy = f"use at most {most}" if most else "give a network with parameters"
        raise InputError(f"{stages} stages are too many: {why}; {remedy}.")
    return found


def _checked(cuts: list[int], trained: list[bool], bonds: dict[int, Bond]) -> tuple[range, ...]:
    """The stages between given cuts."""
    ends = [0, *cuts, len(trained)]
    if any(a >= b for a, b in pairwise(ends)):
        raise InputError(
            f"The cuts {cuts} do not fit the {len(trained)} pieces of the network; give growing numbers "
            f"from 1 to {len(trained) - 1}."
        )
    for at in cuts:
        if at in bonds:
            first, last, parameter = bonds[at]
            raise InputError(
                f"The cut at {at} parts the pieces {first} and {last}, and their stages would share a "
                f"parameter of shape {tuple(parameter.shape)}; cut elsewhere."
            )
    for k, (a, b) in enumerate(pairwise(ends)):
        if not any(trained[a:b]):
            raise InputError(
                f"Stage {k}, pieces {a} to {b - 1} of the network, has no parameters; cut elsewhere."
            )
    return tuple(range(a, b) for a, b in pairwise(ends))


def _bonds(pieces: Sequence[Piece]) -> dict[int, Bond]:
    """Where no cut may be, since it would part two pieces that share a parameter."""
    seen: dict[nn.Parameter, int] = {}
    found: dict[int, Bond] = {}
    for n, piece in enumerate(pieces):
        for parameter in piece.module.parameters():
            before = seen.get(parameter, n)
            seen[parameter] = n
            for at in range(before + 1, n + 1):
                found.setdefault(at, (before, n, parameter))
    return found


def costs(pieces: Sequence[Piece], example: Any) -> list[int]:
    """Of every piece: counted operations of a forward, or parameters where nothing is counted.

    Operations of products and convolutions, and `ENTRY` for every entry of a floating-point tensor that
    is written.

    Args:
        example: an input, (B, ...); None if there is none. It and modes, statistics and random numbers
            are afterwards what they were.
    """
    counted = [] if example is None else _operations(pieces, example)
    if any(counted):
        return counted
    return [sum(p.numel() for p in piece.module.parameters()) for piece in pieces]


ENTRY = 150
"""Operations of a product in the time that writes one entry of a state, roughly: without it, a network's
first pieces, where states are large and products small, would be thought cheaper than they are."""


def _operations(pieces: Sequence[Piece], example: Any) -> list[int]:
    from torch.utils.flop_counter import FlopCounterMode

    from .written import Written

    modes = {part: part.training for piece in pieces for part in piece.module.modules()}
    found, value = [], copied(example)
    try:
        # Attention's fast path is one operation that nobody counts.
        with torch.no_grad(), draws.apart(), plain_attention(True):
            for piece in pieces:
                piece.module.eval()
                with FlopCounterMode(display=False) as counter, Written() as written:
                    value = piece(value)
                found.append(counter.get_total_flops() + ENTRY * written.entries)
    finally:
        for part, mode in modes.items():
            part.training = mode
    return found


def balanced(
    costs: list[int], trained: list[bool], ends: list[int], count: int
) -> tuple[range, ...] | None:
    """`count` stages, each with parameters, whose costliest costs least; None if there are none.

    By dynamic programming over the number of stages.

    Args:
        costs, trained: of every piece, and whether it has parameters.
        ends: where a stage may begin or end, from 0 to the number of pieces.
    """
    cost, some = ([0, *accumulate(each)] for each in (costs, trained))
    best: list[float] = [0, *[inf] * (len(ends) - 1)]  # up to every end, by the stages so far
    begins: list[list[int]] = []
    for _ in range(count):
        now, begin = [inf] * len(ends), [0] * len(ends)
        for i in range(1, len(ends)):
            for j in reversed(range(i)):
                own = cost[ends[i]] - cost[ends[j]]
                if own >= now[i]:  # and no less if it began further in front
                    break
                if max(own, best[j]) < now[i] and some[ends[i]] > some[ends[j]]:
                    now[i], begin[i] = max(own, best[j]), j
        best = now
        begins.append(begin)
    if best[-1] == inf:
        return None
    found, i = [], len(ends) - 1
    for begin in reversed(begins):
        found.append(range(ends[begin[i]], ends[i]))
        i = begin[i]
    return tuple(reversed(found))
