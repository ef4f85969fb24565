"""Solvers: frozen values that say how a chain is propagated."""

from ..solution import Solution
from .description import describe, rebuild
from .mgrit import MGRIT, Parareal
from .serial import Serial, Split

__all__ = ["MGRIT", "Parareal", "Serial", "Solution", "Split", "describe", "rebuild"]
