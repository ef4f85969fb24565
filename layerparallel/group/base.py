"""Layer groups: the processes that share one network's depth, each with one block of steps.

A kind of group sends tensors and forms sums; what the solvers ask of it (`shift`, `relay`, `move`) is
made of these and the same for all: `Alone`, one process; `ranks.Ranks`, torch.distributed;
`virtual.Member`, many ranks in one process under a clock of their own.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

Arrays = tuple[Tensor, ...]
"""What is sent together: the tensors of a state."""


@dataclass(frozen=True)
class Link:
    """What a message costs: ``latency + seconds_per_byte * bytes`` seconds."""

    latency: float
    seconds_per_byte: float

    def seconds(self, size: float) -> float:
        """Of one message of `size` bytes."""
        return self.latency + self.seconds_per_byte * size


class Pending(Protocol):
    """Messages under way."""

    def wait(self) -> None:
        """Returns when all that was to be received is there."""
        ...


class Arrived:
    """Nothing is under way."""

    def wait(self) -> None:
        """Returns at once."""


class Group(abc.ABC):
    """A layer group, as one of its ranks sees it.

    Attributes:
        rank, size: of this rank within the group.
        link: what a message between two ranks costs, the same on all ranks.
    """

    rank: int = 0
    size: int = 1
    link: Link = Link(0.0, 0.0)

    @abc.abstractmethod
    def exchange(
        self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]
    ) -> Pending:
        """Starts messages: contiguous tensors to peers, and buffers that receive from peers.

        Messages between two ranks arrive in the order in which they were started. What is sent must
        stay as it is until `wait` has returned, and may be written over then; sends that nobody waits
        for arrive all the same.
        """

    @torch.no_grad()
    def total(self, value: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on each; `value` is left as it is.

        By recursive doubling: ceil(log2 P) exchanges one after the other, two more where P is no power
        of 2.
        """
        found = value.detach().clone(memory_format=torch.contiguous_format)
        whole = 1 << (self.size.bit_length() - 1)  # as many ranks double, the rest hand theirs over
        other, behind = torch.empty_like(found), self.rank + whole
        if self.rank >= whole:
            self.exchange([(self.rank - whole, found)], []).wait()
            self.exchange([], [(self.rank - whole, found)]).wait()
            return found
        if behind < self.size:
            self.exchange([], [(behind, other)]).wait()
            found += other
        distance = 1
        while distance < whole:
            peer = self.rank ^ distance
            self.exchange([(peer, found)], [(peer, other)]).wait()
            found += other  # a + b here, b + a there: the same bits
            distance *= 2
        if behind < self.size:
            self.exchange([(behind, found)], []).wait()
        return found

    @abc.abstractmethod
    def broadcast(self, value: Tensor, source: int) -> None:
        """Fills `value` on every rank from that of `source`."""

    @abc.abstractmethod
    def tell(self, value: Any, source: int) -> Any:
        """A small Python object of `source`, on every rank; what the others give is not looked at."""

    @abc.abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """Small Python objects of all ranks, in order."""

    @property
    def alone(self) -> bool:
        """Whether there is no other rank."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this rank has the opening."""
        return self.rank == 0

    @property
    def last(self) -> bool:
        """Whether this rank has the closing."""
        return self.rank == self.size - 1

    # ---- the verbs ------------------------------------------------------------------------------

    def shift(
        self, value: Arrays, towards: int | None, source: int | None, into: Arrays | None
    ) -> Pending:
        """Starts sending `value` to the rank `towards` and receiving from `source`, if there are such.

        `into` are contiguous buffers, and untouched without a source.
        """
        sends = [(towards, a.contiguous()) for a in value] if towards is not None else []
        receives = [] if source is None or into is None else [(source, a) for a in into]
        return self.exchange(sends, receives) if sends or receives else Arrived()

    def relay(
        self, begin: Arrays, towards: int | None, source: int | None, work: Callable[[Arrays], Arrays]
    ) -> Arrays:
        """One rank after the other: receives where to begin (`begin` without a source), works, sends."""
        if source is not None:
            begin = tuple(torch.empty_like(a, memory_format=torch.contiguous_format) for a in begin)
            self.exchange([], [(source, a) for a in begin]).wait()
        end = work(begin)
        if towards is not None:  # copies, so that nobody need wait until they have gone
            copies = [a.clone(memory_format=torch.contiguous_format) for a in end]
            self.exchange([(towards, a) for a in copies], [])
        return end

    def move(
        self, arrays: Sequence[Tensor], have: Sequence[range], want: Sequence[range]
    ) -> tuple[Tensor, ...]:
        """Rows of arrays from ranks that have them to those that want them.

        Args:
            arrays: on one device, each with ``len(have[rank])`` rows; all ranks have as many arrays,
                with rows of the same shapes and dtypes.
            have: which rows, by global number, every rank has. Rows of several ranks are added.
            want: which rows every rank is to get.

        Returns:
            Arrays of ``len(want[rank])`` rows; the given ones where nobody wants anything new.
        """
        have, want = tuple(have), tuple(want)
        if have == want:
            return tuple(arrays)
        plan = _planned(have, want, self.rank)
        found: list[Tensor] = list(arrays)
        for dtype in dict.fromkeys(a.dtype for a in arrays):  # those of one go in one message
            places = [k for k, a in enumerate(arrays) if a.dtype == dtype]
            moving = _spread if plan.to_all else _moved
            moved = moving(self, [arrays[k] for k in places], plan)
            for k, array in zip(places, moved, strict=True):
                found[k] = array
        return tuple(found)

    def __deepcopy__(self, memo: object) -> Group:
        """Copies of a network share its group."""
        return self


@dataclass(frozen=True)
class _Plan:
    """Which rows this rank has and wants, and which of them go to whom and come from whom."""

    have: range
    want: range
    leaving: tuple[tuple[int, range], ...]
    coming: tuple[tuple[int, range], ...]
    parts: tuple[range, ...]  # of what all want, those of every rank
    to_all: bool  # all ranks, more than two, want the same


@lru_cache(256)
def _parts(have: tuple[range, ...], wanted: range) -> tuple[range, ...]:
    """Of the rows that are wanted, those of every rank."""
    return tuple(overlap(h, wanted) for h in have)


@lru_cache(1 << 14)
def _planned(have: tuple[range, ...], want: tuple[range, ...], rank: int) -> _Plan:
    """Made once: with many ranks it takes longer than a step."""
    mine, wanted = have[rank], want[rank]
    leaving = ((peer, overlap(mine, w)) for peer, w in enumerate(want) if peer != rank)
    to_all = all(w == want[0] for w in want) and len(want) > 2
    parts = _parts(have, wanted) if to_all else ()
    coming = ((peer, overlap(h, wanted)) for peer, h in enumerate(have))
    return _Plan(
        mine,
        wanted,
        tuple((peer, rows) for peer, rows in leaving if rows),
        tuple((peer, rows) for peer, rows in coming if rows),
        parts,
        to_all,
    )


def _moved(group: Group, arrays: Sequence[Tensor], plan: _Plan) -> list[Tensor]:
    """`Group.move` of arrays of one dtype."""
    mine, wanted = plan.have, plan.want
    shapes = [a.shape[1:] for a in arrays]
    row = sum(shape.numel() for shape in shapes)
    sends = []
    for peer, leaving in plan.leaving:
        rows = slice(leaving.start - mine.start, leaving.stop - mine.start)
        sends.append((peer, torch.cat([a[rows].flatten() for a in arrays])))
    buffers = {
        peer: arrays[0].new_empty(len(here) * row) for peer, here in plan.coming if peer != group.rank
    }
    pending = group.exchange(sends, list(buffers.items()))
    found = [a.new_zeros((len(wanted), *a.shape[1:])) for a in arrays]
    pending.wait()
    for peer, here in plan.coming:  # in order of the ranks, so that sums are the same everywhere
        to = slice(here.start - wanted.start, here.stop - wanted.start)
        if peer == group.rank:
            parts = [a[here.start - mine.start : here.stop - mine.start] for a in arrays]
        else:
            pieces = buffers[peer].split([len(here) * shape.numel() for shape in shapes])
            parts = [p.view(len(here), *s) for p, s in zip(pieces, shapes, strict=True)]
        for target, part in zip(found, parts, strict=True):
            target[to].add_(part)
    return found


def _spread(group: Group, arrays: Sequence[Tensor], plan: _Plan) -> list[Tensor]:
    """`Group.move` where all ranks want the same: in ceil(log2 P) messages of growing size.

    After round k a rank knows the rows of the 2^k ranks from its own on (Bruck et al. 1997).
    """
    rank, size, wanted, parts = group.rank, group.size, plan.want, plan.parts
    shapes = [a.shape[1:] for a in arrays]
    row = sum(shape.numel() for shape in shapes)
    mine = slice(parts[rank].start - plan.have.start, parts[rank].stop - plan.have.start)
    known = [torch.cat([a[mine].flatten() for a in arrays])]
    while len(known) < size:
        distance = len(known)
        count = min(distance, size - distance)
        source, target = (rank + distance) % size, (rank - distance) % size
        sizes = [len(parts[(source + k) % size]) * row for k in range(count)]
        coming = arrays[0].new_empty(sum(sizes))
        group.exchange([(target, torch.cat(known[:count]))], [(source, coming)]).wait()
        known += coming.split(sizes)
    found = [a.new_zeros((len(wanted), *a.shape[1:])) for a in arrays]
    for peer, here in plan.coming:
        to = slice(here.start - wanted.start, here.stop - wanted.start)
        pieces = known[(peer - rank) % size].split([len(here) * shape.numel() for shape in shapes])
        for target, piece, shape in zip(found, pieces, shapes, strict=True):
            target[to].add_(piece.view(len(here), *shape))
    return found


class Alone(Group):
    """One process, which has the whole network."""

    def exchange(
        self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]
    ) -> Pending:
        """There is nobody to send to."""
        return Arrived()

    def total(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def broadcast(self, value: Tensor, source: int) -> None:
        """It is here already."""

    def tell(self, value: Any, source: int) -> Any:
        """The value itself."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """The value alone."""
        return [value]


ALONE = Alone()


def overlap(a: range, b: range) -> range:
    """What two ranges of step 1 have in common; empty if nothing."""
    start = max(a.start, b.start)
    return range(start, max(start, min(a.stop, b.stop)))
