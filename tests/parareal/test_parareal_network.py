"""The parareal form of a network: its equations, its parts, and what it is equal to."""

import copy
import pickle
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import BY_NAME, Block, pull_back
from torch import Tensor, nn
from torch.nn.utils import prune

import layerparallel as lp
from layerparallel.errors import InputError
from layerparallel.group import ALONE
from layerparallel.models import preactivation_resnet, resnet, vgg16, wide_resnet
from layerparallel.parareal import PararealNetwork, parareal_network
from layerparallel.parareal.describe import table
from layerparallel.staged import Staged
from layerparallel.staged.cuts import costs
from layerparallel.steps.state import as_given, as_state

CHAINS = [
    "dense tanh",
    "convolution tanh",
    "block",
    "tied",
    "tied, timed",
    "timed rk4",
    "unlike",
    "step function",
    "verlet",
]
"""Problems by the kind of chain."""


def linear(widths: Sequence[int], bias: bool = False, seed: int = 0) -> nn.Sequential:
    """Linear maps between states of these widths."""
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b, bias) for a, b in pairwise(widths)]
    return nn.Sequential(*layers).double()


def images(family: str) -> tuple[Any, Tensor]:
    """A small network for images in double precision, and an input."""
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "resnet": lambda: resnet(20, width=2),
        "preactivation": lambda: preactivation_resnet(29, width=4),
        "wide": lambda: wide_resnet(22, 1, width=2),
        "vgg": lambda: vgg16(width=2),
    }
    size = 32 if family == "vgg" else 8
    x = torch.randn((4, 3, size, size), dtype=torch.float64)
    return made[family]().double(), x


def off(a: Any, b: Any) -> float:
    """The largest deviation, relative to the largest entry."""
    pairs = list(zip(as_state(a, "a"), as_state(b, "b"), strict=True))
    largest = max(float(v.detach().abs().max()) for _, v in pairs)
    return max(float((u - v).detach().abs().max()) for u, v in pairs) / max(largest, 1e-300)


# ---- consistency --------------------------------------------------------------------------------


@settings(max_examples=30)
@given(data=st.data())
def test_a_linear_network_is_its_parareal_form(data):
    """Proposition 3.1: F^j = g^{j+1} linear; whatever C^2..C^N are."""
    widths = data.draw(st.lists(st.integers(1, 6), min_size=3, max_size=10))
    net = linear(widths, seed=data.draw(st.integers(0, 99)))
    inside = st.integers(1, len(net) - 1)
    cuts = sorted(data.draw(st.lists(inside, min_size=1, max_size=6, unique=True)))
    bounds = [0, *cuts, len(net)]
    fine = [net[a:b] for a, b in pairwise(bounds)]
    x = torch.randn(5, widths[0], dtype=torch.float64)
    made = parareal_network(
        net,
        len(cuts) + 1,
        x,
        cuts=cuts,
        coarse=lambda j, a, b: fine[j],  # fine[j] is g^{j+1}
        opening=0,
        closing=len(net),
    )
    assert made.count == len(cuts) + 1
    # Rounding is that of the largest terms, which may cancel.
    numbers = range(1, made.count + 1)
    terms = [made.fine(j, made.prepared(j, x)) for j in numbers]
    largest = max(float(y.detach().abs().max()) for y in terms)
    assert float((made(x) - net(x)).detach().abs().max()) < 1e-12 * largest


def test_neither_opening_nor_closing_need_be_linear():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), *linear([4, 4, 4, 4, 4]), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    made = parareal_network(
        net, 3, x, cuts=[3, 5], coarse=lambda j, a, b: net[3:5] if j == 1 else net[5]
    )
    assert made.ends == (2, 3, 5, 6)
    assert off(made(x), net(x)) < 1e-12


def test_a_bias_breaks_it():
    net = linear([4, 4, 4], bias=True)
    x = torch.randn(5, 4, dtype=torch.float64)
    made = parareal_network(net, 2, x, coarse=lambda j, a, b: net[1], opening=0, closing=2)
    assert off(made(x), net(x)) > 1e-3


@pytest.mark.parametrize("count", [2, 3, 5])
def test_exact_preprocessing_leaves_nothing_to_correct(count):
    """C^j = g^{j-1} o ... o C^1: no jumps, so any F^j with F^j(0) = 0, and any network."""
    net = BY_NAME["dense tanh"].network(8, "independent").to_serial()
    x = BY_NAME["dense tanh"].input(8)
    ends = parareal_network(net, count, x).ends
    parts = [Staged(net, [end]).stage(0) for end in ends[1:-1]]

    class Exact(nn.Module):
        def __init__(self, j: int):
            super().__init__()
            self.j = j

        def forward(self, x: Tensor) -> Tensor:
            return parts[self.j - 2](x)

    made = parareal_network(
        net,
        count,
        x,
        preprocessing=lambda j, a, b: Exact(j),
        coarse=lambda j, a, b: nn.Linear(*a, *b, bias=False).double(),
    )
    assert made.ends == ends
    assert off(made(x), net(x)) < 1e-14


# ---- the equations ------------------------------------------------------------------------------


def written_out(made: PararealNetwork, network: nn.Module, x: Tensor) -> Any:
    """The formula, from the original network and the new parts of its parareal form."""
    pieces, N, ends = Staged(network, 1).pieces, made.count, made.ends

    def run(start: int, stop: int, value: Any) -> Any:
        for piece in pieces[start:stop]:
            value = piece(value)
        return value

    def plus(a: Any, b: Any, sign: float) -> Any:
        pairs = zip(as_state(a, "a"), as_state(b, "b"), strict=True)
        return as_given(tuple(u + sign * v for u, v in pairs))

    x_of = {1: run(0, ends[0], x)} | {j: made.preprocessing[str(j)](x) for j in range(2, N + 1)}
    y_of = {j: run(ends[j - 1], ends[j], x_of[j]) for j in range(1, N + 1)}
    corrected = y_of[1]
    for j in range(1, N):
        corrected = plus(y_of[j + 1], made.coarse[str(j)](plus(corrected, x_of[j + 1], -1.0)), 1.0)
    return run(ends[N], len(pieces), corrected)


def gradients_agree(made: PararealNetwork, network: Any, x: Tensor) -> None:
    """Of all parameters and the input, with those of the written-out formula."""
    new = copy.deepcopy(made)
    original = copy.deepcopy(network) if isinstance(network, nn.Sequential) else network.to_serial()
    found = pull_back(made, x)
    expected = pull_back(lambda u: written_out(new, original, u), x)  # type: ignore[arg-type]
    assert off(found[0], expected[0]) < 1e-12
    assert off(found[1], expected[1]) < 1e-10
    reference = {**dict(new.named_parameters()), **dict(original.named_parameters())}
    assert reference.keys() == dict(made.named_parameters()).keys()
    scale = max(float(p.grad.abs().max()) for p in made.parameters() if p.grad is not None)
    for name, p in made.named_parameters():
        other = reference[name]
        assert other is not p
        assert (p.grad is None) == (other.grad is None), name
        if p.grad is not None and other.grad is not None:
            assert float((p.grad - other.grad).abs().max()) < 1e-10 * scale, name


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("family", ["resnet", "preactivation", "wide", "vgg"])
def test_output_and_gradients_are_those_of_the_formula(family, count):
    net, x = images(family)
    gradients_agree(parareal_network(net, count, x), net, x)


@pytest.mark.parametrize("name", CHAINS)
def test_any_kind_of_chain(name):
    net, x = BY_NAME[name].network(7, "independent"), BY_NAME[name].input(7)
    made = parareal_network(net, 3, x)
    assert made.count == 3
    gradients_agree(made, net, x)


@settings(max_examples=10)
@given(data=st.data())
def test_any_cuts(data):
    net, x = BY_NAME["unlike"].network(7, "independent"), BY_NAME["unlike"].input(7)
    inside = st.integers(2, 7)
    cuts = sorted(data.draw(st.lists(inside, min_size=1, max_size=5, unique=True)))
    made = parareal_network(net, len(cuts) + 1, x, cuts=cuts)
    assert made.ends == (1, *cuts, 8)
    gradients_agree(made, net, x)


# ---- in one batch -------------------------------------------------------------------------------


class Scaled(nn.Module):
    """A residual block with a number that its text does not show."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale, self.linear = scale, nn.Linear(4, 4)

    def forward(self, u: Tensor) -> Tensor:
        return u + self.scale * torch.tanh(self.linear(u))


@pytest.mark.parametrize("name", ["dense tanh", "block", "verlet", "convolution tanh"])
def test_many_small_parts_are_one_batch(name):
    net, x = BY_NAME[name].network(18, "independent"), BY_NAME[name].input(18)
    made = parareal_network(net, 9, x)
    assert made.alike == (range(9),)
    gradients_agree(made, net, x)


def test_parts_that_differ_are_computed_in_turn():
    torch.manual_seed(0)
    x = torch.randn(5, 4, dtype=torch.float64)
    odd_one_in = {4: (), 8: (range(8),)}
    for scales, runs in (
        ([0.1] * 9, (range(9),)),
        *(([0.1] * n + [0.2] + [0.1] * (8 - n), runs) for n, runs in odd_one_in.items()),
    ):
        net = nn.Sequential(*[Scaled(scale) for scale in scales]).double()
        made = parareal_network(net, 9, x)
        assert made.alike == runs
        gradients_agree(made, net, x)
    wide = nn.Sequential(
        *[Block() for _ in range(9)], *[nn.Linear(4, 4), nn.Linear(4, 6)], Block(6)
    ).double()
    made = parareal_network(wide, 10, x, cuts=[*range(1, 10)])
    assert made.alike == (range(9),)
    gradients_agree(made, wide, x)


@pytest.mark.parametrize("kind", ["statistics", "masks", "large layers"])
def test_what_is_computed_in_turn(kind):
    more: dict[str, list[nn.Module]] = {
        "statistics": [nn.BatchNorm1d(4)],
        "masks": [nn.Dropout(0.5)],
        "large layers": [nn.Linear(4, 400), nn.Linear(400, 4)],
    }
    part = [nn.Linear(4, 4), *more[kind]]
    net = nn.Sequential(*[copy.deepcopy(layer) for _ in range(9) for layer in part])
    cuts = [n * len(part) for n in range(1, 9)]
    made = parareal_network(net, 9, torch.randn(5, 4), cuts=cuts, closing=len(net))
    assert made.alike == ()


class Unlike(nn.Module):
    """A residual block that is unlike its brothers where only training, or a gradient, shows it."""

    def __init__(self, kind: str, odd: bool):
        super().__init__()
        self.kind, self.odd, self.linear, self.calls = kind, odd, nn.Linear(4, 4), 0
        if kind == "closure":
            self.act = (lambda v: v.detach() + v) if odd else (lambda v: v + v)

    def forward(self, u: Tensor) -> Tensor:
        given = u.detach() if self.kind == "gradient" and self.odd else u
        v = torch.tanh(self.linear(given))
        if self.kind == "mode" and self.training:
            v = v * (3 if self.odd else 2)
        if self.kind == "counter":
            self.calls += 1
        if self.kind == "random":
            v = v * (torch.rand(len(v), 1, dtype=v.dtype) < 0.5) if self.training else v
        return u + (self.act(v) if self.kind == "closure" else v)


@pytest.mark.parametrize("kind", ["gradient", "mode", "counter", "random", "closure"])
def test_blocks_that_differ_unseen_are_computed_in_turn(kind):
    torch.manual_seed(0)
    net = nn.Sequential(*[Unlike(kind, odd=n == 4) for n in range(9)]).double()
    made = parareal_network(net, 9, x := torch.randn(5, 4, dtype=torch.float64), opening=0, closing=9)
    assert made.alike == ()
    if kind == "random":
        assert made(x).isfinite().all()
    else:
        gradients_agree(made, net, x)
    if kind == "counter":
        assert len({block.calls for block in net}) == 1


@pytest.mark.parametrize("change", ["setting", "hook", "mode", "pruned", "replaced", "frozen"])
def test_blocks_that_are_changed_later_are_computed_in_turn(change):
    torch.manual_seed(0)
    net = nn.Sequential(*[Scaled(0.1) for _ in range(9)]).double()
    made = parareal_network(net, 9, x := torch.randn(5, 4, dtype=torch.float64), opening=0, closing=9)
    assert made.alike == (range(9),)
    called = []
    if change == "setting":
        cast(Scaled, net[4]).scale = 0.3
    elif change == "hook":
        for block in net:
            block.register_forward_hook(lambda *_: called.append(1))
    elif change == "mode":
        net[3].eval()
    elif change == "pruned":
        prune.l1_unstructured(net[2].linear, "weight", 0.5)
        with torch.no_grad():
            made(x)  # leaves a weight that can be copied
    elif change == "replaced":
        made.pieces(3)[0].holder._modules["2"] = net[2] = Block(4).double()
    else:
        net[5].requires_grad_(False)
    gradients_agree(made, net, x)
    assert len(called) == (18 if change == "hook" else 0)  # the formula calls them, too


@pytest.mark.parametrize("name", ["timed rk4", "tied"])
def test_steps_that_differ_in_time_or_share_parameters_are_in_turn(name):
    net, x = BY_NAME[name].network(18, "independent"), BY_NAME[name].input(18)
    made = parareal_network(net, 9, x)
    assert made.alike == ()
    gradients_agree(made, net, x)


# ---- the original network -----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["resnet", "preactivation", "wide", "vgg", *CHAINS])
def test_one_subnetwork_is_the_network(family):
    if family in CHAINS:
        net, x = BY_NAME[family].network(5, "independent"), BY_NAME[family].input(5)
    else:
        net, x = images(family)
    serial = copy.deepcopy(net) if isinstance(net, nn.Sequential) else net.to_serial()
    made = parareal_network(net, 1, x)
    assert list(made.state_dict()) == list(serial.state_dict())
    found, expected = pull_back(made, x), pull_back(serial, x)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    for (name, p), q in zip(made.named_parameters(), serial.parameters(), strict=True):
        assert p.grad is None or torch.equal(p.grad, q.grad), name  # type: ignore[arg-type]
    for name, value in serial.state_dict().items():
        assert torch.equal(made.state_dict()[name], value), name


def test_a_trained_network_keeps_its_weights_and_names():
    net, x = images("resnet")
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1.0)
    plain, made = net.to_serial().state_dict(), parareal_network(net, 3, x)
    state = made.state_dict()
    for name, value in plain.items():
        assert torch.equal(state.pop(name), value)
    assert {tuple(name.split(".")[:2]) for name in state} == {
        ("coarse", "1"),
        ("coarse", "2"),
        ("preprocessing", "2"),
        ("preprocessing", "3"),
    }
    other = parareal_network(resnet(20, width=2).double(), 3, x)
    missing = other.load_state_dict(plain, strict=False).missing_keys
    assert set(missing) == {name for name in state if not name.endswith("num_batches_tracked")}
    assert torch.equal(other(x), made(x))


def test_a_sequence_keeps_the_modules_given():
    net, x = images("vgg")
    made = parareal_network(net, 2, x)
    assert all(any(m is n for n in made.modules()) for m in net.modules() if m is not net)


def test_new_weights_come_from_the_seed_and_disturb_nothing():
    net, x = images("preactivation")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two = parareal_network(net, 2, x), parareal_network(net, 2, x)
    other = parareal_network(net, 2, x, seed=1)
    assert torch.equal(torch.rand(3), expected)
    a, b, c = (dict(each.coarse.named_parameters()) for each in (one, two, other))
    weights = [name for name, p in a.items() if p.dim() > 1]
    assert weights
    for name in a:
        assert torch.equal(a[name], b[name])
    for name in weights:
        assert not torch.equal(a[name], c[name])


def test_new_parts_of_a_frozen_network_learn():
    class Drawn(Block):
        def reset_parameters(self, std: float) -> None:  # nobody knows which
            raise AssertionError

    net = nn.Sequential(nn.Linear(3, 4), *[Drawn(4) for _ in range(4)], nn.Linear(4, 2))
    made = parareal_network(net.requires_grad_(False), 2, torch.randn(5, 3))
    old = {id(p) for p in net.parameters()}
    learning = {id(p): p.requires_grad for p in made.parameters()}
    assert [learning[key] for key in old] == [False] * len(old)
    assert [*{learning[key] for key in learning.keys() - old}] == [True]


def test_hooks_of_a_sequence_are_called():
    torch.manual_seed(0)
    inside = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    inside.register_forward_pre_hook(lambda module, given: (2 * given[0],))
    net, x = nn.Sequential(nn.Linear(3, 4), inside, nn.Linear(4, 2)), torch.randn(5, 3)
    assert torch.equal(parareal_network(net, 1, x)(x), net(x))
    net.register_forward_hook(lambda module, given, value: -value)
    with pytest.raises(TypeError, match="Sequential has hooks, which would not be called once it is"):
        parareal_network(net, 1, x)
    net.forward = lambda input: input
    with pytest.raises(TypeError, match="Sequential has a forward of its own"):
        parareal_network(net, 1, x)


def test_parts_are_made_without_autocasting():
    net, x = (
        nn.Sequential(nn.Linear(3, 4), *[Block() for _ in range(4)], nn.Linear(4, 2)),
        torch.randn(5, 3),
    )
    with torch.autocast("cpu", torch.bfloat16):
        made = parareal_network(net, 2, x)
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    assert made(x).dtype == torch.float32


def test_building_leaves_modes_and_statistics():
    net, x = images("vgg")
    net.eval()
    net[0][4].train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    parareal_network(net, 2, x)
    assert not net[0][3].training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_copies_and_pickles():
    net, x = images("preactivation")
    made = parareal_network(net, 3, x)
    expected = pull_back(copy.deepcopy(made), x)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        found = pull_back(other, x)
        assert torch.equal(found[0], expected[0])
        assert not any(p is q for p in other.parameters() for q in made.parameters())


# ---- parts --------------------------------------------------------------------------------------


def test_openings_and_closings_are_found():
    conv = nn.Conv2d(3, 4, 3, padding=1)
    more = [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
    head = [
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 8),
        nn.ReLU(),
        nn.Linear(8, 2),
    ]
    x = torch.randn(2, 3, 8, 8)
    made = parareal_network([conv, nn.BatchNorm2d(4), nn.ReLU(), *more, *head], 2, x)
    assert made.ends == (3, 5, 7)
    dense = [
        nn.Flatten(),
        nn.Linear(192, 4),
        nn.Tanh(),
        nn.Linear(4, 4),
        nn.Tanh(),
        nn.Linear(4, 5),
        nn.Tanh(),
    ]
    made = parareal_network([*dense, nn.Linear(5, 2), nn.Softmax(-1)], 2, x)
    assert made.ends == (3, 5, 7)
    blocks = nn.Sequential(*[Block() for _ in range(4)])
    assert parareal_network(blocks, 2, torch.randn(2, 4)).ends == (0, 2, 4)
    net, x = images(
        "resnet"
    )  # conv, norm and relu; eight blocks and two transitions; pool, flatten, linear
    assert parareal_network(net, 1, x).ends == (3, 12)


def test_cuts_balance_the_costs():
    """As costly as can be told by trying all cuts."""
    net, x = images("resnet")
    made = parareal_network(net, 3, x)
    each = costs(Staged(net, 1).pieces, x)
    best = min(
        max(sum(each[a:b]) for a, b in pairwise((3, *cuts, 12)))
        for cuts in combinations(range(4, 12), 2)
    )
    assert max(sum(each[a:b]) for a, b in pairwise(made.ends)) == best


def test_parts_are_counted():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), *[Block() for _ in range(4)], nn.Linear(4, 2))
    made = parareal_network(net, 2, torch.randn(7, 3))
    block = 4 + 4 + (4 * 6 + 6) + (6 * 4 + 4), 2 * (4 * 6 + 6 * 4)
    opening, two = (16, 24), (2 * block[0], 2 * block[1])
    rows = {row.name: (row.parameters, row.operations) for row in made.describe()}
    assert rows == {
        "C^1": opening,
        "C^2": (opening[0] + block[0], opening[1] + block[1]),
        "g^1": two,
        "g^2": two,
        "F^1": block,
        "h": (10, 16),
    }
    assert list(rows) == ["C^1", "C^2", "g^1", "g^2", "F^1", "h"]
    assert sum(row.parameters for row in made.describe()) == sum(p.numel() for p in made.parameters())
    lines = table(made.describe()).splitlines()
    assert len(lines) == 7
    assert len({len(line) for line in lines}) == 1


def test_defaults_are_blocks_of_the_same_kind():
    from layerparallel.models.blocks import Basic, BottleneckResidual, Transition
    from layerparallel.network.serial_twins import SerialBody

    net, x = images("preactivation")  # a convolution; three times a transition and two steps; the head
    made = parareal_network(net, 4, x, cuts=[3, 6, 8])
    assert isinstance(made.coarse["1"], Transition)  # (16, 8, 8) to (32, 4, 4)
    assert isinstance(made.coarse["2"], Transition)
    step = made.coarse["3"]
    assert isinstance(step, SerialBody)
    assert isinstance(step[0], BottleneckResidual)
    far = parareal_network(net, 2, x, cuts=[3]).coarse["1"]  # (16, 8, 8) to (64, 2, 2)
    assert isinstance(far, nn.Sequential)
    assert [type(part) for part in far] == [nn.AvgPool2d, nn.Conv2d, SerialBody]
    net, x = images("resnet")
    made = parareal_network(net, 2, x, cuts=[5])
    assert any(isinstance(part, Basic) for part in made.coarse["1"].modules())


def dense(activation: type[nn.Module]) -> tuple[Any, Tensor]:
    """Single layers, an activation behind each, and an input."""
    layers = [module for _ in range(4) for module in (nn.Linear(6, 6), activation())]
    return nn.Sequential(*layers, nn.Linear(6, 3)).double(), torch.randn((4, 6), dtype=torch.float64)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    ("made", "mapped"),
    [
        (lambda: images("resnet"), True),  # units end in a ReLU
        (lambda: images("vgg"), True),
        (lambda: images("preactivation"), False),
        (lambda: dense(nn.ReLU), True),
        (lambda: dense(nn.Sigmoid), True),
        (lambda: dense(nn.Tanh), False),
    ],
)
def test_default_corrections_go_both_ways(made, mapped, depth):
    net, x = made()
    model = parareal_network(net, 3, x, coarse_depth=depth).eval()
    for j in (1, 2):
        coarse, shape = model.coarse[str(j)], model.prepared(j + 1, x).shape[1:]
        value = coarse(torch.randn((100, *shape), dtype=torch.float64))
        assert 0.02 < float((value < 0).double().mean()) < 0.98
        last = coarse[-1] if isinstance(coarse, nn.Sequential) else None
        assert (isinstance(last, nn.Conv2d | nn.Linear) and last.bias is None) == mapped


@pytest.mark.parametrize(("pixels", "kind"), [(1, nn.Conv1d), (3, nn.Conv3d)])
def test_signals_and_volumes_get_convolutions_too(pixels, kind):
    torch.manual_seed(0)
    norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[pixels]

    def unit(before: int, after: int, stride: int) -> list[nn.Module]:
        return [kind(before, after, 3, stride, 1), norm(after), nn.ReLU()]

    net = nn.Sequential(*unit(2, 4, 1), *unit(4, 4, 1), *unit(4, 4, 1), *unit(4, 6, 2), *unit(6, 6, 1))
    net.extend([nn.Flatten(), nn.LazyLinear(3)])
    net(x := torch.randn(5, 2, *[8] * pixels))
    made = parareal_network(net.double(), 3, x := x.double(), cuts=[6, 9])
    new = [*made.preprocessing.modules(), *made.coarse.modules()]
    assert not any(isinstance(m, nn.Linear) for m in new)
    assert {type(m) for m in new if hasattr(m, "kernel_size") and hasattr(m, "weight")} == {kind}
    gradients_agree(made, net, x)
    made.train()
    pieces = nn.Sequential(*unit(2, 4, 1), *unit(4, 4, 1), *unit(4, 4, 1), nn.Flatten(2)).double()
    any_length = parareal_network(pieces, 2, x, cuts=[6], closing=9)
    assert any_length(torch.randn(3, 2, *[12] * pixels).double()).shape[2] == 12**pixels


@pytest.mark.parametrize("seed", range(10))
def test_a_bias_is_not_taken_for_a_sign(seed):
    net = nn.Sequential(*[nn.Linear(1, 1) for _ in range(4)])
    made = parareal_network(net, 2, torch.ones(3, 1), seed=seed)
    assert [type(part) for part in made.coarse["1"].modules()][1:] == [nn.Linear]


@pytest.mark.parametrize(("T", "length"), [(2.0, 1.0), (1.0, 0.5)])
def test_a_coarse_step_is_as_long_as_its_steps(T, length):
    net = lp.Network(nn.Linear(3, 4), lp.chain(lp.Dense(4), 8, T=T), nn.Linear(4, 2))
    made = parareal_network(net, 2, torch.randn(5, 3))
    assert made.ends == (1, 5, 9)
    assert made.coarse["1"].h == length
    other = parareal_network(net, 2, torch.randn(5, 3), cuts=[3])
    assert other.coarse["1"].h == min(1.0, 6 * T / 8)


# ---- what cannot be -----------------------------------------------------------------------------


class Odd(nn.Module):
    """Returns no state."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}


@pytest.mark.parametrize(
    ("count", "options", "text"),
    [
        (
            6,
            {},
            "6 subnetworks cannot be made of the 5 layers between opening and closing; use from 1 to 5.",
        ),
        (0, {}, "0 subnetworks are too few; use 1 or more."),
        (3, {"cuts": [2]}, "1 cuts make 2 subnetworks, not 3; give 2 cuts, or 2 subnetworks."),
        (
            2,
            {"cuts": [1]},
            "The cuts [1] do not fit the pieces between opening and closing, 1 to 5; give growing "
            "numbers from 2 to 5, or opening= and closing= themselves.",
        ),
        (
            2,
            {"opening": 3, "closing": 9},
            "An opening of 3 pieces and a closing from piece 9 on do not fit a network of 7 pieces; "
            "give growing numbers from 0 to 7.",
        ),
        (
            2,
            {"coarse": lambda j, a, b: nn.Linear(4, 3)},
            "The coarse network F^1 makes (3,) of torch.float32 on cpu of a state of shape (4,), where "
            "(4,) of torch.float32 on cpu is needed; give another by coarse=.",
        ),
        (
            2,
            {"coarse": lambda j, a, b: nn.Linear(3, 4)},
            "The coarse network F^1 cannot take a state of shape (4,) (RuntimeError: mat1 and mat2 "
            "shapes cannot be multiplied (5x4 and 3x4)); give another by coarse=.",
        ),
        (
            3,
            {"preprocessing": lambda j, a, b: nn.Linear(3, 4).double() if j == 3 else nn.Linear(3, 4)},
            "The preprocessing C^3 cannot take a state of shape (3,)",
        ),
        (
            2,
            {"preprocessing": lambda j, a, b: Odd()},
            "The preprocessing C^2 makes a dict of a state of shape (3,), where (4,) of torch.float32 "
            "on cpu is needed; give another by preprocessing=.",
        ),
        (2.0, {}, "subnetworks = 2.0 is no whole number: give one."),
        (True, {}, "subnetworks = True is no whole number"),
        (2, {"seed": 1.5}, "seed = 1.5 is no whole number"),
        (2, {"cuts": 5}, "cuts = 5 is no sequence of whole numbers: give N - 1 growing"),
        (2, {"cuts": [2.5]}, "cuts = [2.5] is no sequence of whole numbers"),
        (2, {"coarse": nn.Linear(4, 4)}, "coarse is a Linear, where a function that makes each part"),
        (
            2,
            {"example": torch.randn(5, 2)},
            "Piece 0 of the network, Linear, cannot take the example, there (2,) of torch.float32 on "
            "cpu (RuntimeError: mat1 and mat2 shapes cannot be multiplied (5x2 and 3x4)); give an "
            "example like the network's inputs, samples first.",
        ),
        (2, {"example": torch.randn(5, 3).double()}, "Piece 0 of the network, Linear, cannot take the"),
        (
            2,
            {"example": None},
            "Piece 0 of the network, Linear, cannot take the example, there a NoneType",
        ),
        (2, {"example": torch.randn(0, 3)}, "The example of shape (0, 3) has no samples: give at least"),
        (2, {"example": torch.tensor(1.0)}, "The example of shape () has no samples: give at least one"),
        (
            2,
            {"coarse": lambda j, a, b: torch.tanh},
            "For the coarse network F^1 coarse= gave a builtin_function_or_method, which is no module; "
            "return an nn.Module.",
        ),
    ],
)
def test_wrong_input(count, options, text):
    net = nn.Sequential(nn.Linear(3, 4), *[Block() for _ in range(5)], nn.Linear(4, 2))
    given = {"example": torch.randn(5, 3), **options}
    with pytest.raises(InputError) as raised:
        parareal_network(net, count, **given)
    assert str(raised.value).startswith(text)
    assert "\n" not in str(raised.value)


def test_what_is_no_state_cannot_be_cut():
    net, x = BY_NAME["recurrence"].network(6), BY_NAME["recurrence"].input(6)
    with pytest.raises(InputError, match=r"whose states are tensors .*; use from 1 to 1"):
        parareal_network(net, 2, x)
    with pytest.raises(InputError, match="What is in front of piece 1, Driven, is no state"):
        parareal_network(net, 2, x, cuts=[3])


def test_a_shape_without_a_default_is_refused():
    net = [nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), nn.Linear(2, 2), nn.Flatten(), nn.Linear(4, 2)]
    text = (
        r"for the preprocessing C\^2 from states of shape \(4,\) to \(2, 2\); give one by preprocessing="
    )
    with pytest.raises(InputError, match=text):
        parareal_network(net, 2, torch.randn(3, 4), cuts=[2])


def test_what_it_is_distributed_over():
    made = parareal_network(linear([4, 4, 4]), 2, torch.randn(5, 4, dtype=torch.float64))
    for net in (made, Staged(linear([4, 4, 4]), 2), lp.Network(None, lp.chain(lp.Dense(4), 4), None)):
        over: Any = None
        with pytest.raises(
            InputError, match="cannot be distributed over a NoneType: give one dimension"
        ):
            net.distribute(over) if not isinstance(net, lp.Network) else lp.distribute(net, over)
    other: Any = made
    with pytest.raises(TypeError, match="PararealNetwork is no layerparallel"):
        lp.distribute(other, ALONE)


def test_names_that_are_taken_are_refused():
    from collections import OrderedDict

    net = nn.Sequential(OrderedDict(coarse=nn.Linear(3, 3), fine=nn.Linear(3, 3)))
    with pytest.raises(InputError, match="module named 'coarse'"):
        parareal_network(net, 1, torch.randn(2, 3))
