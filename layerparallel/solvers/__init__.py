"""Solvers: frozen values that say how a chain is propagated, and the algorithms behind them.

They know chains by `advance`, `coarsen` and `linearise` alone; they must not know what a step computes,
nor of modules and autograd. Open `mgrit.py` first: the algorithm in four steps, then `multigrid.py`.
"""

from .description import describe, rebuild
from .mgrit import MGRIT, Parareal
from .serial import Serial
from .solution import Solution
from .split import Split

__all__ = ["MGRIT", "Parareal", "Serial", "Solution", "Split", "describe", "rebuild"]
