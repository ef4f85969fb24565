"""layerparallel: deep residual networks trained in parallel across their layers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .body import Body, Driven, chain
from .layers import Convolution, Dense, Hamiltonian
from .network import Network, SerialNetwork
from .solution import Solution
from .solvers import MGRIT, Parareal, Serial, Split

if TYPE_CHECKING:
    from .distribution import distribute
    from .layerwise import load_optimizer_state, optimizer_state
    from .optim import LBFGS, depth_groups
    from .refinement import refine
    from .subnetworks import PararealNetwork, parareal_network, warp
    from .training.adaptive import Adaptive
    from .training.backprop import Backprop
    from .training.objective import Objective
    from .training.one_shot import OneShot
    from .tuning import tune

__version__ = "0.1.0"

_LAZY: dict[str, str] = {
    "Adaptive": "training.adaptive",
    "Backprop": "training.backprop",
    "LBFGS": "optim",
    "Objective": "training.objective",
    "OneShot": "training.one_shot",
    "PararealNetwork": "subnetworks",
    "depth_groups": "optim",
    "distribute": "distribution",
    "refine": "refinement",
    "load_optimizer_state": "layerwise",
    "optimizer_state": "layerwise",
    "parareal_network": "subnetworks",
    "tune": "tuning",
    "warp": "subnetworks",
}
"""Names that are loaded when they are used: `import layerparallel` needs torch alone."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "LBFGS",
    "MGRIT",
    "Adaptive",
    "Backprop",
    "Body",
    "Convolution",
    "Dense",
    "Driven",
    "Hamiltonian",
    "Network",
    "Objective",
    "OneShot",
    "Parareal",
    "PararealNetwork",
    "Serial",
    "SerialNetwork",
    "Solution",
    "Split",
    "chain",
    "depth_groups",
    "distribute",
    "load_optimizer_state",
    "optimizer_state",
    "parareal_network",
    "refine",
    "tune",
    "warp",
]
