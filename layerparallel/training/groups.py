"""Parameters of a chain in the inner product of functions of time."""

from __future__ import annotations

from typing import Any

from torch import nn


def depth_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups for `LBFGS`: the body in the inner product of L2(0, T), the rest plain.

    ``h sum_n a_n·b_n`` approximates the integral of ``a(t)·b(t)``. In that inner product a layer's
    gradient is ``1/h`` times its derivative, so that the body of a deep network learns as fast as
    that of a shallow one, beside opening and closing.
    """
    given: Any = network
    chains = given.chains if hasattr(given, "chains") else [given.body]  # or a serial twin
    inside = {p for body in chains for p in body.parameters()}
    rest = [p for p in network.parameters() if p not in inside]
    groups = [{"params": list(body.parameters()), "metric": float(body.h)} for body in chains]
    return [*groups, {"params": rest}] if rest else groups
