"""What goes on around a chain: checkpoints, modes that change before the gradient, other transforms."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from twins import BODIES, SOLVERS, WIDTH, Block, entering, gradients, made


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


class Normed(Block):
    """Does otherwise in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(WIDTH).double(), nn.Dropout(0.5)

    def forward(self, u: Tensor) -> Tensor:
        return u + 0.1 * self.drop(torch.tanh(self.fc(self.norm(u))))


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluation_mode_before_the_gradient(body, solver):
    found = []
    for switched in (False, True):
        net, _ = made(Normed, body, solver)
        u = entering().requires_grad_()
        torch.manual_seed(3)
        out = net(u)
        if switched:
            net.eval()
        out.square().sum().backward()
        assert net.training is not switched
        assert all(part.training is not switched for part in net.modules())
        found.append([out, u.grad, *(p.grad for p in net.parameters()), *net.buffers()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
