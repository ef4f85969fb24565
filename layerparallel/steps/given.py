"""What a step is given in a chain, and what it would be given without: parameters, in a certain memory.

A chain gives plain tensors in place of parameters, and lays states out anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .comparing import same
from .state import State, differentiable

Given = Callable[[State, Sequence[Tensor]], State]
"""The value of a step of a state and of the tensors that it differentiates."""


def as_itself(plain: Tensor, like: Tensor) -> Tensor:
    """A plain tensor with the class and the attributes of another, a parameter."""
    if type(plain) is not type(like):
        plain = plain.as_subclass(type(like))
    plain.__dict__.update(vars(like))  # type: ignore[attr-defined]
    return plain


def themselves(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What a step has without a chain: parameters, here without a gradient."""
    return [as_itself(t.detach(), t) for t in tensors]


def as_laid_out(u: State) -> State:
    """A copy of a state, as it lies in memory."""
    return tuple(a.detach().clone() for a in u)


def in_order(u: State) -> State:
    """A copy of a state, its dimensions in the order of memory, as a chain's arrays have it."""
    return tuple(a.detach().clone(memory_format=torch.contiguous_format) for a in u)


def perturbed(p: Tensor) -> Tensor:
    """Other values of a parameter, for which no random numbers of the user's are drawn."""
    if not differentiable(p):
        return p
    shifts = 0.1 * torch.arange(p.numel(), device=p.device).cos().view(p.shape)  # of no mean or sum 0
    return as_itself(p.detach() + shifts.to(p.dtype), p)


def asks_for(step: Given, u: State, tensors: Sequence[Tensor], first: State) -> str | None:
    """What a chain does not keep, on which a step depends that has failed or changed its value in one.

    Args:
        first: its value when all was as it is without a chain.

    Returns:
        What to do about it, too; None if it depends on something else.
    """

    def unchanged(u: State, tensors: Sequence[Tensor]) -> bool:
        try:
            with torch.no_grad():
                return same(first, step(u, tensors), repeated=True)
        except Exception:
            return False

    if not unchanged(as_laid_out(u), themselves(tensors)):
        return None
    if not unchanged(as_laid_out(u), [t.detach() for t in tensors]):
        return (
            "the class or an attribute of a parameter, while a chain gives it plain tensors; keep what "
            "it asks for in the module"
        )
    if not unchanged(in_order(u), themselves(tensors)):
        strides = ", ".join(str(a.stride()) for a in u)
        return (
            f"the state's place in memory, of strides {strides}, while a chain lays it out anew; take "
            "reshape() in place of view(), or make it contiguous() in the opening"
        )
    return None
