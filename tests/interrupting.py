"""Real signals in the middle of a training step; called, the command line with one such step."""

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from layerparallel.training.backprop import Backprop


def struck(at: int, numbers: Iterable[int], whom: int | None = None, more: float = 0.0) -> Callable:
    """`Backprop.step`, whose step number `at` sends signals, and takes so many seconds more.

    Args:
        whom: a process; this one if None.
    """
    step, count = Backprop.step, itertools.count()

    def signalling(self: Any, *args: Any, **options: Any) -> Any:
        found = step(self, *args, **options)
        if next(count) == at:
            for number in numbers:
                os.kill(whom or os.getpid(), number)
            time.sleep(more)
        return found

    return signalling


def install(where: str) -> None:
    """As "STEP SECONDS NUMBER..." says; with "parent" before that, sent to who started this process."""
    # A process that a shell has started in the background ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    whom, words = None, where.split()
    if words[:1] == ["parent"]:
        whom, words = os.getppid(), words[1:]
    if words:
        Backprop.step = struck(int(words[0]), [int(n) for n in words[2:]], whom, float(words[1]))


if __name__ == "__main__":
    from layerparallel import cli

    install(os.environ.get(f"STRUCK_{os.environ.get('RANK', '0')}", ""))
    sys.exit(cli.main(sys.argv[1:]))
