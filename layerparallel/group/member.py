"""A rank of a group in virtual time, with a clock of its own; see `virtual`."""

from __future__ import annotations

import pickle
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .base import Group, Link, Pending
from .baton import Letter, World


@dataclass
class Statistics:
    """What one rank did since its clock was started.

    Attributes:
        seconds: its clock; computing and waiting together.
        compute: seconds in which it computed.
        waiting: seconds for which it waited for messages.
        messages, bytes: that it sent, those of collectives included.
    """

    seconds: float = 0.0
    compute: float = 0.0
    waiting: float = 0.0
    messages: int = 0
    bytes: int = 0


class Clock:
    """Seconds that the calling thread has computed; always 0 if not measured.

    It is the thread's own CPU time: what other processes take of the machine does not count.
    """

    def __init__(self, measured: bool):
        self.now: Callable[[], float] = time.thread_time if measured else float
        self.reading = min(self.since(self.now()) for _ in range(100)) if measured else 0.0
        """What looking at it costs."""

    def since(self, mark: float) -> float:
        return self.now() - mark


class Member(Group):
    """One rank of a group in virtual time.

    A collective is made of messages, and costs what they cost: a binomial tree from all ranks to rank 0
    or from a rank to all, or sums by recursive doubling. A message has the bytes of its tensor, or of
    the pickled object.
    """

    def __init__(self, rank: int, link: Link, world: World, clock: Clock, members: list[Member]):
        self.rank, self.size, self.link = rank, world.size, link
        self._world, self._clock, self._members = world, clock, members
        self._statistics = Statistics()
        self._pieces = _Pieces()
        self._mark = 0.0  # when computing was last booked
        self._free = 0.0  # when the last message has been sent

    @property
    def statistics(self) -> Statistics:
        """Of this rank, up to now; a copy."""
        self._book()
        return replace(self._statistics)

    def charge(self, seconds: float) -> None:
        """Advances the clock as if that had been computed."""
        self._book(seconds)

    def align(self) -> float:
        """Waits, at no cost and uncounted, for all ranks to come here; the latest clock is that of all.

        Returns:
            The clock.
        """

        def latest() -> None:
            seconds = max(member._statistics.seconds for member in self._members)
            for member in self._members:
                member._statistics.seconds = seconds

        self._meet(latest)
        return self._statistics.seconds

    def restart(self) -> None:
        """Waits for all ranks to come here, and starts all clocks and counts from zero.

        Raises:
            RuntimeError: a message is under way.
        """

        def begin() -> None:
            if unread := self._world.unread():
                raise RuntimeError(f"{unread} messages are under way; receive them before a restart")
            for member in self._members:
                member._statistics, member._free = Statistics(), 0.0

        self._meet(begin)

    def timed(self, work: Callable[[], Any], rounds: int = 5) -> Any:
        """Does `work`, which exchanges the same messages every time, on a clock that starts from zero.

        Threads that take turns on one core find the caches full of each other's data, and a group of
        many is always disturbed somewhere. So every rank does the work twice with all others (the first
        time, programs look at what they are given and find their memory), then `rounds` times by itself,
        with the messages that it received, as on a core of its own; and once more with all others, when
        the clock advances by the median of what every piece of computing, from one message to the next,
        took by itself.

        Returns:
            What `work` returns, the last time.

        Raises:
            RuntimeError: the work is not the same every time.
        """
        work()
        self.restart()
        self._pieces.record()
        work()
        for _ in range(rounds):
            self._pieces.alone()
            self._resume()
            work()
            self._book()
        self._pieces.stop()
        self.restart()
        self._pieces.replay()
        found = work()
        self._book()
        self._pieces.stop()
        return found

    def _meet(self, change: Callable[[], None]) -> None:
        """Waits for all ranks; the last one to come changes something of all of them."""
        self._pause()
        if self._world.all_others_meet():
            change()
            for member in self._members:
                if member is not self:
                    self._world.wake(member.rank)
        else:
            self._world.pause(self.rank, None)
        self._resume()

    # ---- the primitives -------------------------------------------------------------------------

    def exchange(
        self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]
    ) -> Pending:
        self._pause()
        for peer, tensor in sends:
            copy = tensor if self._pieces.given is not None else tensor.detach().clone()
            self._send(peer, copy, tensor.nbytes)
        posted = [(buffer, peer, self._post(peer)) for peer, buffer in receives]
        self._resume()
        return _Receipt(self, posted)

    def broadcast(self, value: Tensor, source: int) -> None:
        before, behind = self._tree(source)
        if before is not None:
            self.exchange([], [(before, value)]).wait()
        self.exchange([(peer, value) for peer in behind], [])

    def tell(self, value: Any, source: int) -> Any:
        return pickle.loads(self._spread(pickle.dumps(value) if self.rank == source else b"", source))

    def gather(self, value: Any) -> list[Any]:
        found = {self.rank: pickle.dumps(value)}
        before, behind = self._tree(0)
        for peer in reversed(behind):
            found |= self._take(peer)
        if before is not None:
            self._hand([before], found, sum(map(len, found.values())))
        whole = pickle.dumps([found[k] for k in range(self.size)]) if self.rank == 0 else b""
        return [pickle.loads(each) for each in pickle.loads(self._spread(whole, 0))]

    # ---- messages -------------------------------------------------------------------------------

    def _tree(self, source: int) -> tuple[int | None, list[int]]:
        """In the binomial tree of a broadcast: the rank before this one, and those behind it."""
        place = (self.rank - source) % self.size
        bit = place & -place if place else 1 << (self.size - 1).bit_length()
        before = (place - bit + source) % self.size if place else None
        behind = []
        while bit > 1:
            bit //= 2
            if place + bit < self.size:
                behind.append((place + bit + source) % self.size)
        return before, behind

    def _spread(self, content: bytes, source: int) -> bytes:
        """A broadcast of bytes."""
        before, behind = self._tree(source)
        if before is not None:
            content = self._take(before)
        self._hand(behind, content, len(content))
        return content

    def _hand(self, peers: list[int], content: Any, size: int) -> None:
        """Sends any object."""
        self._pause()
        for peer in peers:
            self._send(peer, content, size)
        self._resume()

    def _take(self, peer: int) -> Any:
        """Receives any object."""
        self._pause()
        content = self._receive(peer, self._post(peer))
        self._resume()
        return content

    def _send(self, peer: int, content: Any, size: int) -> None:
        self._refuse(peer)
        mine = self._statistics
        if self._pieces.given is not None:
            return
        self._free = max(mine.seconds, self._free) + self.link.seconds(size)
        mine.messages, mine.bytes = mine.messages + 1, mine.bytes + size
        self._world.send(self.rank, peer, Letter(content, self._free))

    def _post(self, peer: int) -> int:
        """The number of the message that a receive from peer gets."""
        self._refuse(peer)
        return 0 if self._pieces.given is not None else self._world.post(peer, self.rank)

    def _receive(self, peer: int, number: int) -> Any:
        if self._pieces.given is not None:
            return self._pieces.receive()
        letter, mine = self._world.receive(peer, self.rank, number), self._statistics
        if self._pieces.received is not None:
            self._pieces.received.append(letter.content)
        late = max(0.0, letter.arrival - mine.seconds)
        mine.seconds, mine.waiting = mine.seconds + late, mine.waiting + late
        return letter.content

    def _refuse(self, peer: int) -> None:
        if peer == self.rank or not 0 <= peer < self.size:
            raise ValueError(
                f"rank {self.rank} exchanges a message with rank {peer}; use another of the "
                f"{self.size} ranks"
            )

    # ---- the clock ------------------------------------------------------------------------------

    def _book(self, charged: float = 0.0) -> None:
        """Books what was computed since the clock was last looked at."""
        spent = max(0.0, self._clock.since(self._mark) - self._clock.reading)
        spent = self._pieces.book(spent) + charged
        mine = self._statistics
        mine.seconds, mine.compute = mine.seconds + spent, mine.compute + spent
        self._mark = self._clock.now()

    def _pause(self) -> None:
        """Stops the clock for what the group itself does; ends this rank where another has failed."""
        self._book()
        self._world.check()

    def _resume(self) -> None:
        self._mark = self._clock.now()


class _Pieces:
    """What a rank receives and how long it computes in between, in one round of work after the other."""

    def __init__(self) -> None:
        self.received: list[Any] | None = None  # while all ranks work together, and is to be kept
        self.given: Iterator[Any] | None = None  # while this rank works by itself
        self._rounds: list[list[float]] = []
        self._medians: Iterator[float] | None = None

    def record(self) -> None:
        """From now on what is received is kept."""
        self.received, self._rounds = [], []

    def alone(self) -> None:
        """From now on what is received is what was kept."""
        assert self.received is not None
        self.given = iter(self.received)
        self._rounds.append([])

    def replay(self) -> None:
        """From now on pieces take their medians."""
        if len({len(each) for each in self._rounds}) > 1:
            counts = [len(each) for each in self._rounds]
            raise RuntimeError(f"rounds of {counts} pieces were timed; do the same in every round")
        self._medians = iter([statistics.median(piece) for piece in zip(*self._rounds, strict=True)])

    def stop(self) -> None:
        """From now on all is as it comes."""
        self.received = self.given = self._medians = None

    def receive(self) -> Any:
        """The next of the kept messages."""
        assert self.given is not None
        try:
            return next(self.given)
        except StopIteration:
            raise RuntimeError("more messages than before; do the same in every round") from None

    def book(self, seconds: float) -> float:
        """What the clock is to advance by for the next piece."""
        if self.given is not None:
            self._rounds[-1].append(seconds)
        return seconds if self._medians is None else next(self._medians, 0.0)


class _Receipt:
    """Receives under way."""

    def __init__(self, member: Member, posted: list[tuple[Tensor, int, int]]):
        self.member, self.posted = member, posted

    def wait(self) -> None:
        member = self.member
        member._pause()
        while self.posted:
            buffer, peer, number = self.posted.pop(0)
            content = member._receive(peer, number)
            if content.numel() != buffer.numel() or content.dtype != buffer.dtype:
                raise RuntimeError(
                    f"rank {member.rank} receives {buffer.numel()} numbers of {buffer.dtype} where "
                    f"rank {peer} sent {content.numel()} of {content.dtype}; make both alike"
                )
            with torch.no_grad():
                buffer.copy_(content.view(buffer.shape))
        member._resume()
