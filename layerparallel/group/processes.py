"""A process: as others see it, and what ends it."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

ENDED, STOPPED, RUNNING = "ended", "stopped", "running"


@dataclass(frozen=True)
class Process:
    """What tells a process from all others.

    Attributes:
        host, pid: the name of its machine, and its number there.
        place: the same for processes that see each other; empty where that cannot be known.
        started: when it was, so that a later one with its number is not taken for it.
    """

    host: str
    pid: int
    place: str = ""
    started: str = ""

    @classmethod
    def own(cls) -> Process:
        """This one."""
        return cls(socket.gethostname(), os.getpid(), _place(), _stat(os.getpid())[1])

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"

    @property
    def near(self) -> bool:
        """Whether this process can look at it and kill it."""
        return bool(self.place) and self.place == _place()

    def condition(self) -> str:
        """`ENDED`, `STOPPED` or `RUNNING`, of one that is near."""
        state, started = _stat(self.pid)
        if not state or started != self.started or state in "ZX":
            return ENDED
        return STOPPED if state in "Tt" else RUNNING

    def kill(self) -> None:
        """By SIGKILL, if it is near."""
        if self.near and self.condition() != ENDED:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


def _stat(pid: int) -> tuple[str, str]:
    """State and time of start of a process; empty if there is none, or no /proc."""
    try:
        # The second field is the command's name in brackets, which may have blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


@functools.cache
def _place() -> str:
    """This start of this machine, and the room of process numbers in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def say(sentence: str) -> None:
    """Prints to stderr from any thread: the main thread may hold the lock of `sys.stderr`."""
    os.write(2, f"{sentence}\n".encode())


def leave(status: int) -> None:
    """Ends this process at once, whatever its threads wait for; what was printed is kept if possible."""
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)
    flush.start()
    flush.join(0.5)
    os._exit(status)


def leave_after(seconds: float) -> None:
    """Ends this process by then, even if Python cannot: by the kernel's alarm. Main thread only."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
