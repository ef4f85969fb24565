"""Epochs of training with auxiliary variables: how they begin, which is which, what is saved."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from auxiliary_problem import (
    FILTERS,
    INDEX,
    batch,
    close,
    drawn_for,
    images,
    made,
    perturbed,
    staged,
    step,
    train,
)
from torch import nn
from torch.nn import functional as F

from layerparallel.training.auxiliary import Auxiliary


@pytest.mark.parametrize("filter", FILTERS)
def test_auxiliary_variables_begin_with_a_propagation(filter):
    x, _ = images()
    net = staged(norm=True, dropout=0.3)
    before = copy.deepcopy(net.state_dict())
    method = made(net, x, filter=filter, batch=20)
    random = torch.get_rng_state()
    net.train()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    method.begin_epoch(0)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    u = x
    for k, each in method.store.filters.items():
        u = net.stage(k - 1)(u).detach()  # batch norm by the same statistics, those of all samples
        found, _ = method.store.take(k, torch.arange(20))
        torch.testing.assert_close(each.up(found), each.up(each.down(u)), rtol=1e-8, atol=1e-8)


def modes(epochs: int, **settings: Any) -> str:
    chosen = Auxiliary(**settings)
    return "".join("sp"[chosen.is_parallel(epoch)] for epoch in range(epochs))


def test_the_schedule():
    assert modes(6) == "sppppp"
    assert modes(4, serial_start=0) == "pppp"
    assert modes(9, serial_start=2, parallel=4) == "ssppppsss"
    assert modes(9, parallel=3, serial=1, schedule="alternating") == "spppspppsppps"[:9]
    settings = Auxiliary(parallel=3, serial=1, schedule="alternating", beta=2.0, beta_growth=3.0)
    assert [settings.phase(epoch) for epoch in (1, 3, 5, 6)] == [1, 1, 5, 5]
    assert [settings.beta_in(epoch) for epoch in (0, 1, 2, 4, 5)] == [2, 2, 6, 54, 54]
    slower = Auxiliary(
        state_decay=0.5, multiplier_decay=0.25, multiplier_rate=1.0, beta=2.0, beta_growth=3.0
    )
    assert slower.state_rate_in(3, 1.0, 4.0) == pytest.approx(0.5 / (2 * 18.0 * 4.0) / 4)
    assert slower.multiplier_rate_in(3) == pytest.approx(1 / 16)
    derived = replace(slower, multiplier_step="derived")
    assert derived.multiplier_rate_in(3) == pytest.approx(2 * 18.0 / 16)
    estimated = replace(slower, method="augmented")
    assert estimated.state_rate_in(3, 1.0, 4.0) == pytest.approx(1 / (2 * 18.0 * 4.0) / 4)
    assert settings.augments(0)
    assert not settings.augments(1)
    assert Auxiliary(augment="both").augments(1)


def test_a_parallel_phase_begins_anew_and_keeps_its_multipliers():
    x, y = images()
    method = made(
        staged(), x, method="augmented", parallel=1, serial=1, schedule="alternating", beta_growth=2.0
    )
    train(method, x, y, range(1))
    _, kappa = method.store.take(2, INDEX)
    train(method, x, y, range(1, 2))
    method.begin_epoch(2)
    state, _ = method.store.take(1, INDEX)
    _, after = method.store.take(2, INDEX)
    assert kappa is not None
    assert kappa.any()
    assert after is not None
    assert torch.equal(after, kappa)
    close(state, method.network.stage(0)(x[INDEX]).detach())
    assert method.epoch_line()["beta"] == 20.0
    method.store.put(1, INDEX, state + 1)
    method.begin_epoch(2)  # as a resumed run does
    assert torch.equal(method.store.take(1, INDEX)[0], state + 1)


def test_a_saved_run_goes_on_as_if_unbroken():
    x, y = images()
    settings: dict[str, Any] = {
        "method": "augmented",
        "filter": "pool:2+int8",
        "parallel": 2,
        "serial": 1,
        "schedule": "alternating",
    }
    one = made(staged(), x, **settings)
    train(one, x, y, range(4))
    saved = copy.deepcopy(one.state_dict())
    two = made(staged(seed=9), x, **settings)
    two.load_state_dict(saved)
    assert two.violations == one.violations
    assert train(one, x, y, range(3, 7)) == train(two, x, y, range(3, 7))
    for name, value in one.network.state_dict().items():
        assert torch.equal(two.network.state_dict()[name], value)


# ---- augmentation -------------------------------------------------------------------------------


def test_a_parallel_epoch_undoes_augmentation():
    x, y = images()
    one, two = made(staged(), x), made(staged(), x)
    drawn = drawn_for(len(INDEX))
    assert not torch.equal(drawn.apply(x[INDEX]), x[INDEX])
    step(one, batch(x, y, INDEX))
    step(two, batch(x, y, INDEX, drawn))
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_augmented_samples_move_their_auxiliary_variables():
    x, y = images()
    method = made(staged(), x, method="augmented", augment="both")
    perturbed(method, len(x))
    drawn = drawn_for(len(INDEX))
    before = {k: method.store.take(k, INDEX) for k in (1, 2)}
    twin = copy.deepcopy(method.network)
    record = step(method, batch(x, y, INDEX, drawn))
    moved = drawn.apply(before[2][0])
    assert torch.equal(record.loss, F.cross_entropy(twin.stage(2)(moved), y[INDEX]).detach())
    end = twin.stage(0)(drawn.apply(x[INDEX]))
    kappa = before[1][1]
    assert kappa is not None
    loss = 10.0 * (drawn.apply(before[1][0]) - end).square().sum() + (drawn.apply(kappa) * end).sum()
    (loss / 144 / len(INDEX)).backward()
    for old, new in zip(twin.parameters_of(0), method.network.parameters_of(0), strict=True):
        assert old.grad is not None
        close(new.detach(), old.detach() - 0.1 * old.grad)
    for k in (1, 2):
        for old, new in zip(before[k], method.store.take(k, INDEX), strict=True):
            assert old is not None
            assert new is not None
            same = [torch.equal(a, b) for a, b in zip(old, new, strict=True)]
            assert same == [True, False, True, True, True]  # the second is as it is


@pytest.mark.parametrize("filter", ["none", "pool:2"])
def test_regenerated_variables_descend_on_the_lagrangian_by_their_networks(filter):
    x, y = images()
    method = made(staged(), x, filter=filter, regenerate=True, augment="both", beta=3.0)
    assert method.generators is not None
    method.begin_epoch(0)
    drawn = drawn_for(len(INDEX))
    inputs = drawn.apply(x[INDEX])
    net, networks = copy.deepcopy(method.network), copy.deepcopy(method.generators.networks)
    up = method.generators.filters[1].up
    one, two = (up(networks[k](inputs)) for k in (1, 2))
    gaps = (one - net.stage(0)(inputs)).square().sum() + (two - net.stage(1)(one)).square().sum()
    phi = F.cross_entropy(net.stage(2)(two), y[INDEX])
    (phi + 3.0 / 144 / len(INDEX) * gaps).backward()
    record = step(method, batch(x, y, INDEX, drawn))
    assert torch.equal(record.loss, phi.detach())
    pairs = [*zip(networks.values(), method.generators.networks.values(), strict=True)]
    pairs += [(net, method.network)]
    for old, new in pairs:
        for before, after in zip(old.parameters(), new.parameters(), strict=True):
            assert before.grad is not None
            close(after.detach(), before.detach() - 0.1 * before.grad)
    assert method.store.nbytes == 0


def test_what_regenerates_is_saved():
    x, y = images()
    settings: dict[str, Any] = {"lr": 0.01, "regenerate": True, "batch": 5}
    one, two = made(staged(), x, **settings), made(staged(seed=3), x, **settings)
    train(one, x, y, range(2))
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert train(one, x, y, range(1, 3)) == train(two, x, y, range(1, 3))
    assert two.violations == one.violations
