"""Optimiser state in plain layer-by-layer names, to carry it between networks and numbers of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..network.bodies import Body
from ..network.network import Chains, Network
from .optim import LBFGS

LayerwiseState = dict[str, dict[str, Any]]
COMMON = ""
"""What an optimiser knows of all parameters together stands under this name."""


@dataclass(frozen=True)
class Place:
    """Where a parameter is in its network.

    Attributes:
        pattern: its plain name, ``"body.{n}.weight"`` where it is stacked.
        rows: numbers of the layers that are stacked in it; None if it is not stacked.
    """

    pattern: str
    rows: range | None = None

    @property
    def names(self) -> list[str]:
        """Of all layers in it."""
        return [self.pattern] if self.rows is None else [self.pattern.format(n=n) for n in self.rows]

    def parted(self, value: Tensor, dim: int = 0) -> Iterator[tuple[str, Tensor]]:
        """A tensor of the parameter's shape, behind `dim` other dimensions, layer by layer."""
        parts = [value] if self.rows is None else value.unbind(dim)
        yield from zip(self.names, parts, strict=True)

    def joined(self, parts: list[Tensor], like: Tensor, before: tuple[int, ...] = ()) -> Tensor:
        """The inverse of `parted`; `like` is the parameter, `before` the other dimensions."""
        if self.rows is None:
            return parts[0].detach().clone()
        if not parts:
            return like.new_zeros((*before, *like.shape))
        return torch.stack(parts, dim=len(before))


def places(module: nn.Module) -> dict[nn.Parameter, Place]:
    """Every parameter's place; on a layer group those of this rank."""
    found = {}
    if not isinstance(module, Network):
        return {parameter: Place(name) for name, parameter in module.named_parameters()}
    bodies = {f"{prefix}.": body for prefix, body in _bodies(module).items()}
    for name, parameter in module.named_parameters():
        found[parameter] = Place(name)
        for prefix, body in bodies.items():
            if name.startswith(prefix):
                pattern, stacked = body.layer_name(name.removeprefix(prefix))
                found[parameter] = Place(prefix + pattern, body.block if stacked else None)
    return found


def _bodies(network: Network) -> dict[str, Body]:
    several = isinstance(network.body, Chains)
    return {
        f"body.{k}" if several else "body": part
        for k, part in enumerate(network.parts)
        if isinstance(part, Body)
    }


def chains(module: nn.Module) -> dict[str, int]:
    """Of every chain of stacked layers the beginning of their names, ``"body."``, and its depth."""
    if not isinstance(module, Network):
        return {}
    return {
        f"{prefix}.": body.depth
        for prefix, body in _bodies(module).items()
        if any(body.layer_name(name)[1] for name, _ in body.named_parameters())
    }


# ---- from an optimiser --------------------------------------------------------------------------


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> LayerwiseState:
    """The optimiser's state of a `Network` or of its serial twin, by layer-by-layer name.

    State tensors of a stacked parameter's shape are split along depth; single numbers (step counts)
    go to every layer. What `LBFGS` knows of all parameters together stands under `COMMON`. On a layer
    group it is the state of this rank's layers.

    Raises:
        ValueError: the optimiser keeps something that does not belong to single layers.
    """
    return {
        name: {key: _copy(value) for key, value in kept.items()}
        for name, kept in _state(module, optimizer).items()
    }


def _state(module: nn.Module, optimizer: torch.optim.Optimizer) -> LayerwiseState:
    """The same in the optimiser's own memory."""
    if isinstance(optimizer, LBFGS):
        return _lbfgs_state(module, optimizer)
    state: LayerwiseState = {}
    for parameter, place in places(module).items():
        mine = optimizer.state.get(parameter)
        if mine is None:
            continue
        for name in place.names:
            state[name] = {}
        for key, value in mine.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and key != "step":
                for name, part in place.parted(value):
                    state[name][key] = part
                continue
            if place.rows is not None and isinstance(value, Tensor) and value.numel() > 1:
                raise ValueError(
                    f"{type(optimizer).__name__} keeps {key} of shape {tuple(value.shape)} for "
                    f"{place.pattern} of shape {tuple(parameter.shape)}, which cannot be split by "
                    "layer; use an optimiser whose state has the parameters' shapes"
                )
            for name in place.names:
                state[name][key] = value
    return state


def _lbfgs_state(module: nn.Module, optimizer: LBFGS) -> LayerwiseState:
    params = _params(optimizer)
    kept = dict(optimizer.state.get(params[0], {}))
    if not kept:
        return {}
    where, state = places(module), LayerwiseState()
    flat = {key: kept.pop(key) for key in ("basis", "point") if isinstance(kept[key], Tensor)}
    state[COMMON] = kept
    for key, value in flat.items():
        for parameter, piece in zip(params, _pieces(value, params), strict=True):
            for name, part in where[parameter].parted(piece, dim=value.dim() - 1):
                state.setdefault(name, {})[key] = part
    return state


def _pieces(flat: Tensor, params: list[nn.Parameter]) -> list[Tensor]:
    """A tensor over all parameters in a row, (..., n), in their shapes."""
    before = flat.shape[:-1]
    parts = flat.split([p.numel() for p in params], dim=-1)
    return [part.reshape(*before, *p.shape) for part, p in zip(parts, params, strict=True)]


# ---- into an optimiser --------------------------------------------------------------------------


def load_optimizer_state(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: LayerwiseState,
    *,
    strict: bool = True,
) -> None:
    """Puts layer-by-layer state into an optimiser of a `Network` or of a serial network.

    Args:
        strict: False for a state that need not have all the parameters that the optimiser holds:
            one whose gradient is never taken has none.

    Raises:
        ValueError: the state lacks a parameter that the optimiser holds, or a part of one.
    """
    if not state:
        return
    params, where = _params(optimizer), places(module)
    if isinstance(optimizer, LBFGS):
        loaded = {0: _joined_lbfgs(params, where, state)}
    else:
        loaded = {}
        for number, parameter in enumerate(params):
            place = where.get(parameter)
            there = [name for name in place.names if name in state] if place else []
            if place is None or not place.names or (not there and not strict):
                continue
            _check_complete(place, state)
            loaded[number] = _joined(place, parameter, [state[name] for name in place.names])
    # Through the optimiser's own means, which put every tensor where it is to be.
    optimizer.load_state_dict({**optimizer.state_dict(), "state": loaded})


def _check_complete(place: Place, state: LayerwiseState) -> None:
    missing = next((name for name in place.names if name not in state), None)
    if missing is not None:
        raise ValueError(
            f"the optimiser state has no entry {missing!r}; take it from a network of the same layers "
            "and depth"
        )


def _joined(place: Place, parameter: Tensor, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The state of a parameter from that of its layers."""
    single, found = parameter.shape if place.rows is None else parameter.shape[1:], {}
    for key, value in parts[0].items():
        if isinstance(value, Tensor) and value.shape == single and key != "step":
            found[key] = place.joined([part[key] for part in parts], parameter)
            continue
        if any(not _same(part[key], value) for part in parts):
            raise ValueError(
                f"the optimiser state has several values of {key!r} for the layers of "
                f"{place.pattern}, which are stacked; train them together"
            )
        found[key] = _copy(value)
    return found


def _joined_lbfgs(
    params: list[nn.Parameter], where: Mapping[nn.Parameter, Place], state: LayerwiseState
) -> dict[str, Any]:
    found: dict[str, Any] = {"point": None}
    for parameter in params:
        _check_complete(where[parameter], state)
    for key in ("basis", "point"):
        pieces = []
        for parameter in params:
            parts = [state[name][key] for name in where[parameter].names if key in state[name]]
            single = parameter.dim() - (where[parameter].rows is not None)
            before = next((tuple(p.shape[: p.dim() - single]) for p in parts), None)
            pieces.append((parameter, parts, before))
        before = next((each for _, _, each in pieces if each is not None), None)
        if before is not None:
            joined = [where[p].joined(parts, p, before).reshape(*before, -1) for p, parts, _ in pieces]
            found[key] = torch.cat(joined, dim=-1)
    return {**found, **{key: _copy(value) for key, value in state[COMMON].items()}}


# ---- with the settings --------------------------------------------------------------------------


def optimizer_state_dict(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State by layer-by-layer name, and settings of the groups (learning rates); for checkpoints.

    The tensors are the optimiser's own, as in its `state_dict`.

    Of an optimiser whose state cannot be split by layer it is what its own `state_dict` says, under
    the rank that it is of; it can be taken back on as many ranks.
    """
    groups = [{k: v for k, v in each.items() if k != "params"} for each in optimizer.param_groups]
    try:
        return {"state": _state(module, optimizer), "groups": groups}
    except ValueError:
        return {"whole": {_rank(module): optimizer.state_dict()}}


def load_optimizer_state_dict(
    module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Takes back what `optimizer_state_dict` gave, on any number of ranks.

    Raises:
        ValueError: it is of other layers, of other groups, or cannot be split.
    """
    if "whole" in state:
        if _rank(module) not in state["whole"]:
            raise ValueError(
                f"the state of {type(optimizer).__name__} cannot be split by layer, so it fits rank "
                f"{' and '.join(state['whole'])}, not {_rank(module)}; take as many ranks"
            )
        optimizer.load_state_dict(state["whole"][_rank(module)])
        return
    if len(state["groups"]) != len(optimizer.param_groups):
        raise ValueError(
            f"the state has {len(state['groups'])} groups of parameters and the optimiser "
            f"{len(optimizer.param_groups)}; make it with the same groups"
        )
    if not state["state"]:
        optimizer.state.clear()
    for group, saved in zip(optimizer.param_groups, state["groups"], strict=True):
        group.update(saved)
    load_optimizer_state(module, optimizer, state["state"], strict=False)


def _rank(module: nn.Module) -> str:
    group = getattr(module, "group", None)
    return "0 of 1" if group is None else f"{group.rank} of {group.size}"


def _params(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and a == b


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
