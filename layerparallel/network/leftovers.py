"""Graphs of steps that somebody else holds: what is computed of them gets no gradient of the chain's."""

from __future__ import annotations

import gc

from torch import nn

from ..chains.chain import Adjoint
from ..chains.generic import GenericAdjoint
from ..steps.contents import left_behind
from ..steps.remains import leaves_behind, made_by_hooks


def refuse_left_behind(steps: nn.Module, adjoint: Adjoint) -> None:
    """Refuses that steps have left graphs behind, after the gradient of a chain or where it has failed.

    Args:
        adjoint: freed, unless the graph is kept for another backward pass.

    Raises:
        ValueError: they have.
    """
    if not isinstance(adjoint, GenericAdjoint) or not adjoint.leaves or not (living := adjoint.living()):
        return
    taken = any(leaf.grad is not None for leaf in living)  # by a loss that did not go through the chain
    del living
    if not taken:
        if adjoint.keep or made_by_hooks(steps):
            return
        gc.collect()  # modules may hold each other in circles
        if not adjoint.living():
            return
    raise ValueError(leaves_behind("a step", left_behind(steps)))
