"""What goes on around a chain: checkpoints, modes that change before the gradient, other transforms."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
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


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_batch_of_gradients_is_right_or_refused(body, solver):
    net, twin = made(Block, body, solver)
    found = []
    for module in (net, twin):
        u = entering().requires_grad_()
        many = torch.eye(u.numel(), dtype=u.dtype).view(-1, *u.shape)
        out = module(u)
        if module is net and "mgrit" in solver:
            with pytest.raises(ValueError, match="take no batch of gradients"):
                torch.autograd.grad(out, u, many, is_grads_batched=True)
            return
        found.append(torch.autograd.grad(out, u, many, is_grads_batched=True)[0])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("grad", [False, True])
def test_derivatives_in_forward_mode_are_refused(body, grad):
    net, _ = made(Block, body)
    u = entering()
    with torch.set_grad_enabled(grad), forward_ad.dual_level():
        net(u)
        with pytest.raises(ValueError, match=r"forward-mode derivatives .* of net\.to_serial\(\)"):
            net(forward_ad.make_dual(u, u))
        value = net.to_serial()(forward_ad.make_dual(u, u))
        assert forward_ad.unpack_dual(value).tangent is not None
