"""A layer group in virtual time: many ranks in one process, each with a clock of its own.

Every rank is a thread, and a baton goes round: only the rank that holds it computes, with one torch
thread, and its clock advances by what it computed. Messages are real, tensors are copied, and cost what
the `Link` says: a message is received ``latency + seconds_per_byte * bytes`` after it was sent, and a
rank sends one after the other. Who waits for a message goes on at its arrival. So the clocks tell what
the same program takes on as many processors, and the results are its results.

What threads share is kept apart: every rank has its own state of torch's random numbers, as a process
has, and begins with the caller's. Grad mode is the caller's; autocast and torch function modes begin
switched off, as in any thread. Backward passes on the CPU run in the thread that calls them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .base import Link
from .baton import Ended, World
from .member import Clock, Member, Statistics

MOST = 1024
"""Most ranks: each is a thread."""
STACK = 1 << 20
"""Bytes of a thread's stack, of which only what is touched takes memory."""


@dataclass(frozen=True)
class Outcome:
    """What `run` returns.

    Attributes:
        results: what the function returned on every rank.
        statistics: of every rank.
        unread: messages that were sent and never received.
    """

    results: list[Any]
    statistics: list[Statistics]
    unread: int

    @property
    def seconds(self) -> float:
        """The latest clock: the time that the whole group took."""
        return max(each.seconds for each in self.statistics)


def run(
    ranks: int,
    function: Callable[..., Any],
    link: Link,
    *args: Any,
    measured: bool = True,
    stack: int = STACK,
) -> Outcome:
    """``function(member, *args)`` on every rank of a group in virtual time.

    Args:
        ranks: P, 1 to 1024.
        link: what a message costs.
        measured: clocks advance by the CPU time of what the ranks compute. If not, by what they are
            charged alone (`Member.charge`), and runs repeat to the last digit.
        stack: bytes of every thread's stack.

    Raises:
        ValueError: the number of ranks is out of range.
        DeadlockError: all ranks wait for messages that nobody will send; it says who for whom.
        Exception: what one of the ranks raised, which ends all others.
    """
    if not 1 <= ranks <= MOST:
        raise ValueError(f"{ranks} ranks are out of range; a group in virtual time has 1 to {MOST}")
    world, clock = World(ranks), Clock(measured)
    members: list[Member] = []
    members.extend(Member(rank, link, world, clock, members) for rank in range(ranks))
    results: list[Any] = [None] * ranks
    grad, threads, random = torch.is_grad_enabled(), torch.get_num_threads(), torch.get_rng_state()

    def work(member: Member) -> None:
        world.batons[member.rank].acquire()
        try:
            torch.set_num_threads(1)
            torch.set_rng_state(random)
            member._resume()
            with torch.set_grad_enabled(grad):
                results[member.rank] = function(member, *args)
            member._book()
        except Ended:
            pass
        except BaseException as error:
            if world.failure is None:
                error.add_note(f"Raised on rank {member.rank} of {ranks} in virtual time.")
                world.failure = error
        finally:
            world.finish(member.rank)

    before = threading.stack_size(stack)
    try:
        torch.set_num_threads(1)
        for member in members:
            threading.Thread(target=work, args=(member,), name=str(member.rank), daemon=True).start()
        world.give()
        world.join()
    finally:
        threading.stack_size(before)
        torch.set_num_threads(threads)
        torch.set_rng_state(random)
    if world.failure is not None:
        raise world.failure
    return Outcome(results, [member._statistics for member in members], world.unread())
