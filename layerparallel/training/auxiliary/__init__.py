"""Training with auxiliary variables: the stages of a network all at the same time."""

from layerparallel.training.auxiliary.filters import Filter, LowRank, Pool, Rounded, Whole, parse
from layerparallel.training.auxiliary.method import AuxiliaryMethod
from layerparallel.training.auxiliary.settings import Auxiliary
from layerparallel.training.auxiliary.store import Store

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
