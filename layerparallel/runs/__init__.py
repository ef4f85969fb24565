"""One training from start to end: the loop, its record, checkpoints, evaluation and display.

A run goes through its phases (one, or several networks of growing depth), evaluates, records and saves
as it goes; on several ranks every one runs the same loop, and the first writes and speaks. It must not
know recipes or reports. Open `run.py` first: what is to be done; then `loop.py` and `underway.py`.
"""

from .ending import CYCLES
from .loop import restore, resume, train
from .run import Listener, Outcome, Phase, Run

__all__ = ["CYCLES", "Listener", "Outcome", "Phase", "Run", "restore", "resume", "train"]
