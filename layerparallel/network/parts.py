"""The body of a network of several chains: chains and transitions in order."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .bodies import Body


class Chains(nn.ModuleList):
    """Several chains, with transitions between them where the state changes its shape."""


def checked_chains(parts: Sequence[nn.Module]) -> Chains:
    """A sequence of chains and transitions as a module.

    Raises:
        TypeError: it is no such sequence.
        ValueError: it holds no chain.
    """
    if not isinstance(parts, Sequence | nn.ModuleList):
        raise TypeError(
            f"body is a {type(parts).__name__}; make one by layerparallel.chain(layer, depth), or give "
            "a sequence of chains and transitions"
        )
    for part in parts:
        if not isinstance(part, nn.Module):
            raise TypeError(
                f"the body holds a {type(part).__name__}; give chains and modules, the transitions"
            )
    if not any(isinstance(part, Body) for part in parts):
        raise ValueError(
            f"none of the {len(parts)} modules of the body is a chain; make them by "
            "layerparallel.chain(layer, depth)"
        )
    return Chains(parts)
