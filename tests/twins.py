"""Chains of blocks beside their plain twins."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import layerparallel as lp

DEPTH, WIDTH = 6, 4
SOLVERS = {
    "serial": lp.Serial(),
    "recomputed": lp.Serial("recompute"),
    "mgrit": lp.MGRIT(coarsening=2, forward_cycles=4, adjoint_cycles=4, guard=False),
    "mgrit recomputed": lp.MGRIT(
        coarsening=2, forward_cycles=4, adjoint_cycles=4, guard=False, memory="recompute"
    ),
}
"""All are exact: with as many cycles as intervals, and one more."""
BODIES = ("unlike", "stacked", "tied")


class Block(nn.Module):
    """``u + 0.1 tanh(W u + b)``, and `more` of it."""

    def __init__(self, more: Callable[[Any, Tensor], Tensor] | None = None):
        super().__init__()
        self.fc, self.more = nn.Linear(WIDTH, WIDTH), more
        self.double()

    def forward(self, u: Tensor) -> Tensor:
        v = torch.tanh(self.fc(u))
        return u + 0.1 * (v if self.more is None else self.more(self, v))


def chained(blocks: list[Any], body: str) -> Any:
    if body == "tied":
        return lp.chain(blocks[0], DEPTH, integrator="block", tied=True)
    return lp.chain(blocks, integrator="block", stacked=body == "stacked")


def made(block: Callable[[], nn.Module], body: str, solver: str = "serial") -> tuple[Any, Any]:
    """A chain as a network, and its plain twin of other modules with the same parameters."""
    torch.manual_seed(0)
    blocks = [block() for _ in range(1 if body == "tied" else DEPTH)]
    twins = copy.deepcopy(blocks)
    net = lp.Network(None, chained(blocks, body), None, SOLVERS[solver])
    return net, nn.Sequential(*(twins * DEPTH if body == "tied" else twins))


def entering() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(5, WIDTH, dtype=torch.double)


def refusal(net: nn.Module, u: Tensor | tuple[Tensor, ...]) -> str:
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
        net(u).sum().backward()
    return str(caught.value)


def assert_twins(net: Any, twin: Any, u: Tensor) -> None:
    """Output, gradient of the input and every gradient are those of the twin."""
    results = []
    for module in (net, twin):
        module.zero_grad(set_to_none=True)
        given = u.clone().requires_grad_()
        out = module(given)
        out.square().sum().backward()
        results.append([out, given.grad, *gradients(module)])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def gradients(module: Any) -> list[Tensor | None]:
    """Layer by layer."""
    if isinstance(module, nn.Sequential):
        return [p.grad for p in module.parameters()]
    body = module.body
    if hasattr(body, "names") and isinstance(body.names, tuple) and hasattr(body, "held"):  # stacked
        rows = [p.grad for p in body.layer.parameters()]
        return [None if g is None else g[n] for n in range(DEPTH) for g in rows]
    return [p.grad for p in body.parameters()]
