"""What a module holds: parameters, and tensors among its attributes that require a gradient.

It is looked up in one walk at every propagation: users prune, unfreeze and replace between two of them.
"""

from __future__ import annotations

import inspect
from functools import cache

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
        seen.add(id(part))
        for name, p in part._parameters.items():
            if p is not None and id(p) not in seen:
                seen.add(id(p))
                parameters[prefix + name] = p
        for name, value in part.__dict__.items():
            if isinstance(value, Tensor) and value.requires_grad and name not in _made(part):
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
            if name in WITHIN or name in _made(part):
                continue
            for tensor in _tensors(value):
                if tensor.grad_fn is not None:
                    found[f"{prefix}.{name}" if prefix else name] = tensor
    return found


WITHIN = frozenset(["_parameters", "_buffers", "_modules"])


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    inside = value.values() if isinstance(value, dict) else value
    if isinstance(value, list | tuple | dict):
        return [each for each in inside if isinstance(each, Tensor)]  # type: ignore[union-attr]
    return []


def _made(part: nn.Module) -> set[str]:
    """Attributes that hooks of torch.nn.utils make anew at every call."""
    hooks = part._forward_pre_hooks.values()
    return {getattr(hook, "name", getattr(hook, "_tensor_name", "")) for hook in hooks}


def takes_time(module: nn.Module) -> bool:
    """Whether the module's forward has an argument named ``t``."""
    if "forward" in vars(module):
        return "t" in inspect.signature(module.forward).parameters
    return _takes_time(type(module))


@cache
def _takes_time(kind: type[nn.Module]) -> bool:
    return "t" in inspect.signature(kind.forward).parameters
