"""Where a level of a chain lives: its steps on the ranks, and how rows get there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from ..group.base import ALONE, Group
from ..group.blocks import Blocks
from ..steps.state import State
from .coarse import CoarseOperator


@dataclass(frozen=True)
class Placement:
    """One level of a chain on a layer group.

    Args:
        group: as this rank sees it.
        finest: which steps of the finest level, with their parameters, every rank has.
        blocks: which steps of this level.
    """

    group: Group
    finest: Blocks
    blocks: Blocks

    @classmethod
    def alone(cls, steps: int) -> Placement:
        """All steps on one process."""
        whole = Blocks.of_ends([0, steps])
        return cls(ALONE, whole, whole)

    def coarser(self, blocks: Blocks) -> Placement:
        """The next level."""
        return replace(self, blocks=blocks)

    @property
    def mine(self) -> range:
        """The steps of this rank."""
        return self.blocks.ranges[self.group.rank]

    @property
    def depth(self) -> int:
        """Steps of this level on all ranks together."""
        return self.blocks.steps

    def ends(self, reverse: bool) -> tuple[int, int]:
        """The ranks where the level begins and ends, in the direction a chain runs."""
        occupied = self.blocks.occupied
        return (occupied[-1], occupied[0]) if reverse else (occupied[0], occupied[-1])

    def next_to(self, reverse: bool) -> tuple[int | None, int | None]:
        """The ranks before and behind this one; see `Blocks.next_to`."""
        return self.blocks.next_to(self.group.rank, reverse)

    def select(self, rows: Sequence[Tensor], operator: CoarseOperator, span: int) -> tuple[Tensor, ...]:
        """Of this rank's finest parameters (n, ...) those of its steps of this level, (steps, s, ...).

        A coarse step may span layers of several ranks: each sends its share of every mean.
        """
        if self.group.alone:
            return tuple(operator.select(p, span, self.depth) for p in rows)
        samples = operator.groups(span)
        width, count = span // samples, self.depth * samples
        have, want = _groups(self.finest, self.blocks, width, samples, count, operator.kind == "inject")
        here, mine = self.finest.ranges[self.group.rank], have[self.group.rank]
        shares = []
        for p in rows:
            if operator.kind == "inject":
                at = torch.tensor([q * width - here.start for q in mine], device=p.device)
                shares.append(p.index_select(0, at.long()))
                continue
            p = p[: max(0, count * width - here.start)]
            if width > 1:
                at = (torch.arange(len(p), device=p.device) + here.start) // width - mine.start
                sums = p.new_zeros((len(mine), *p.shape[1:])).index_add_(0, at, p)
                p = sums.div_(width)
            shares.append(p)
        moved = self.group.move(shares, have, want) if shares else ()
        return tuple(p.reshape(len(p) // samples, samples, *p.shape[1:]) for p in moved)


@lru_cache(256)
def _groups(
    finest: Blocks, blocks: Blocks, width: int, samples: int, count: int, firsts: bool
) -> tuple[tuple[range, ...], tuple[range, ...]]:
    """Of `count` groups of `width` layers: which every rank has layers of, and which it wants."""
    have = tuple(_touched(r, width, count, firsts) for r in finest.ranges)
    return have, tuple(range(r.start * samples, r.stop * samples) for r in blocks.ranges)


def _touched(here: range, width: int, count: int, firsts: bool) -> range:
    """The groups of `width` layers that have a layer here, or their first one."""
    start = min(-(-here.start // width) if firsts else here.start // width, count)
    return range(start, max(start, min(-(-here.stop // width), count)) if here else start)


def move_points(group: Group, points: State, source: Blocks, target: Blocks) -> State:
    """An array of the states of this rank's block, for that of another distribution of the level."""
    if source == target:
        return points
    if source.repeated:
        here = target.points[group.rank]
        return tuple(p[here.start : here.stop] for p in points)
    own = len(source.owned[group.rank])
    return group.move([p[:own] for p in points], source.owned, target.points)


def move_arrivals(group: Group, arrived: State, source: Blocks, target: Blocks) -> State:
    """One state per step of this rank's block, for another distribution of the level (not from one
    where every rank has all)."""
    return arrived if source == target else group.move(arrived, source.ranges, target.ranges)


def common_length(*lengths: int) -> int:
    """Steps that intervals of all these lengths divide."""
    return math.lcm(*lengths)
