"""Optimiser state in plain layer-by-layer names, to carry it between stacked and serial networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .network import Network

LayerwiseState = dict[str, dict[str, Any]]


def _names(module: nn.Module) -> dict[nn.Parameter, tuple[str, int]]:
    """Every parameter's plain name and its number of stacked layers, 0 if it is not stacked."""
    found = {}
    for name, parameter in module.named_parameters():
        found[parameter] = module.layer_name(name) if isinstance(module, Network) else (name, 0)
    return found


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> LayerwiseState:
    """The optimiser's state of a `Network` or of its serial twin, by layer-by-layer name.

    State tensors of a stacked parameter's shape are split along depth; everything else (step counts)
    goes to every layer.
    """
    state: LayerwiseState = {}
    for parameter, (name, layers) in _names(module).items():
        mine = optimizer.state.get(parameter)
        if mine is None:
            continue
        if not layers:
            state[name] = {key: _copy(value) for key, value in mine.items()}
            continue
        for n in range(layers):
            state[name.format(n=n)] = {
                key: _copy(value[n]) if _is_stacked(value, parameter) else _copy(value)
                for key, value in mine.items()
            }
    return state


def load_optimizer_state(
    module: nn.Module, optimizer: torch.optim.Optimizer, state: LayerwiseState
) -> None:
    """Puts layer-by-layer state into an optimiser of a `Network` or of a serial network.

    Raises:
        ValueError: the state lacks a parameter that the optimiser holds.
    """
    held = {p for group in optimizer.param_groups for p in group["params"]}
    for parameter, (name, layers) in _names(module).items():
        if parameter not in held or not state:
            continue
        keys = [name.format(n=n) for n in range(layers)] if layers else [name]
        missing = [key for key in keys if key not in state]
        if missing:
            raise ValueError(
                f"the optimiser state has no entry {missing[0]!r}; "
                "take it from a network of the same layers and depth"
            )
        if not layers:
            optimizer.state[parameter] = {k: _copy(v) for k, v in state[name].items()}
            continue
        first = state[keys[0]]
        single = parameter.shape[1:]
        optimizer.state[parameter] = {
            k: torch.stack([state[key][k] for key in keys])
            if isinstance(v, Tensor) and v.shape == single and (v.dim() or k != "step")
            else _copy(v)
            for k, v in first.items()
        }


def _is_stacked(value: object, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
