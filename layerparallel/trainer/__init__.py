"""The one loop: epochs over shuffled mini batches, whatever the recipe and the method.

A run goes through its phases (one, or several networks of growing depth), evaluates, records and
saves as it goes. One process then trains the same network serially for a slice of the same work, so that
the run carries the ratio that was measured in it. On several ranks every one runs this loop; the first
writes and speaks.
"""

from layerparallel.trainer.ending import CYCLES
from layerparallel.trainer.loop import restore, resume, train
from layerparallel.trainer.run import Listener, Outcome, Phase, Run

__all__ = ["CYCLES", "Listener", "Outcome", "Phase", "Run", "restore", "resume", "train"]
