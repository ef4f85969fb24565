"""SIGINT and SIGTERM while a run is under way: they end it after a checkpoint, or at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ..group import watch

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""SIGINT last: once its own handler is back it may raise."""


class Interrupted(KeyboardInterrupt):
    """SIGINT has ended a run, of which all ranks have saved a checkpoint."""


class Terminated(SystemExit):
    """SIGTERM has ended a run, of which all ranks have saved a checkpoint."""


SAVED = (Interrupted, Terminated)
"""What all ranks raise at the same step; anything else may be one rank's alone."""


def ending(number: int, saved: bool = False) -> KeyboardInterrupt | SystemExit:
    """What a signal ends a run with: KeyboardInterrupt for SIGINT, the exit status 143 for SIGTERM."""
    if number == signal.SIGINT:
        return Interrupted() if saved else KeyboardInterrupt()
    return (Terminated if saved else SystemExit)(128 + number)


class Interruption:
    """Takes note of signals while it is entered, in the main thread; in any other it does nothing.

    The training asks for the note between two steps. A second signal raises what `ending` says, and
    so does the first one `at_once`. SIGTERM may come twice, from a launcher and from whoever ends the
    launcher: that is one signal. A signal that was ignored before stays ignored.

    Attributes:
        asked: the signal that has asked for the end; None so far.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._at_once = False
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in SIGNALS}
            # None is a handler that was not set in Python: it could not be put back.
            self._before = {n: h for n, h in before.items() if h not in (None, signal.SIG_IGN)}
            for number in self._before:
                signal.signal(number, self._arrived)
            watch.heed_sigterm(signal.SIGTERM not in self._before)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        watch.heed_sigterm(True)
        if kind is None and self.asked is not None:  # after the run last asked
            signal.raise_signal(self.asked)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it the first signal raises, one that has come before as well: nothing is lost by it."""
        self._at_once = True
        try:
            if self.asked is not None:
                raise ending(self.asked)
            yield
        finally:
            self._at_once = False

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a child that was forked meanwhile
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
            return
        first, self.asked = self.asked, number
        if first == number == signal.SIGTERM:
            return
        if self._at_once or first is not None:
            raise ending(number)
