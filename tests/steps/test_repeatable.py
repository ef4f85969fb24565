"""Batch norm and dropout inside a chain: as many evaluations as it takes, one truth."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import compare
from torch import Tensor, nn
from torch.nn import functional

import layerparallel as lp
from layerparallel.steps.repeatable import BatchNorm, batch_norms, kept

EXACT = lp.MGRIT(levels=2, coarsening=3, forward_cycles=6, adjoint_cycles=6)
INEXACT = lp.MGRIT(levels=2, coarsening=3, forward_cycles=1, adjoint_cycles=1)
SOLVERS = [lp.Serial(), lp.Serial("recompute"), EXACT]


class Unit(nn.Module):
    """A residual function with two batch norms, of which one is used twice."""

    def __init__(self, channels: int = 3, momentum: float | None = 0.1):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels, momentum=momentum)
        self.again = nn.BatchNorm2d(channels, momentum=momentum, affine=False)

    def forward(self, u: Tensor) -> Tensor:
        v = torch.tanh(self.norm(self.first(self.again(u))))
        return self.again(v)


def network(kind: str, depth: int = 11, unit: Any = Unit, solver: Any = None) -> lp.Network:
    torch.manual_seed(0)
    body = {
        "stacked": lambda: lp.chain(unit(), depth, T=2.0, initial="independent"),
        "tied": lambda: lp.chain(unit(), depth, T=2.0, tied=True),
        "unlike": lambda: lp.chain([unit() for _ in range(depth)], T=2.0),
        "like": lambda: lp.chain([unit() for _ in range(depth)], T=2.0, stacked=True),
    }[kind]()
    opening = nn.Conv2d(1, 3, 3, padding=1)
    return lp.Network(opening, body, nn.Flatten(), solver or lp.Serial()).double()


def images(batch: int = 4, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 1, 5, 4, generator=generator, dtype=torch.float64)


def statistics(module: nn.Module) -> dict[str, Tensor]:
    """Running statistics under layer-by-layer names."""
    return {k: v.clone() for k, v in module.state_dict().items() if "running" in k or "tracked" in k}


KINDS = ["stacked", "tied", "unlike", "like"]


@pytest.mark.parametrize("solver", SOLVERS, ids=["serial", "recompute", "mgrit"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_is_that_of_the_serial_network(kind: str, solver: Any, momentum: float | None):
    net = network(kind, unit=lambda: Unit(momentum=momentum))
    twin = net.to_serial()
    assert compare(net, images(), solver).worst < 1e-10
    twin(images())
    for seed in (2, 3):  # compare() has done one batch on the network, and one on a twin of its own
        with net.solved_by(solver), torch.set_grad_enabled(seed == 2):
            net(images(seed=seed))
        twin(images(seed=seed))
    found, expected = statistics(net), statistics(twin)
    assert found.keys() == expected.keys()
    assert len(found) == (33 * 2 if kind != "tied" else 6)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)
    assert int(found[next(k for k in found if k.endswith("norm.num_batches_tracked"))]) == (
        33 if kind == "tied" else 3
    )
    with net.solved_by(solver), torch.no_grad():
        torch.testing.assert_close(
            net.eval()(images(seed=4)), twin.eval()(images(seed=4)), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_change_once_in_training_and_never_in_evaluation(kind: str):
    net = network(kind, solver=INEXACT)
    before = statistics(net)
    net.eval()
    net(images()).sum().backward()
    for name, value in statistics(net).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    net.train()(images()).sum().backward()
    uses = {"norm": 1, "again": 2}
    for name, value in statistics(net).items():
        if name.endswith("tracked"):
            each = uses[name.split(".")[-2]]
            assert int(value) == (11 * each if kind == "tied" else each)


@given(
    depth=st.integers(3, 14),
    coarsening=st.integers(2, 5),
    coarse=st.sampled_from(["inject", "mean_parameters", "mean_residual", "picard"]),
    relaxation=st.integers(0, 1),
    kind=st.sampled_from(["stacked", "tied", "unlike"]),
)
@settings(max_examples=25, deadline=None)
def test_finite_termination_with_batch_norm(depth, coarsening, coarse, relaxation, kind):
    if coarsening > depth or (kind == "unlike" and coarse == "mean_parameters"):
        return
    solver = lp.MGRIT(
        levels=2,
        coarsening=coarsening,
        relaxation=relaxation,
        coarse=coarse,
        samples=2,
        forward_cycles=depth // coarsening + 1,
        adjoint_cycles=depth // coarsening + 1,
        guard=False,
    )
    net = network(kind, depth)
    twin = net.to_serial()
    assert compare(net, images(), solver).worst < 1e-8
    twin(images())
    for name, value in statistics(twin).items():
        torch.testing.assert_close(statistics(net)[name], value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_norm_uses_its_running_statistics(kind: str):
    net = network(kind)
    net(images())
    twin = net.to_serial()
    for module in (net, twin):
        module.train()
        for part in module.modules():
            if isinstance(part, BatchNorm) and part.affine:
                part.eval()
    before = statistics(net)
    with net.solved_by(EXACT):
        out = net(images(seed=5))
    torch.testing.assert_close(out, twin(images(seed=5)), rtol=1e-10, atol=1e-12)
    for name, value in statistics(net).items():
        frozen = ".norm." in name
        assert torch.equal(value, before[name]) == frozen
        torch.testing.assert_close(value, statistics(twin)[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_is_the_serial_network_s_and_comes_back(kind: str):
    net = network(kind)
    net(images())
    twin = net.to_serial()
    assert set(net.state_dict()) == set(twin.state_dict())
    other = network(kind)
    other.load_state_dict(twin.state_dict())
    for name, value in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_one_value_per_channel_is_refused():
    body = lp.chain(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), 4)
    with pytest.raises(ValueError, match="1 value per channel"):
        lp.Network(None, body, None)(torch.randn(1, 3))


def test_other_buffers_that_change_are_refused():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, u: Tensor) -> Tensor:
            self.seen += 1
            return self.linear(u)

    for body in (lp.chain(Counter(), 4), lp.chain(Counter(), 4, tied=True)):
        with pytest.raises(ValueError, match="changes its buffer"):
            lp.Network(None, body, None)(torch.randn(2, 3))


# ---- dropout ------------------------------------------------------------------------------------


class Dropped(nn.Module):
    """A residual function with a dropout module and one hidden in its forward."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(0.3)

    def forward(self, u: Tensor) -> Tensor:
        v = self.dropout(torch.tanh(self.a(u)))
        return functional.dropout(self.b(v), 0.2, self.training)


class Written(nn.Module):
    """The same with given masks, as ordinary PyTorch."""

    def __init__(self, unit: Dropped, key: int, step: int):
        super().__init__()
        self.unit, self.key, self.step = unit, key, step

    def forward(self, u: Tensor) -> Tensor:
        masks = [
            kept(u.shape, p, self.key, self.step, call, u.device).double() / (1 - p)
            for call, p in enumerate((0.3, 0.2))
        ]
        return self.unit.b(masks[0] * torch.tanh(self.unit.a(u))) * masks[1]


def dropped(kind: str, depth: int = 10, solver: Any = None) -> lp.Network:
    torch.manual_seed(0)
    body = {
        "stacked": lambda: lp.chain(Dropped(), depth, T=2.0, initial="independent"),
        "tied": lambda: lp.chain(Dropped(), depth, T=2.0, tied=True),
        "unlike": lambda: lp.chain([Dropped() for _ in range(depth)], T=2.0),
    }[kind]()
    return lp.Network(nn.Linear(3, 6), body, nn.Linear(6, 2), solver or lp.Serial()).double()


@pytest.mark.parametrize("solver", SOLVERS, ids=["serial", "recompute", "mgrit"])
@pytest.mark.parametrize("kind", ["stacked", "tied", "unlike"])
def test_dropout_with_the_same_masks_as_serially(kind: str, solver: Any):
    net = dropped(kind)
    x = torch.randn(5, 3, dtype=torch.float64)
    net(x)  # examined; the key of the next forward is the next number drawn
    torch.manual_seed(7)
    key = int(torch.randint(1 << 62, ()))
    u, units = net.opening(x), []
    for n in range(10):
        source = net.body.template(n) if kind == "stacked" else None
        unit = source or (net.body.layer if kind == "tied" else net.body.layers[n])
        units.append(unit)
        u = u + net.body.h * Written(unit, key, n)(u)
    expected = net.closing(u)
    net.zero_grad()
    expected.square().sum().backward()
    if kind == "stacked":
        reference = {
            name: torch.stack([dict(unit.named_parameters())[name].grad for unit in units])
            for name in dict(units[0].named_parameters())
        }
        reference = {f"body.layer.{name}": value for name, value in reference.items()}
    else:
        reference = {n: p.grad.clone() for n, p in net.body.named_parameters(prefix="body")}
    net.zero_grad()
    torch.manual_seed(7)
    with net.solved_by(solver):
        out = net(x)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    out.square().sum().backward()
    for name, value in reference.items():
        found = net.get_parameter(name).grad
        torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["stacked", "tied", "unlike"])
def test_masks_follow_torch_s_seed_and_differ_from_batch_to_batch(kind: str):
    net = dropped(kind, solver=INEXACT)
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.manual_seed(3)
    first, second = net(x), net(x)
    torch.manual_seed(3)
    assert torch.equal(net(x), first)
    assert not torch.allclose(first, second)
    net.eval()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert torch.equal(net(x), net(x))
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn where nothing is dropped


def test_a_network_without_dropout_draws_nothing():
    net = network("stacked", solver=INEXACT)
    before = torch.get_rng_state()
    net(images()).sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_masks_are_bernoulli_and_unrelated():
    """Frequencies of two masks and of their agreement within 5 standard deviations."""
    count, p = 200_000, 0.3
    masks = [
        kept((count,), p, key, step, call, "cpu")
        for key in (1, 2**61)
        for step in (0, 1)
        for call in (0, 1)
    ]
    deviation = 5 * (0.25 / count) ** 0.5
    agreement = p * p + (1 - p) ** 2
    for i, mask in enumerate(masks):
        assert abs(float(mask.double().mean()) - (1 - p)) < deviation
        assert abs(float((mask[1:] == mask[:-1]).double().mean()) - agreement) < deviation
        for other in masks[:i]:
            assert abs(float((mask == other).double().mean()) - agreement) < deviation


@pytest.mark.parametrize(
    "make",
    [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout],
    ids=lambda make: make.__name__,
)
def test_every_dropout_of_torch_keeps_mean_and_spread_as_its_own(make: Any):
    """Over many forwards of one step against torch's own module."""
    torch.manual_seed(0)
    x = torch.randn(400, 20, 30, dtype=torch.float64)
    if make is nn.Dropout2d:
        x = x.unsqueeze(-1)
    net = lp.Network(None, lp.chain([nn.Sequential(make(0.4))], integrator="block"), None)
    ours, theirs = net(x), make(0.4)(x)
    zeros = [float((y == y.min()).double().mean() + (y == 0).double().mean()) for y in (ours, theirs)]
    assert abs(zeros[0] - zeros[1]) < 0.03
    assert abs(float(ours.mean() - theirs.mean())) < 0.03
    assert abs(float(ours.std() - theirs.std())) < 0.03
    if make in (nn.Dropout1d, nn.Dropout2d, nn.FeatureAlphaDropout):  # whole channels
        dropped = (ours == 0).flatten(2) if "Alpha" not in make.__name__ else None
        if dropped is not None:
            assert torch.equal(dropped.all(-1), dropped.any(-1))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("stacked", [False, True])
def test_transformer_layers(dropout: float, stacked: bool):
    torch.manual_seed(0)
    layers = [
        nn.TransformerEncoderLayer(
            8, 2, 12, dropout, norm_first=True, batch_first=True, dtype=torch.float64
        )
        for _ in range(6)
    ]
    body = lp.chain(layers, integrator="block", stacked=stacked)
    net = lp.Network(None, body, nn.Linear(8, 2).double())
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    if dropout == 0.0:
        assert compare(net, x, EXACT).worst < 1e-10
    found = []
    for solver in (lp.Serial(), EXACT):
        torch.manual_seed(5)
        net.zero_grad()
        with net.solved_by(solver):
            out = net(x)
        out.square().sum().backward()
        found.append([out.detach(), *[p.grad.clone() for p in net.parameters()]])  # type: ignore[union-attr]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    net.eval()
    torch.testing.assert_close(net(x), net.to_serial().eval()(x), rtol=1e-10, atol=1e-12)


def test_dropped_attention_is_attention_with_a_mask():
    """Against softmax(q k^T / sqrt(d)) v written out with the mask of the library's key."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 1, dropout=0.5, batch_first=True, dtype=torch.float64)

    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, u: Tensor) -> Tensor:
            return self.attention(u, u, u, need_weights=False)[0]

    net = lp.Network(None, lp.chain([Attend()], integrator="block"), None)
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    net(x)
    torch.manual_seed(1)
    out = net(x)
    torch.manual_seed(1)
    key = int(torch.randint(1 << 62, ()))
    q, k, v = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    weights = (q @ k.mT / 2).softmax(-1).unsqueeze(1)
    mask = kept(weights.shape, 0.5, key, 0, 0, "cpu")
    expected = attention.out_proj(((weights * mask.double() / 0.5) @ v.unsqueeze(1)).squeeze(1))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_batch_norms_are_found_by_name():
    assert set(batch_norms(nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(Unit())))) == {
        "0",
        "1.0.norm",
        "1.0.again",
    }
