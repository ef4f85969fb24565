"""Training with auxiliary variables, against autograd of its Lagrangian as it is written."""

import copy
import math
from typing import Any

import pytest
import torch
from auxiliary_problem import CUTS, Block, batch, images, made, network, step, train
from torch import Tensor, nn
from torch.nn import functional as F

from layerparallel.data.augment import Augmentation, Drawn
from layerparallel.data.digits import digits
from layerparallel.errors import InputError, UnknownNameError, UnknownOptionError
from layerparallel.models.vae import resnet_vae, vae_loss
from layerparallel.staged import Staged
from layerparallel.training.auxiliary import Auxiliary, AuxiliaryMethod
from layerparallel.training.backprop import Backprop

INDEX = torch.tensor([3, 11, 0, 8, 19])
FILTERS = ["none", "pool:2", "pool:2:bilinear", "lowrank:2"]
METHODS = ["penalty", "augmented"]


def staged(seed: int = 0, cuts: Any = CUTS, **options: Any) -> Staged:
    return Staged(network(seed, **options), cuts)


def perturbed(method: AuxiliaryMethod, size: int) -> None:
    """Λ and κ that are nothing special."""
    method.begin_epoch(0)
    generator = torch.Generator().manual_seed(5)
    for k in range(1, method.network.count):
        state, multiplier = method.store.take(k, torch.arange(size))
        noise = [torch.randn(state.shape, generator=generator, dtype=state.dtype) for _ in range(2)]
        kappa = None if multiplier is None else noise[1]
        method.store.put(k, torch.arange(size), state + 0.3 * noise[0], kappa)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)


class Written:
    """The Lagrangian of a mini batch as it is written, and all that a step takes from it by autograd."""

    def __init__(self, method: AuxiliaryMethod, x: Tensor, y: Tensor, index: Tensor) -> None:
        self.filters = method.store.filters
        self.net = copy.deepcopy(method.network)
        self.state, self.multiplier, settings = {}, {}, method.settings
        total = torch.zeros((), dtype=torch.float64)
        self.ends = {}
        end = x[index]
        for k in range(self.net.count):
            start = end
            if k > 0:
                state, self.multiplier[k] = method.store.take(k, index)
                self.state[k] = state.requires_grad_()
                start = self.filters[k].up(state)
                self.ends[k] = end
                c = 1.0 if settings.scale == "sum" else 1.0 / start[0].numel()
                difference = start - end
                total = total + settings.beta * c * difference.square().sum()
                if (kappa := self.multiplier[k]) is not None:
                    with torch.no_grad():
                        pushed = self.filters[k].push(kappa, state)
                    total = total - c * (pushed * difference).sum()
            end = self.net.stage(k)(start)
        self.phi = F.cross_entropy(end, y[index])
        (self.phi + total / len(index)).backward()


# ---- one step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["sum", "mean"])
@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("kind", METHODS)
def test_a_step_is_descent_on_the_written_lagrangian(kind, filter, scale):
    x, y = images()
    method = made(staged(), x, method=kind, filter=filter, scale=scale, beta=3.0)
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
    assert method.epoch_line() == {"mode": "parallel", "beta": 10.0, "violations": method.violations}
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
    assert method.epoch_line() == {"mode": "serial", "beta": 10.0, "violations": []}
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-14, atol=1e-14)


# ---- stationary points --------------------------------------------------------------------------


def linear() -> tuple[Staged, Tensor, Tensor]:
    """Three linear stages, which with a quadratic loss make a convex problem in λ."""
    torch.manual_seed(2)
    net = nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)]).double()
    return Staged(net, (1, 2)), torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4).double()


def settled(kind: str, **settings: Any) -> tuple[AuxiliaryMethod, Tensor, Tensor]:
    net, x, y = linear()
    settings |= {"serial_start": 0, "scale": "sum", "multiplier_rate": 1.0}
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


def test_multipliers_become_the_adjoint_and_close_the_gaps():
    method, x, y = settled("augmented", beta=2.0)
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


# ---- beginning, schedule, augmentation ----------------------------------------------------------


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
    assert slower.multiplier_rate_in(3) == pytest.approx(2 * 18.0 / 16)
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


def drawn_for(count: int) -> Drawn:
    drawn = Augmentation(2, flip=True).draw(count, 8, 6, torch.Generator().manual_seed(1))
    for each in (drawn.down, drawn.right, drawn.flipped):
        each[1] = 0
    return drawn


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


# ---- a whole training ---------------------------------------------------------------------------


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
    with pytest.raises(InputError, match="of 20 training samples and there are 12"):
        made(staged(), x[:12], **settings).load_state_dict(saved)


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
        Auxiliary(serial_start=0, **settings),
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
        Auxiliary(serial_start=0, method="augmented", filter="pool:2"),
        vae_loss,
        lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
        lambda index: x[index],
        len(x),
    )
    losses = train(method, x, x, range(30))
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])
    assert method.network.eval()(x).images.shape == x.shape


# ---- wrong input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "penalti"}, "did you mean 'penalty'"),
        ({"beta": 0.0}, "beta = 0.0 is no positive number"),
        ({"beta": math.inf}, "beta = inf is no positive number"),
        ({"beta_growth": 0.5}, "beta_growth = 0.5 is below 1"),
        ({"state_rate": -1.0}, "state_rate = -1.0 is no positive number"),
        ({"serial_start": -1}, "serial_start = -1 is below 0"),
        ({"stages": (2, 0)}, r"stages = \(2, 0\) has a number below 1"),
        ({"schedule": "alternating", "parallel": 3}, "serial = 0 epochs cannot alternate"),
        ({"regenerate": True, "method": "augmented"}, "regenerate keeps nothing per sample"),
        ({"state_decay": 1.5}, "state_decay = 1.5 is no factor of at most 1"),
        ({"filter": "pool:two"}, "'two' in the filter 'pool:two'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Auxiliary(**settings)


def test_unknown_options_are_refused():
    with pytest.raises(UnknownOptionError, match="did you mean 'beta_growth'"):
        Auxiliary(beta_grow=2.0)  # type: ignore[call-arg]
    with pytest.raises(UnknownNameError):
        Auxiliary(scale="average")  # type: ignore[arg-type]


def test_a_rate_that_diverges_is_refused_and_one_below_is_not():
    x, _ = images()
    with pytest.raises(InputError, match=r"times 2·beta·4 is 2, .* give less than 0.025"):
        made(staged(), x, filter="pool:2", scale="sum", state_rate=0.025)
    method = made(staged(), x, filter="pool:2", scale="sum", state_rate=0.0249)
    assert method.settings.state_rate_in(0, 1.0, 4.0) == 0.0249


def test_a_state_that_is_no_tensor_is_refused():
    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    class Join(nn.Linear):
        def forward(self, input: Any) -> Tensor:
            return super().forward(input[0])

    x = torch.randn(6, 3)
    with pytest.raises(InputError, match="Stage 0 ends with a tuple"):
        made(Staged(nn.Sequential(Pair(3, 3), Join(3, 2)), (1,)), x)


def test_a_parallel_step_asks_which_samples_these_are():
    x, y = images()
    with pytest.raises(InputError, match="without the places of its samples"):
        made(staged(), x).step(x[INDEX], y[INDEX])
