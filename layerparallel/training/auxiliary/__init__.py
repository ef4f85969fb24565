"""Training with auxiliary variables: the stages of a network all at the same time."""

from .filters import Filter, LowRank, Pool, Rounded, Whole, parse
from .method import AuxiliaryMethod
from .settings import Auxiliary
from .store import Store

__all__ = [
    "Auxiliary",
    "AuxiliaryMethod",
    "Filter",
    "LowRank",
    "Pool",
    "Rounded",
    "Store",
    "Whole",
    "parse",
]
