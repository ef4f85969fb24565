"""What may enter a chain, and leave it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..group.base import Group
from ..steps.state import State, as_state, differentiable, refuse_other_classes, refuse_sparse
from .driven import Driven


def refuse_transforms(tensors: Sequence[Tensor]) -> None:
    """Refuses to be transformed: only backward() knows a way through a solve.

    Raises:
        RuntimeError: called inside a torch.func transform.
        ValueError: called with dual numbers, for a derivative in forward mode.
    """
    if torch._C._functorch.maybe_current_level() is not None:  # type: ignore[attr-defined]
        raise RuntimeError(
            "torch.func transforms cannot pass through a layer-parallel network; "
            "transform net.to_serial() instead"
        )
    dual = forward_ad._current_level >= 0
    if dual and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise ValueError(
            "forward-mode derivatives (torch.autograd.forward_ad) cannot pass through a layer-parallel "
            "network; take them of net.to_serial() instead"
        )


def refuse_non_finite(u0: State, end: State) -> None:
    """Raises ValueError where the state that left a chain, or the one that entered it, is not finite."""
    if torch.is_autocast_enabled(u0[0].device.type):
        return  # overflow is the gradient scaler's business
    if u0[0].is_cuda and torch.cuda.is_current_stream_capturing():
        return
    if all(math.isfinite(abs(a.sum().item())) for a in end):  # quicker, unless the sum overflows
        return
    if all(bool(torch.isfinite(a).all()) for a in end):
        return
    if not all(bool(torch.isfinite(a).all()) for a in u0):
        raise ValueError(
            "the state that enters the chain holds NaN or infinity; check the input and the opening"
        )
    raise ValueError(
        "the state became NaN or infinite inside the chain; lower the learning rate or the step size h"
    )


def finite(group: Group, value: Any) -> Any:
    """What a chain has ended with on a layer group, if it is finite."""
    if not group.alone and not isinstance(value, Driven):
        state = as_state(value, "a state")
        refuse_non_finite(tuple(a.new_zeros(()) for a in state), state)
    return value


def fitting(tensors: Sequence[Tensor], u0: State, inputs: Sequence[Tensor]) -> State:
    """The first state as a chain of these tensors takes it: under autocast in 32 bits at least.

    Args:
        inputs: per step, of a driven chain.

    Raises:
        ValueError: it is on another device, or all parameters have another dtype; anything is of a class
            of its own, or sparse.
    """
    for given, what in ((u0, "the state"), (inputs, "the input per step")):
        refuse_sparse(given, what)
        refuse_other_classes(given, what)
    refuse_other_classes(tensors, "a parameter of the chain")
    dtypes = {p.dtype for p in tensors if differentiable(p)}
    places = {p.device for p in tensors}
    state = []
    for a in u0:
        if places and places != {a.device}:
            raise ValueError(
                f"the state is on {a.device} and the body's parameters on "
                f"{', '.join(sorted(map(str, places)))}; "
                "move the network and its input to one device"
            )
        autocast = torch.is_autocast_enabled(a.device.type)
        if autocast and a.is_floating_point():  # the opening's value may be too short for a chain
            state.append(a.float() if a.itemsize < 4 else a)
            continue
        (only,) = dtypes if len(dtypes) == 1 else (a.dtype,)
        moves = differentiable(a) or not any(map(differentiable, u0))
        if not autocast and moves and only != a.dtype and not only.is_complex:
            raise ValueError(
                f"the state is {a.dtype} and the body's parameters are {only}; "
                "convert the input or the network"
            )
        state.append(a)
    return tuple(state)
