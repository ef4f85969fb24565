"""Where training with auxiliary variables ends: stationary points, and networks that have learned."""

from typing import Any

import pytest
import torch
from auxiliary_problem import (
    Block,
    batch,
    close,
    images,
    step,
    train,
)
from torch import Tensor, nn
from torch.nn import functional as F

from layerparallel.data.digits import digits
from layerparallel.models.vae import resnet_vae, vae_loss
from layerparallel.staged import Staged
from layerparallel.training.auxiliary import Auxiliary, AuxiliaryMethod

# ---- stationary points --------------------------------------------------------------------------


def linear() -> tuple[Staged, Tensor, Tensor]:
    """Three linear stages, which with a quadratic loss make a convex problem in λ."""
    torch.manual_seed(2)
    net = nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)]).double()
    return Staged(net, (1, 2)), torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4).double()


def settled(kind: str, **settings: Any) -> tuple[AuxiliaryMethod, Tensor, Tensor]:
    net, x, y = linear()
    settings |= {"stages": 3, "serial_start": 0, "scale": "sum", "multiplier_rate": 1.0}
    chosen = Auxiliary(method=kind, **settings)  # type: ignore[arg-type]
    method = AuxiliaryMethod(
        net,
        chosen,
        lambda output, target: (output - target).square().sum(1).mean() / 2,
        lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        lambda index: x[index],
        len(x),
    )
    for _ in range(500):
        step(method, batch(x, y, torch.arange(6)))
    return method, x, y


def test_the_penalty_method_ends_where_the_violation_is_the_adjoint():
    """2 β (λ - x) = -a, a the gradient of what follows by λ; of the last stage that of φ."""
    method, x, y = settled("penalty", beta=2.0)
    first, middle, last = (method.network.stage(k) for k in range(3))
    one, two = (method.store.take(k, torch.arange(6))[0].requires_grad_() for k in (1, 2))
    with torch.no_grad():
        start, between = first(x), middle(one)
    adjoint = torch.autograd.grad((last(two) - y).square().sum() / 2, two)[0]
    close(2 * 2.0 * (two - between).detach(), -adjoint)
    adjoint = torch.autograd.grad(2.0 * (two.detach() - middle(one)).square().sum(), one)[0]
    close(2 * 2.0 * (one - start).detach(), -adjoint)
    assert float((two - between).detach().norm()) > 0.1


@pytest.mark.parametrize("rule", ["estimated", "derived"])
def test_multipliers_become_the_adjoint_and_close_the_gaps(rule):
    method, x, y = settled("augmented", beta=2.0, multiplier_step=rule)
    u, states = x, []
    for k in range(3):
        states.append(u := method.network.stage(k)(u))
    loss = (states[2] - y).square().sum() / 2
    adjoints = torch.autograd.grad(loss, states[:2])
    for k, (state, adjoint) in enumerate(zip(states, adjoints, strict=False), start=1):
        found, kappa = method.store.take(k, torch.arange(6))
        torch.testing.assert_close(found, state.detach(), rtol=1e-7, atol=1e-7)
        assert kappa is not None
        torch.testing.assert_close(kappa, adjoint, rtol=1e-6, atol=1e-6)


# ---- whole trainings ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "penalty"},
        {"method": "augmented"},
        {"method": "penalty", "filter": "pool:2+int8"},
        {"method": "augmented", "filter": "lowrank:2+bf16"},
        {"regenerate": True},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_digits_are_learned_without_any_serial_epoch(settings):
    data = digits()
    x, y = data.train_x / 128 - 1, data.train_y
    torch.manual_seed(0)
    blocks = [Block(8) for _ in range(5)]
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *blocks, nn.Flatten(), nn.Linear(512, 10))
    method = AuxiliaryMethod(
        Staged(net, (2, 4)),
        Auxiliary(stages=3, serial_start=0, **settings),
        F.cross_entropy,
        lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
        lambda index: x[index],
        len(x),
    )
    train(method, x, y, range(6), size=32)
    with torch.no_grad():
        output = method.network(data.validation_x / 128 - 1)
    right = (output.argmax(1) == data.validation_y).double().mean()
    assert float(right) > 0.88
    assert all(0 < each < 0.5 for each in method.violations)


def test_an_autoencoder_has_its_inputs_for_targets():
    _, y = images()
    waves = torch.sin(torch.arange(8) * (1 + y[:, None]))
    x = (waves > 0).float()[:, None, :, None].expand(-1, 2, 8, 8).contiguous()  # three kinds of stripes
    torch.manual_seed(0)
    net = Staged(resnet_vae(14, latent=3, in_channels=2, size=8, width=4), 3, x[:1])
    method = AuxiliaryMethod(
        net,
        Auxiliary(stages=3, serial_start=0, method="augmented", filter="pool:2"),
        vae_loss,
        lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
        lambda index: x[index],
        len(x),
    )
    losses = train(method, x, x, range(30))
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])
    assert method.network.eval()(x).images.shape == x.shape
