"""Threads that take turns: a baton goes round, and only the rank that holds it runs.

What the ranks share, the messages under way among it, is touched by the holder alone and needs no lock.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import torch

SHOWN = 8
"""Ranks that an error names."""


class DeadlockError(RuntimeError):
    """All ranks wait, and none can go on."""


class Ended(BaseException):
    """Another rank has failed: unwinds this one."""


@dataclass(frozen=True)
class Letter:
    """A message under way, and when it arrives by the clock that all ranks started together."""

    content: Any
    arrival: float


@dataclass
class Channel:
    """From one rank to another: the k-th receive gets the k-th message."""

    sent: int = 0
    posted: int = 0
    letters: dict[int, Letter] = field(default_factory=dict)


class World:
    """Who holds the baton, who waits for what, and the messages under way."""

    def __init__(self, ranks: int):
        self.size = ranks
        self.failure: BaseException | None = None
        self.batons = [threading.Lock() for _ in range(ranks)]
        for baton in self.batons:
            baton.acquire()
        self._ready = deque(range(ranks))
        self._waiting: dict[int, tuple[int, int]] = {}  # for the message of a source and a number
        self._meeting: set[int] = set()  # for all others
        self._finished: set[int] = set()
        self._channels: defaultdict[tuple[int, int], Channel] = defaultdict(Channel)
        self._done = threading.Event()

    # ---- messages -------------------------------------------------------------------------------

    def send(self, source: int, target: int, letter: Letter) -> None:
        """Puts a message under way; its receiver can go on if it waits for it."""
        channel = self._channels[source, target]
        number = channel.sent
        channel.sent += 1
        channel.letters[number] = letter
        if self._waiting.get(target) == (source, number):
            self.wake(target)

    def post(self, source: int, target: int) -> int:
        """The number of the message that the target's next receive gets."""
        channel = self._channels[source, target]
        channel.posted += 1
        return channel.posted - 1

    def receive(self, source: int, target: int, number: int) -> Letter:
        """The message; waits for it."""
        letters = self._channels[source, target].letters
        if number not in letters:
            self.pause(target, (source, number))
        return letters.pop(number)

    def unread(self) -> int:
        """Messages that were sent and not yet received."""
        return sum(len(channel.letters) for channel in self._channels.values())

    # ---- turns ----------------------------------------------------------------------------------

    def give(self) -> None:
        """Hands the baton to a rank that can go on."""
        if self.failure is None and not self._ready:
            self.failure = DeadlockError(self._tangle())
        if self.failure is not None:  # all come to know of it
            self._ready.extend(self._waiting.keys() | self._meeting)
            self._waiting.clear()
            self._meeting.clear()
        self.batons[self._ready.popleft()].release()

    def pause(self, rank: int, source: tuple[int, int] | None) -> None:
        """Gives the baton away until the message is there; None: until the ranks have met."""
        if source is None:
            self._meeting.add(rank)
        else:
            self._waiting[rank] = source
        random = torch.get_rng_state()
        self.give()
        self.batons[rank].acquire()
        torch.set_rng_state(random)
        self.check()

    def check(self) -> None:
        """Ends this rank where another has failed."""
        if self.failure is not None:
            raise Ended

    def wake(self, rank: int) -> None:
        """A rank that waited can go on."""
        self._waiting.pop(rank, None)
        self._meeting.discard(rank)
        self._ready.append(rank)

    def all_others_meet(self) -> bool:
        """Whether all ranks but this one wait for all others."""
        return len(self._meeting) == self.size - 1

    def finish(self, rank: int) -> None:
        """A rank has ended; the last one ends the run."""
        self._finished.add(rank)
        if len(self._finished) == self.size:
            self._done.set()
        else:
            self.give()

    def join(self) -> None:
        """Waits for all ranks to end; interrupted, they end at their next message."""
        while not self._done.is_set():
            try:
                self._done.wait()
            except KeyboardInterrupt as error:
                self.failure = error

    def _tangle(self) -> str:
        """Who waits for whom."""
        away = min(set(range(self.size)) - self._meeting)
        found = {rank: f"rank {rank} for rank {away} to come" for rank in self._meeting}
        for rank, (source, number) in self._waiting.items():
            ended = ", which has ended" if source in self._finished else ""
            found[rank] = f"rank {rank} for message {number} from rank {source}{ended}"
        lines = [text for _, text in sorted(found.items())]
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        return f"deadlock, nobody can go on: {'; '.join(lines[:SHOWN])}{more}"
