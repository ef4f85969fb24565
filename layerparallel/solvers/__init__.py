"""Solvers: frozen values that say how a chain is propagated."""

from .mgrit import MGRIT, Parareal
from .serial import Serial, Split
from ..solution import Solution

__all__ = ["MGRIT", "Parareal", "Serial", "Solution", "Split"]
