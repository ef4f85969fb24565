"""What a module holds: parameters, and tensors among its attributes that require a gradient.

It is looked up in one walk at every propagation: users prune, unfreeze and replace between two of them.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


def contents(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters by name, and what else is held by its name: what a propagation differentiates.

    Held are attributes that are tensors with a gradient to get and no parameters: an encoder's output,
    say. Left out is what a hook makes anew at every call, as those of weight norm and of pruning do.
    """
    parameters: dict[str, Tensor] = {}
    held: dict[str, Tensor] = {}
    seen: set[int] = set()

    def visit(prefix: str, part: nn.Module) -> None:
        refuse_scripted(part)
        seen.add(id(part))
        for name, p in part._parameters.items():
            if p is not None and id(p) not in seen:
                seen.add(id(p))
                parameters[prefix + name] = p
        for name, value in part.__dict__.items():
            kind = type(value)
            if kind in PASSED:
                continue
            if kind in CONTAINERS:
                if value and name not in INTERNAL:
                    _refuse_inside(prefix + name, value, part)
            elif isinstance(value, Tensor) and value.requires_grad and name not in remade(part):
                held[prefix + name] = value
        for name, child in part._modules.items():
            if child is not None and id(child) not in seen:
                visit(f"{prefix}{name}.", child)

    visit("", module)
    return parameters, held


def left_behind(module: nn.Module) -> dict[str, Tensor]:
    """Tensors with a graph among a module's attributes, or in their lists, tuples and dicts."""
    found = {}
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name in WITHIN or name in remade(part):
                continue
            for tensor in _tensors(value):
                if tensor.grad_fn is not None:
                    found[f"{prefix}.{name}" if prefix else name] = tensor
    return found


WITHIN = frozenset(["_parameters", "_buffers", "_modules"])
CONTAINERS = frozenset([list, tuple, dict])
PASSED = frozenset([type(None), bool, int, float, str, set, OrderedDict])
"""Kinds of most attributes, in which nothing is looked for."""
INTERNAL = frozenset(vars(nn.Module()))
"""What every module has."""


def _refuse_inside(name: str, value: Any, part: nn.Module) -> None:
    """Refuses tensors that have a gradient to get and stand in a container, where none can replace them.

    Raises:
        ValueError: there is one.
    """
    own = set(map(id, part._parameters.values()))
    if any(tensor.requires_grad and id(tensor) not in own for tensor in _tensors(value)):
        raise ValueError(
            f"a step holds a tensor that requires a gradient in the {type(value).__name__} {name}, "
            "where its gradient would be lost; make it an attribute of its own"
        )


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    inside = value.values() if isinstance(value, dict) else value
    if isinstance(value, list | tuple | dict):
        return [each for each in inside if isinstance(each, Tensor)]  # type: ignore[union-attr]
    return []


def remade(part: nn.Module) -> set[str]:
    """Attributes that hooks of torch.nn.utils make anew at every call."""
    hooks = part._forward_pre_hooks.values()
    return {getattr(hook, "name", getattr(hook, "_tensor_name", "")) for hook in hooks} - {""}


def refuse_scripted(part: nn.Module) -> None:
    """Refuses what cannot be evaluated with other parameters than its own.

    Raises:
        ValueError: it is scripted.
    """
    if isinstance(part, torch.jit.ScriptModule):
        raise ValueError(
            f"{part.original_name} is scripted, so that its parameters cannot be replaced; give the "
            "module that was scripted"
        )


def takes_time(module: nn.Module) -> bool:
    """Whether the module's forward has an argument named ``t``."""
    refuse_scripted(module)
    if "forward" in vars(module):
        return "t" in inspect.signature(module.forward).parameters
    return _takes_time(type(module))


@cache
def _takes_time(kind: type[nn.Module]) -> bool:
    return "t" in inspect.signature(kind.forward).parameters
