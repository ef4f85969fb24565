"""What goes on around a chain: checkpoints, modes that change before the gradient, other transforms."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from twins import BODIES, SOLVERS, Block, entering, gradients, made


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_network_in_a_checkpoint(body, solver):
    """From the first call on, of which the examination is a part and the recomputation has none."""
    net, twin = made(Block, body, solver)
    for _ in range(2):
        found = []
        for module in (net, twin):
            module.zero_grad()
            u = entering().requires_grad_()
            checkpoint(module, u, use_reentrant=False).square().sum().backward()
            found.append([u.grad, *gradients(module)])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
