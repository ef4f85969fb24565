"""The objective's regularisation terms: values by hand, gradients against finite differences."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import layerparallel as lp
from layerparallel.training.objective import Objective


def network(depth: int = 6, T: float = 1.5, **options) -> lp.Network:
    torch.manual_seed(0)
    body = lp.chain(lp.Dense(3), depth=depth, T=T, initial="independent", **options)
    return lp.Network(nn.Linear(2, 3), body, nn.Linear(3, 4)).double()


def nothing(output: Tensor, target: Tensor) -> Tensor:
    return torch.zeros((), dtype=output.dtype)


TERMS = {
    "tikhonov": Objective(nothing, tikhonov=0.7),
    "smoothness": Objective(nothing, smoothness=0.3),
    "smoothness without h": Objective(nothing, smoothness=1e-5, weighted=False),
    "closing": Objective(nothing, closing=1.9),
    "all": Objective(nothing, tikhonov=0.7, smoothness=0.3, closing=1.9),
}


@pytest.mark.parametrize("objective", TERMS.values(), ids=TERMS.keys())
def test_gradient_of_each_term_equals_central_differences(objective):
    net = network()
    objective.penalty(net).backward()
    size = max(p.grad.abs().max().item() for p in net.parameters() if p.grad is not None)
    assert size > 0
    step = 1e-3  # the terms are quadratic: central differences are exact but for rounding
    for name, parameter in net.named_parameters():
        flat = parameter.detach().view(-1)
        for i in range(flat.numel()):
            values = []
            for sign in (1, -1):
                flat[i] += sign * step
                values.append(objective.penalty(net).item())
                flat[i] -= sign * step
            slope = (values[0] - values[1]) / (2 * step)
            found = 0.0 if parameter.grad is None else parameter.grad.view(-1)[i].item()
            assert abs(found - slope) < 1e-9 * size + 1e-12, (name, i)


def test_whole_objective_passes_gradcheck():
    """Through the network, criterion and regularisation together."""
    net = network(depth=4)
    x, y = torch.randn(5, 2, dtype=torch.float64), torch.arange(5) % 4
    objective = Objective(F.cross_entropy, tikhonov=0.1, smoothness=0.2, closing=0.3)
    params = list(net.parameters())

    def loss(*_: Tensor) -> Tensor:
        return objective(net, net(x), y)

    assert torch.autograd.gradcheck(loss, params)


def test_values_by_hand():
    net = network()
    layers = net.to_serial().body
    assert isinstance(layers, nn.ModuleList)
    theta = [torch.cat([p.detach().flatten() for p in layer.parameters()]) for layer in layers]
    h = 1.5 / 6
    squares = sum((t @ t).item() for t in theta)
    jumps = [(b - a) / h for a, b in pairwise(theta)]
    rough = sum((j @ j).item() for j in jumps)
    mu = torch.cat([p.detach().flatten() for p in net.closing.parameters()])
    for objective, expected in (
        (Objective(nothing, tikhonov=0.7), 0.35 * squares),
        (Objective(nothing, smoothness=0.3), 0.15 * h * rough),
        (Objective(nothing, smoothness=0.3, weighted=False), 0.15 * rough),
        (Objective(nothing, closing=1.9), 0.95 * (mu @ mu).item()),
    ):
        assert objective.penalty(net).item() == pytest.approx(expected, rel=1e-12)


def smooth_network(depth: int) -> lp.Network:
    """theta(t) = cos(t) in every entry, sampled at t = n h."""
    net = network(depth=depth)
    with torch.no_grad():
        for p in net.body.parameters():
            t = torch.arange(depth, dtype=p.dtype) * net.body.h
            p.copy_(t.cos().view(-1, *[1] * (p.dim() - 1)).expand_as(p))
    return net


def test_smoothness_does_not_grow_with_depth():
    """It tends to the integral of |dtheta/dt|^2; the form without h doubles with the depth."""
    integral = 12 * 0.5 * (1.5 / 2 - math.sin(3.0) / 4)  # 9 weights and 3 biases, sin^2 over [0, 1.5]
    weighted = [Objective(nothing, smoothness=1.0).penalty(smooth_network(n)).item() for n in (256, 512)]
    plain = [
        Objective(nothing, smoothness=1.0, weighted=False).penalty(smooth_network(n)).item()
        for n in (256, 512)
    ]
    assert weighted == pytest.approx([integral, integral], rel=1e-2)
    assert plain[1] / plain[0] == pytest.approx(2.0, rel=1e-2)


def test_weights_are_not_cut_to_integers():
    """A smoothness weight far below 1 still has a gradient, of the size the weight says."""
    gradients = []
    for weight in (1.0, 1e-5):
        net = network()
        Objective(nothing, smoothness=weight, weighted=False).penalty(net).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.body.parameters()]))
    torch.testing.assert_close(gradients[1], 1e-5 * gradients[0])
    assert gradients[1].abs().max() > 0


def test_shared_parameters_have_no_jumps():
    torch.manual_seed(0)
    net = lp.Network(None, lp.chain(lp.Dense(3), depth=3, T=1.0, tied=True), None)
    assert Objective(nothing, smoothness=1.0).penalty(net).item() == 0.0
    squares = sum(p.square().sum().item() for p in net.body.parameters())
    found = Objective(nothing, tikhonov=1.0, closing=1.0).penalty(net).item()
    assert found == pytest.approx(0.5 * squares)


def test_gradient_scales_with_what_comes_in():
    """As GradScaler needs it, and a second backward pass accumulates."""
    objective = TERMS["all"]
    one, two = network(), network()
    objective.penalty(one).backward()
    (3 * objective.penalty(two)).backward()
    objective.penalty(two).backward()
    for a, b in zip(one.body.parameters(), two.body.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(4 * a.grad, b.grad)


def test_without_weights_nothing_is_added():
    net, x, y = network(), torch.randn(3, 2, dtype=torch.float64), torch.tensor([0, 1, 2])
    output = net(x)
    assert Objective(F.cross_entropy)(net, output, y).item() == F.cross_entropy(output, y).item()


@pytest.mark.parametrize("name", ["tikhonov", "smoothness", "closing"])
@pytest.mark.parametrize("value", [-1e-7, math.inf, math.nan])
def test_bad_weights_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} = "):
        Objective(nothing, **{name: value})
