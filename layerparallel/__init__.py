"""layerparallel: deep residual networks trained in parallel across their layers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import errors as errors  # first: Ctrl-C may come while torch is imported
from .network import Body, Driven, Network, SerialNetwork, chain
from .solvers import MGRIT, Parareal, Serial, Solution, Split
from .steps.layers import Convolution, Dense, Hamiltonian
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .network.distribution import distribute
    from .network.refinement import refine
    from .network.tuning import tune
    from .parareal import PararealNetwork, parareal_network, warp
    from .training.adaptive import Adaptive
    from .training.backprop import Backprop
    from .training.groups import depth_groups
    from .training.layerwise import load_optimizer_state, optimizer_state
    from .training.objective import Objective
    from .training.one_shot import OneShot
    from .training.optim import LBFGS

_LAZY: dict[str, str] = {
    "Adaptive": "training.adaptive",
    "Backprop": "training.backprop",
    "LBFGS": "training.optim",
    "Objective": "training.objective",
    "OneShot": "training.one_shot",
    "PararealNetwork": "parareal",
    "depth_groups": "training.groups",
    "distribute": "network.distribution",
    "refine": "network.refinement",
    "load_optimizer_state": "training.layerwise",
    "optimizer_state": "training.layerwise",
    "parareal_network": "parareal",
    "tune": "network.tuning",
    "warp": "parareal",
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
