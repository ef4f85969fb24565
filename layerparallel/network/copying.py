"""Copies of modules whose hooks make tensors: weight norm, spectral norm, pruning of torch.nn.utils."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, device, nn
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from ..steps.contents import left_behind


@contextlib.contextmanager
def copyable(module: nn.Module, to: device | str | None = None) -> Iterator[None]:
    """Within it a module can be copied although hooks have left tensors with a graph in it.

    Such tensors are made anew at every call, so a copy needs no more than their values.

    Args:
        module: as it was before, afterwards.
        to: device of what hooks have left, for copies; where it is if None.

    Raises:
        RuntimeError: it holds other tensors with a graph, of which PyTorch makes no copies.
    """
    held = next(iter(left_behind(module)), None)
    if held is not None:
        raise RuntimeError(
            f"{held} of {type(module).__name__} is the result of a computation, and PyTorch copies no "
            "tensor with a graph; detach() it, or make it a parameter"
        )
    settle(module)
    made = [
        (part, name, value)
        for part in module.modules()
        for name, value in vars(part).items()
        if isinstance(value, Tensor) and value.grad_fn is not None
    ]
    for part, name, value in made:
        vars(part)[name] = value.detach().to(to)
    try:
        yield
    finally:
        for part, name, value in made:
            vars(part)[name] = value


def settle(module: nn.Module) -> None:
    """What hooks have left of steps evaluated many at once becomes plain: nothing reads it any more."""
    for part in module.modules():
        for name, value in vars(part).items():
            while isinstance(value, Tensor) and is_functorch_wrapped_tensor(value):
                vars(part)[name] = value = get_unwrapped(value)
