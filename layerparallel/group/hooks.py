"""What Python calls when a process is about to end: an uncaught exception, SIGTERM, its last line."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType


@dataclass
class Hooks:
    """Installed for one watch at a time, and removed again.

    Args:
        uncaught: told the exception that ends the main thread; returns whether Python's own
            message is still wanted.
        finished: called when Python ends.
        forked: called in a child that was forked; the hooks are gone there.
        signals: a pipe's end. SIGTERM writes its number there; also while the main thread waits
            inside a library, where no Python handler runs.
    """

    uncaught: Callable[[BaseException], bool]
    finished: Callable[[], None]
    forked: Callable[[], None]
    signals: int
    _before: Callable[..., object] = field(default=sys.__excepthook__, init=False)
    _terminating: bool = field(default=False, init=False)
    _mask: set[int] = field(default_factory=set, init=False)
    _process: int = field(default_factory=os.getpid, init=False)

    def install(self) -> None:
        """A handler of SIGTERM or a wake-up descriptor of somebody else's is left alone."""
        self._before, sys.excepthook = sys.excepthook, self._uncaught
        atexit.register(self._finished)
        os.register_at_fork(
            before=self._hold, after_in_parent=self._release, after_in_child=self._forked
        )
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            other = signal.set_wakeup_fd(self.signals, warn_on_full_buffer=False)
            if other != -1:
                signal.set_wakeup_fd(other)
                return
            signal.signal(signal.SIGTERM, _nothing)
            self._terminating = True

    def remove(self) -> None:
        """As it was before."""
        sys.excepthook = self._before
        atexit.unregister(self._finished)
        if self._terminating and threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._terminating = False
        self._process = 0

    def _uncaught(
        self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        before = self._before
        if self.uncaught(error):
            before(kind, error, traceback)

    def _finished(self) -> None:
        if os.getpid() == self._process:
            self.finished()

    # A child has this process's pipe until its own part of a fork is done: SIGTERM waits for that.

    def _hold(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def _release(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _forked(self) -> None:
        if self._process:
            self.remove()
            self.forked()
        self._release()


def _nothing(*_: object) -> None:
    """The watch was told by the pipe."""
