"""Parameters stacked along depth: first values, and the names of a state_dict layer by layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .body import Body

Initial = Literal["smooth", "tied", "independent"]
INITIAL: tuple[Initial, ...] = get_args(Initial)


def initial_stacks(template: nn.Module, depth: int, initial: Initial) -> dict[str, Tensor]:
    """Initial values (N, ...) of every parameter; each layer has the spread of a single one.

    "smooth" blends two draws by cos and sin of pi n / 2N, which keeps the variance.

    Raises:
        ValueError: a parameter of random values that no `reset_parameters` draws anew.
    """
    if initial == "tied" or depth == 1:
        draws = [template]
    elif initial == "smooth":
        draws = [template, _redrawn(template)]
    else:
        draws = [template, *(_redrawn(template) for _ in range(depth - 1))]
    stacks = {}
    for name, first in template.named_parameters():
        values = [dict(draw.named_parameters())[name].detach() for draw in draws]
        if all(torch.equal(first, value) for value in values[1:]):
            random = first.unique().numel() > max(1, first.numel() // 2)  # not zeros, ones, eye
            if len(values) > 1 and random and "parametrizations." not in name:
                raise ValueError(
                    f"initial={initial!r} cannot draw {name} anew for other layers, since its module "
                    "has no reset_parameters(); add one or use initial='tied'"
                )
            stack = first.detach().expand(depth, *first.shape)  # the same in every draw: 1 or 0
        elif initial == "independent":
            stack = torch.stack(values)
        else:
            angle = torch.linspace(0, math.pi / 2, depth, dtype=first.dtype, device=first.device)
            angle = angle.view(depth, *[1] * first.dim())
            stack = values[0] * angle.cos() + values[1] * angle.sin()
        stacks[name] = stack.clone()
    return stacks


def _redrawn(template: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(template)
    for part in fresh.modules():
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()
    return fresh


def replace_parameters(module: nn.Module, value: Callable[[nn.Parameter], Tensor]) -> None:
    """Gives every parameter another value, in all the places of a shared one."""
    made: dict[Tensor, nn.Parameter] = {}
    for part in module.modules():
        for leaf, old in part._parameters.items():
            if old is not None:
                if old not in made:
                    made[old] = nn.Parameter(value(old), requires_grad=old.requires_grad)
                part._parameters[leaf] = made[old]


def to_layers(body: Body, state: dict, prefix: str, metadata: dict) -> None:
    """state_dict in plain layer-by-layer names; buffers, which a stack has in common, in each."""
    parameters = {name for name, _ in body.named_parameters(remove_duplicate=False)}
    for key in [key for key in state if key.startswith(prefix)]:
        name, value = key.removeprefix(prefix), state.pop(key)
        pattern, stacked = body.layer_name(name)
        if not stacked:
            state[prefix + pattern] = value
            continue
        for n in range(body.depth):
            state[prefix + pattern.format(n=n)] = value[n] if name in parameters else value


def from_layers(
    body: Body, state: dict, prefix: str, metadata: dict, strict: bool, missing: list, *_: object
) -> None:
    """The names that `to_layers` gave, back into those of the stacks, before a state is loaded.

    Raises:
        ValueError: some layers are missing, or a buffer is not the same in all of them.
    """
    parameters = [name for name, _ in body.named_parameters(remove_duplicate=False)]
    buffers = [name for name, _ in body.named_buffers(remove_duplicate=False)]
    for name in parameters + buffers:
        pattern, stacked = body.layer_name(name)
        if not stacked:
            if prefix + pattern in state:
                state[prefix + name] = state.pop(prefix + pattern)
            continue
        keys = [prefix + pattern.format(n=n) for n in range(body.depth)]
        found = [key for key in keys if key in state]
        if len(found) == len(keys):
            values = [state.pop(key) for key in keys]
            if name in parameters:
                state[prefix + name] = torch.stack(values)
            elif all(torch.equal(values[0], value) for value in values):
                state[prefix + name] = values[0]
            else:
                raise ValueError(
                    f"the {body.depth} layers have different buffers {name}, and a stack has one "
                    "for all; make it a parameter, or the chain one of unlike modules"
                )
        elif found:
            gone = next(key for key in keys if key not in state)
            raise ValueError(
                f"the state dict has {len(found)} of the {body.depth} layers' {name} ({gone} is "
                "not there); load it into a network of its own depth"
            )
