"""Which rank has which steps of a level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise


@dataclass(frozen=True)
class Blocks:
    """The steps 0..N-1 of a level as one block per rank, in order; a block may be empty.

    `everywhere` blocks are all the whole level: every rank does the same work.
    """

    ranges: tuple[range, ...]

    @classmethod
    def of_ends(cls, ends: Sequence[int]) -> Blocks:
        """From ``0 = ends[0] <= ... <= ends[P] = N``."""
        return cls(tuple(range(a, b) for a, b in pairwise(ends)))

    @classmethod
    def even(cls, steps: int, ranks: int) -> Blocks:
        """As equal as can be, the larger ones first."""
        size, more = divmod(steps, ranks)
        return cls.of_ends([r * size + min(r, more) for r in range(ranks + 1)])

    @classmethod
    def everywhere(cls, steps: int, ranks: int) -> Blocks:
        """The whole level on every rank."""
        return cls((range(steps),) * ranks)

    @property
    def steps(self) -> int:
        """N."""
        return self.ranges[-1].stop

    @cached_property
    def repeated(self) -> bool:
        """Whether every rank has the whole level."""
        return len(self.ranges) > 1 and all(len(r) == self.steps for r in self.ranges)

    @cached_property
    def _hash(self) -> int:
        return hash(self.ranges)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _derived(self) -> dict[tuple[str, int], Blocks]:
        """Made once: with many ranks it takes longer than a step."""
        return {}

    def aligned(self, length: int) -> Blocks:
        """The blocks moved so that no interval of `length` steps is cut.

        An interval belongs to the rank that has its first step; what fills none goes with the last one.
        """
        if self.repeated or length == 1:
            return self
        key = "aligned", length
        if key not in self._derived:
            whole = self.steps // length * length
            begins = [-(-r.start // length) * length for r in self.ranges[1:]]
            ends = [0, *[b if b < whole else self.steps for b in begins], self.steps]
            self._derived[key] = self.of_ends(ends)
        return self._derived[key]

    def coarsened(self, factor: int) -> Blocks:
        """Those of the next level, of blocks that cut no interval of `factor` steps."""
        key = "coarsened", factor
        if key not in self._derived:
            count = self.steps // factor
            starts = [min(-(-r.start // factor), count) for r in self.ranges]
            ranges = (range(a, r.stop // factor) for a, r in zip(starts, self.ranges, strict=True))
            self._derived[key] = Blocks(tuple(ranges))
        return self._derived[key]

    @cached_property
    def points(self) -> tuple[range, ...]:
        """The states that every rank has: those of its steps, and the one behind; none without steps."""
        return tuple(range(r.start, r.stop + 1) if r else range(r.start, r.start) for r in self.ranges)

    @cached_property
    def owned(self) -> tuple[range, ...]:
        """Every state 0..N on just one rank: where its step begins, the last where its step ends."""
        if self.repeated:
            behind = range(self.steps + 1, self.steps + 1)
            return (range(self.steps + 1), *[behind] * (len(self.ranges) - 1))
        last = max(self.occupied, default=0)
        return tuple(range(r.start, r.stop + (k == last)) for k, r in enumerate(self.ranges))

    @cached_property
    def occupied(self) -> tuple[int, ...]:
        """The ranks that have steps, in order."""
        return tuple(k for k, r in enumerate(self.ranges) if r)

    def next_to(self, rank: int, reverse: bool) -> tuple[int | None, int | None]:
        """The ranks before and behind this one, in the direction a chain runs; None at an end.

        Ranks without steps are passed over, and have no neighbours themselves.
        """
        if self.repeated or rank not in self.occupied:
            return None, None
        k, last = self.occupied.index(rank), len(self.occupied) - 1
        left = self.occupied[k - 1] if k > 0 else None
        right = self.occupied[k + 1] if k < last else None
        return (right, left) if reverse else (left, right)
