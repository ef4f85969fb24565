"""Every rank watches the others, so that all end when one of them fails, and say which.

A lookout in a thread of its own finds out (`lookout.Lookout`): a main thread that waits inside gloo or
NCCL neither stops it nor is told by it. A main thread that comes by raises `RankFailed`; one that does
not is ended with the whole process, and the sentence is printed.

On one machine a process that has ended is seen at once; elsewhere, and if it was stopped, by its
silence.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from torch.distributed.distributed_c10d import Store

from ..errors import RankFailed
from .hooks import Hooks
from .lookout import Lookout, Patience
from .processes import leave, leave_after, say

STATUS = 75
"""Exit status of a process that is ended because another one has failed (EX_TEMPFAIL)."""
SETTLING = 0.1
"""Seconds for threads of gloo to let go of the last collective's tensors: where one does so while Python
ends, the process aborts (seen with torch 2.13 in one of ten that ended right after an all_reduce)."""
MESSAGES = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)
"""In errors of torch.distributed that another rank's end brings about."""


class Watch:
    """Ends this process when the lookout has found a failed rank."""

    def __init__(self, lookout: Lookout) -> None:
        self.lookout, self.patience = lookout, lookout.patience
        # This rank is done; the main thread has heard of the verdict.
        self._over, self._heard = threading.Event(), threading.Event()
        self.heeds_sigterm = True
        self._wake, self.signals = os.pipe()
        os.set_blocking(self.signals, False)
        self._thread = threading.Thread(target=self._run, name="watch over ranks", daemon=True)
        self._thread.start()

    # ---- for the main thread --------------------------------------------------------------------

    def check(self) -> None:
        """Raises `RankFailed` if a rank is known to have failed."""
        if self.lookout.verdict is not None:
            raise self.failure()

    def failure(self) -> RankFailed:
        """Of the verdict there is."""
        self._heard.set()
        self.lookout.linger()
        return RankFailed(self._sentence())

    def explained(self, error: BaseException) -> RankFailed:
        """Waits until it is known which rank has failed, or none is found."""
        self.lookout.asked = self.lookout.hurry = True
        self.lookout.found.wait(self.patience.silence + 4 * self.patience.beat)
        if self.lookout.verdict is None:
            return RankFailed(
                f"A message of rank {self.lookout.rank} failed though all ranks show signs of life: "
                f"{_first_line(error)}"
            )
        return self.failure()

    def decided(self) -> bool:
        """Whether there is a verdict; waits for one that is on its way."""
        self.lookout.hurry = True
        return self.lookout.found.wait(4 * self.patience.beat)

    def report(self, error: BaseException) -> None:
        """This rank has failed."""
        self._heard.set()
        if self.lookout.verdict is None and not self._over.is_set():
            line = _first_line(error)
            with contextlib.suppress(RuntimeError):
                what = f"raised {type(error).__name__}{': ' * bool(line)}{line}"
                self.lookout.declare(self.lookout.rank, what)
            self.lookout.linger()

    def end(self) -> None:
        """This rank is done; the one that keeps the store waits until all others are."""
        self.lookout.leave()
        self._over.set()
        os.write(self.signals, b"\0")
        self._thread.join()

    # ---- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        before = time.monotonic()
        while not self._over.is_set():
            ready, _, _ = select.select([self._wake], [], [], self.patience.beat)
            if ready and signal.SIGTERM in os.read(self._wake, 64):
                self.lookout.hurry = True
                if self.heeds_sigterm:
                    self._terminated()
            now = time.monotonic()
            if now - before < self.patience.silence / 2:  # or it was this process that stood still
                self.lookout.check_store()
            before = now
            if self.lookout.verdict is not None:
                self._finish()

    def _terminated(self) -> None:
        """By SIGTERM, which torchrun sends to all others when a rank has failed."""
        if self.lookout.found.wait(self.patience.grace) and not self._heard.is_set():
            say(self._sentence())
        leave(128 + signal.SIGTERM)

    def _finish(self) -> None:
        """Ends the process, unless its main thread does so first."""
        if not self._heard.wait(self.patience.grace):
            say(self._sentence())
            leave(STATUS)
        if not self._over.wait(self.patience.cleanup):
            leave(STATUS)

    def _sentence(self) -> str:
        verdict = self.lookout.verdict
        assert verdict is not None
        if verdict.rank == self.lookout.rank:
            return f"{verdict.text}, so the other ranks have ended."
        return f"{verdict.text}, so rank {self.lookout.rank} ends, too."


# ---- the watch of this process -----------------------------------------------------------------

_watch: Watch | None = None
_hooks: Hooks | None = None


def begin(
    connect: Callable[[], Store], rank: int, world: int, keeper: int | None, patience: Patience
) -> None:
    """Starts to watch; all ranks do so at about the same time.

    Args:
        connect: makes a connection to the store of all ranks, for this watch alone.
        rank, world: of this process among all.
        keeper: the rank whose process keeps the store, if it is one of them.
        patience: the same on all ranks.
    """
    global _watch, _hooks
    end()
    _watch = Watch(Lookout(connect(), rank, world, keeper, patience))
    _hooks = Hooks(_uncaught, end, _forked, _watch.signals)
    _hooks.install()


def end() -> None:
    """This rank is done and no longer watched. Without a watch nothing happens."""
    global _watch, _hooks
    if _watch is not None and _hooks is not None:
        _hooks.remove()
        ended, _watch, _hooks = _watch, None, None
        ended.end()
        time.sleep(SETTLING)


def check() -> None:
    """Raises `RankFailed` if a rank is known to have failed."""
    if _watch is not None:
        _watch.check()


def heed_sigterm(heed: bool) -> None:
    """Whether SIGTERM ends this process; not while the main thread sees to it."""
    if _watch is not None:
        _watch.heeds_sigterm = heed


def explained(error: BaseException) -> RankFailed:
    """What an error of torch.distributed means: which rank has failed, as far as can be found."""
    if isinstance(error, RankFailed):
        return error
    if _watch is None:
        return RankFailed(f"A rank has ended or does not answer: {_first_line(error)}")
    return _watch.explained(error)


@contextlib.contextmanager
def explaining() -> Iterator[None]:
    """Turns errors of torch.distributed into `RankFailed`."""
    try:
        yield
    except RuntimeError as error:
        raise explained(error) from error


def report(error: BaseException) -> None:
    """Tells all others that this rank fails by an error which will not end it as an uncaught one."""
    if _watch is not None and not isinstance(error, RankFailed):
        _watch.report(error)


def _uncaught(error: BaseException) -> bool:
    """Tells the others what ends this rank; the end of another one needs no traceback here."""
    if _watch is None:
        return True
    if isinstance(error, RuntimeError) and MESSAGES.search(str(error)):
        error = explained(error)  # perhaps of DDP, because another rank has ended
    if isinstance(error, RankFailed) and _watch.decided():
        print(error, file=sys.stderr, flush=True)
        leave_after(_watch.patience.cleanup)  # threads of gloo may wait for the failed rank
        return False
    _watch.report(error)
    return True


def _forked() -> None:
    global _watch, _hooks
    _watch = _hooks = None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else ""
