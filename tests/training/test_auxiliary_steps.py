"""Steps of training with auxiliary variables, against autograd of the Lagrangian as it is written."""

import copy
from typing import Any

import pytest
import torch
from auxiliary_problem import (
    CUTS,
    FILTERS,
    INDEX,
    Written,
    batch,
    close,
    images,
    made,
    network,
    perturbed,
    staged,
    step,
)
from torch.nn import functional as F

from layerparallel.staged import Staged
from layerparallel.training.auxiliary import Auxiliary, AuxiliaryMethod
from layerparallel.training.backprop import Backprop

METHODS = ["penalty", "augmented"]


@pytest.mark.parametrize("scale", ["sum", "mean"])
@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("kind", METHODS)
def test_a_step_is_descent_on_the_written_lagrangian(kind, filter, scale):
    x, y = images()
    method = made(
        staged(), x, method=kind, filter=filter, scale=scale, beta=3.0, multiplier_step="derived"
    )
    perturbed(method, len(x))
    written = Written(method, x, y, INDEX)
    before = {k: method.store.take(k, torch.arange(20))[0] for k in (1, 2)}
    weights = [p.detach().clone() for k in range(3) for p in method.network.parameters_of(k)]
    record = step(method, batch(x, y, INDEX))
    assert torch.equal(record.loss, written.phi.detach())
    after = [p for k in range(3) for p in method.network.parameters_of(k)]
    gradients = [p.grad for k in range(3) for p in written.net.parameters_of(k)]
    for new, old, gradient in zip(after, weights, gradients, strict=True):
        assert gradient is not None
        close(new.detach(), old - 0.1 * gradient)
    untouched = torch.tensor([n for n in range(20) if n not in INDEX])
    for k, each in method.store.filters.items():
        old, kappa = written.state[k].detach(), written.multiplier[k]
        assert written.state[k].grad is not None
        c = 1.0 if scale == "sum" else 1.0 / 144
        rate = 0.5 / (2 * 3.0 * c * each.norm((3, 8, 6)))
        new, new_kappa = method.store.take(k, INDEX)
        close(new, old - rate * each.direction(written.state[k].grad * len(INDEX), old))
        assert torch.equal(method.store.take(k, untouched)[0], before[k][untouched])
        if kappa is not None:
            end, full = written.ends[k].detach(), each.up(old)
            moved = each.solve(each.transpose(full - end, old), old) + new - old
            if "lowrank" not in filter:
                close(moved, each.down(each.up(new) - end))
            assert new_kappa is not None
            close(new_kappa, kappa - 0.1 * 2 * 3.0 * moved)


@pytest.mark.parametrize("scale", ["sum", "mean"])
@pytest.mark.parametrize("filter", FILTERS)
def test_estimated_multipliers_follow_the_adjoint_and_states_the_stage_before(filter, scale):
    x, y = images()
    method = made(
        staged(), x, method="augmented", filter=filter, scale=scale, beta=3.0, multiplier_rate=0.7
    )
    perturbed(method, len(x))
    written = Written(method, x, y, INDEX)
    step(method, batch(x, y, INDEX))
    for k, each in method.store.filters.items():
        old, kappa = written.state[k].detach(), written.multiplier[k]
        assert written.state[k].grad is not None
        assert kappa is not None
        c = 1.0 if scale == "sum" else 1.0 / 144
        pulled = each.transpose(each.up(old) - written.ends[k].detach(), old)
        # The written gradient by Λ is 2βc p + Jᵀa - c JᵀJκ, and the estimate (JᵀJ)⁻¹Jᵀa / c.
        gradient = written.state[k].grad * len(INDEX)
        adjoint = gradient - c * (2 * 3.0 * pulled - each.transpose(each.push(kappa, old), old))
        new, new_kappa = method.store.take(k, INDEX)
        close(new, old - each.direction(pulled, old) / each.norm((3, 8, 6)))
        assert new_kappa is not None
        close(new_kappa, kappa + 0.7 * (each.solve(adjoint, old) / c - kappa))


@pytest.mark.parametrize(("rule", "factor"), [("derived", 2 * 4.0), ("printed", 1 / (2 * 4.0))])
def test_both_multiplier_steps(rule, factor):
    x, y = images()
    method = made(staged(), x, method="augmented", multiplier_step=rule, multiplier_rate=0.7, beta=4.0)
    perturbed(method, len(x))
    end = Written(method, x, y, INDEX).ends[2].detach()
    _, before = method.store.take(2, INDEX)
    step(method, batch(x, y, INDEX))
    state, after = method.store.take(2, INDEX)
    assert before is not None
    assert after is not None
    close(after, before - 0.7 * factor * (state - end))


def test_violations_are_relative_and_averaged_over_the_epoch():
    x, y = images()
    method = made(staged(), x, lr=0.0)
    method.begin_epoch(0)
    step(method, batch(x, y, INDEX))
    assert method.violations == pytest.approx([0.0, 0.0], abs=1e-15)  # from a propagation
    perturbed(method, len(x))
    wanted = torch.zeros(2, dtype=torch.float64)
    for index in (INDEX, torch.arange(10)):
        written = Written(method, x, y, index)
        for k, end in written.ends.items():
            ratio = (method.store.take(k, index)[0] - end.detach()).norm() / end.detach().norm()
            wanted[k - 1] += float(ratio) * len(index) / 20  # 5 samples before had none
        step(method, batch(x, y, index))
    assert method.violations == pytest.approx(wanted.tolist(), rel=1e-12)
    assert method.epoch_line() == {
        "mode": "parallel",
        "beta": 10.0,
        "violations": method.violations,
        "kept_bytes": 20 * 2 * 144 * 8,
    }
    method.begin_epoch(1)
    assert method.violations == [0.0, 0.0]


def test_one_stage_is_backprop_bit_by_bit():
    x, y = images()
    net = network(norm=True, dropout=0.2)
    twin = copy.deepcopy(net)

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.01)

    method = AuxiliaryMethod(
        Staged(net, 1), Auxiliary(stages=1), F.cross_entropy, adam, lambda index: x[index], len(x)
    )
    plain = Backprop(twin, adam(twin.parameters()), F.cross_entropy)
    for epoch in range(3):
        method.begin_epoch(epoch)
        for index in torch.arange(20).split(7):
            torch.manual_seed(epoch)
            one = step(method, batch(x, y, index))
            torch.manual_seed(epoch)
            two = plain.step(x[index], y[index])
            assert torch.equal(one.loss, two.loss)
            assert torch.equal(one.correct, two.correct)
    for name, value in twin.state_dict().items():
        assert torch.equal(net.state_dict()[name], value)


def test_a_serial_epoch_is_backprop_of_the_whole_network():
    x, y = images()
    net = network()
    twin = copy.deepcopy(net)
    method = made(Staged(net, CUTS), x, serial_start=2)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    rate = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    plain = Backprop(twin, optimizer, F.cross_entropy, rate)
    for epoch in range(2):
        method.begin_epoch(epoch)
        for index in torch.arange(20).split(7):
            one, two = step(method, batch(x, y, index)), plain.step(x[index], y[index])
            assert torch.equal(one.loss, two.loss)
    assert method.epoch_line()["mode"] == "serial"
    assert method.epoch_line()["violations"] == []
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-14, atol=1e-14)
