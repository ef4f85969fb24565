"""Which closed form a layer has: a built-in one, or its own method ``closed_chain``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..steps.activations import CLOSED_FORM
from ..steps.layers import Convolution, Dense
from .chain import Chain
from .convolution import ConvolutionChain
from .dense import DenseChain
from .workspace import Workspace

Make = Callable[[dict[str, Tensor], int, float, Workspace], Chain | None]
"""From parameters, each (N, ...), N, the step size and a `Workspace` for large scratch tensors."""


def _weighted(
    chain: type[DenseChain | ConvolutionChain],
    layer: Dense | Convolution,
    parameters: dict[str, Tensor],
    depth: int,
    step_size: float,
    workspace: Workspace,
) -> Chain:
    activation = CLOSED_FORM[layer.activation]
    weight, bias = parameters["weight"], parameters["bias"]
    return chain(weight, bias, activation, depth, step_size, workspace=workspace)


BUILT_IN: dict[type, Callable[..., Chain]] = {
    Dense: partial(_weighted, DenseChain),
    Convolution: partial(_weighted, ConvolutionChain),
}


def _found(layer: nn.Module) -> tuple[type, Make] | None:
    """The class whose closed form a layer has, its own or a built-in one, and that form."""
    own: Any = layer
    for kind in type(layer).__mro__:
        if "closed_chain" in vars(kind):
            return kind, own.closed_chain
        if kind in BUILT_IN:
            return kind, partial(BUILT_IN[kind], layer)
    return None


def closed_form(layer: nn.Module) -> Make | None:
    """What makes a layer's chain in closed form; None where its form is not true of it.

    A forward of its own, hooks or parametrisations make it untrue.
    """
    found = _found(layer)
    if found is None:
        return None
    owner, make = found
    altered = type(layer).forward is not owner.forward or "forward" in vars(layer)
    hooks = (
        *(layer._forward_hooks, layer._forward_pre_hooks),
        *(layer._backward_hooks, layer._backward_pre_hooks),
    )
    return None if altered or is_parametrized(layer) or any(hooks) else make
