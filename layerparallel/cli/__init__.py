"""The command line: train, resume, evaluate, predict, report, list, bench.

It knows every room and no other knows it; what it does is done elsewhere. Open `commands.py` first: the
commands there are.
"""

from .commands import main

__all__ = ["main"]
