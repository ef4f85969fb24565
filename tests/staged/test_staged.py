"""A network cut into stages is the network, bit for bit; and the cuts are the best there are."""

import copy
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import BY_NAME, PROBLEMS, Block, pull_back
from ranks.rank_cases import several_chains
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.errors import InputError
from layerparallel.group import ALONE
from layerparallel.models import resnet, wide_resnet
from layerparallel.recipes.base import channels_last
from layerparallel.staged import Staged
from layerparallel.staged.cuts import ENTRY, costs
from layerparallel.steps.state import as_given, as_state
from layerparallel.training.backprop import Backprop
from layerparallel.training.layerwise import optimizer_state

NAMES = [problem.name for problem in PROBLEMS if "large" not in problem.name]
Gradients = Mapping[str, Tensor | None]


@st.composite
def cuts(draw: st.DrawFn, network: nn.Module, most: int = 4) -> list[int]:
    """Cuts that this network allows; none where it allows none of those drawn."""
    found: list[int] = []
    pieces = len(Staged(network, 1).pieces)
    for at in draw(st.lists(st.integers(1, pieces - 1), max_size=most, unique=True)):
        try:
            Staged(network, sorted([*found, at]))
        except InputError:
            continue
        found = sorted([*found, at])
    return found


def gradients(module: nn.Module) -> Gradients:
    return {name: p.grad for name, p in module.named_parameters()}


def same(found: Gradients, expected: Gradients) -> None:
    """Equal to the bit, under the same names."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        mine = found[name]
        assert (mine is None) == (value is None), name
        assert value is None or (mine is not None and torch.equal(mine, value)), name


# ---- the network --------------------------------------------------------------------------------


@given(data=st.data())
def test_stages_in_a_row_are_the_network(data):
    name, depth = data.draw(st.sampled_from(NAMES)), data.draw(st.integers(1, 9))
    problem = BY_NAME[name]
    net, x = problem.network(depth, "independent"), problem.input(depth)
    staged, twin = Staged(net, data.draw(cuts(net))), net.to_serial()
    assert [n for stage in staged.stages for n in stage] == list(range(depth + 2))
    expected, found = pull_back(twin, x), pull_back(staged, x)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    same(gradients(staged), gradients(twin))


@given(data=st.data())
def test_stages_pulled_back_one_by_one_give_the_gradient(data):
    """What a stage has at its beginning is the adjoint at the end of the stage before."""
    name = data.draw(st.sampled_from([name for name in NAMES if name != "recurrence"]))
    depth, problem = data.draw(st.integers(1, 9)), BY_NAME[name]
    net, x = problem.network(depth, "independent"), problem.input(depth)
    staged, twin = Staged(net, data.draw(cuts(net))), net.to_serial()
    begins, ends, state = [], [], as_state(x, "x")
    for k in range(staged.count):
        begins.append(tuple(a.detach().requires_grad_() for a in state))
        state = as_state(staged.stage(k)(as_given(begins[-1])), "its end")
        ends.append(state)
    (y,) = state
    weights = torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype).view(y.shape)
    adjoint: tuple[Tensor, ...] = ((weights + y).detach(),)
    for k in reversed(range(staged.count)):
        parameters = staged.parameters_of(k)
        found = torch.autograd.grad(ends[k], [*begins[k], *parameters], adjoint)
        adjoint = found[: len(begins[k])]
        for p, g in zip(parameters, found[len(begins[k]) :], strict=True):
            assert p.grad is None
            p.grad = g
    expected, expected_x = pull_back(twin, x)
    off = [(y.detach(), expected), (adjoint[0], expected_x)]
    off += [(p.grad, q.grad) for p, q in zip(staged.parameters(), twin.parameters(), strict=True)]
    for mine, theirs in off:
        assert mine is not None
        assert theirs is not None
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["resnet", "wide", "several chains"])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_transitions_batch_norm_and_dropout(family, stages):
    torch.manual_seed(0)
    made = {
        "resnet": lambda: resnet(14, width=2, shortcut="B"),
        "wide": lambda: wide_resnet(16, 1, width=2, dropout=0.3),
        "several chains": lambda: several_chains(5),
    }
    net = made[family]().double()
    x = torch.randn((6, 3) if family == "several chains" else (6, 3, 8, 8), dtype=torch.float64)
    staged, twin = Staged(net, stages, x), net.to_serial()
    assert staged.count == stages
    for _ in range(2):
        found = []
        for module in (staged, twin):
            torch.manual_seed(1)
            module.zero_grad()
            found.append(pull_back(module, x))
        assert torch.equal(found[0][0], found[1][0])
        same(gradients(staged), gradients(twin))
    same(staged.state_dict(), twin.state_dict())  # the running statistics, too
    assert torch.equal(staged.eval()(x), twin.eval()(x))


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_channels_last_weights_keep_states_and_gradients_so(shortcut):
    """Also where a stage begins with a state, and goes back with a gradient, in the usual order."""
    torch.manual_seed(0)
    net = resnet(14, width=2, shortcut=shortcut).double()
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    staged, plain = channels_last(Staged(copy.deepcopy(net), 3, x)), Staged(net, 3, x)
    seen: list[Tensor] = []

    def see(module: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        seen.append(given[0])
        output.register_hook(seen.append)

    for module in staged.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_hook(see)
    found = []
    for stages in (plain, staged):
        u, ends = x, []
        for k in range(3):
            start = u.detach().contiguous().requires_grad_()
            u = stages.stage(k)(start)
            u.backward(torch.ones_like(u, memory_format=torch.contiguous_format))
            ends += [u.detach(), start.grad]
        found.append([*ends, *(p.grad for p in stages.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)
    assert len(seen) == 2 * 13  # convolutions of 3x3, forward and back
    for a in seen:
        assert a.is_contiguous(memory_format=torch.channels_last), a.stride()


def test_training_is_that_of_the_plain_network():
    states = []
    for stages in (None, 1, 3):
        torch.manual_seed(0)
        net = BY_NAME["unlike"].network(7)
        module = net.to_serial() if stages is None else Staged(net, stages)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        method = Backprop(module, optimizer, nn.CrossEntropyLoss())
        for seed in range(3):
            method.step(BY_NAME["unlike"].input(7, seed), torch.tensor([0, 1, 1, 0, 1]))
        momenta = {k: each["momentum_buffer"] for k, each in optimizer_state(module, optimizer).items()}
        states.append((module.state_dict(), momenta))
    for state, momenta in states[1:]:
        same(state, states[0][0])
        same(momenta, states[0][1])


@pytest.mark.parametrize("name", ["dense tanh", "unlike", "tied", "verlet", "step function"])
def test_states_fit_in_both_directions(name):
    problem = BY_NAME[name]
    net, other = problem.network(6), problem.network(6, seed=5)
    staged, x = Staged(net, 2), problem.input(6)
    assert list(staged.state_dict()) == list(net.to_serial().state_dict())
    assert staged.state_dict().keys() == net.state_dict().keys()
    staged.load_state_dict(other.state_dict())
    expected = other(x).detach()
    torch.testing.assert_close(staged(x).detach(), expected, rtol=1e-12, atol=1e-12)
    net.load_state_dict(staged.state_dict())
    assert torch.equal(net(x), other(x))


class Encoder(nn.Sequential):
    """Does as its parent does."""


def test_what_is_taken_apart():
    layers = [nn.Linear(3, 3) for _ in range(5)]
    nested = nn.Sequential(layers[0], nn.Sequential(layers[1], nn.ReLU()), *layers[2:])
    named = nn.Sequential(OrderedDict(stage=Encoder(*layers[:2]), group=layers[2], count=layers[3]))
    chain = lp.Network(nn.Sequential(*layers[:2]), lp.chain(Block(3), 4), None)
    x = torch.randn(4, 3)
    for network, pieces in (
        (nested, 6),
        (Encoder(*layers), 5),
        (named, 4),
        (chain, 7),
        (chain.to_serial(), 7),
        (nn.Sequential(layers[4], chain.to_serial(), nn.ReLU()), 9),
    ):
        staged = Staged(network, 2)
        assert len(staged.pieces) == pieces
        assert staged.state_dict().keys() == network.state_dict().keys()
        torch.testing.assert_close(staged(x), network(x))
        assert staged.count == 2
        assert staged.mine == range(2)
        assert staged.group is ALONE
        assert staged.distribute(ALONE) is staged
    listed = Staged([layers[0], nn.ModuleList(layers[1:3]), nested], 2)
    assert len(listed.pieces) == 9
    assert torch.equal(listed(x), nested(layers[2](layers[1](layers[0](x)))))


def test_parameters_of_all_stages_are_those_of_the_network():
    staged = Staged(resnet(20, width=2), 3)
    found = [p for k in range(3) for p in staged.parameters_of(k)]
    assert [id(p) for p in found] == [id(p) for p in staged.parameters()]


def test_a_network_is_copied_and_modules_are_not():
    net = BY_NAME["dense tanh"].network(4)
    assert not {*Staged(net, 2).parameters()} & {*net.parameters()}
    plain = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    assert [id(p) for p in Staged(plain, 2).parameters()] == [id(p) for p in plain.parameters()]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda staged: pickle.loads(pickle.dumps(staged))])
def test_copies_have_stages_of_their_own(how):
    staged = Staged(resnet(14, width=2), 2)
    staged.eval()
    x = torch.randn(2, 3, 8, 8)
    before = staged(x)
    copied = how(staged)
    assert torch.equal(copied(x), before)
    assert copied.stages == staged.stages
    with torch.no_grad():
        for p in copied.parameters():
            p.mul_(2)
    assert torch.equal(staged(x), before)
    assert not torch.equal(copied(x), before)
    found = [p for k in range(2) for p in copied.parameters_of(k)]
    assert [id(p) for p in found] == [id(p) for p in copied.parameters()]


# ---- cuts ---------------------------------------------------------------------------------------


def is_legal(pieces: list[nn.Module], ends: tuple[int, ...]) -> bool:
    """Whether every stage has parameters and none in common with another."""
    stages = [{p for module in pieces[a:b] for p in module.parameters()} for a, b in pairwise(ends)]
    return all(stages) and sum(map(len, stages)) == len(set.union(*stages))


@given(data=st.data())
def test_the_costliest_stage_costs_least(data):
    """Against all cuts there are; the modules drawn may be the same one at several places."""
    kinds = [
        nn.PReLU,
        lambda: nn.Linear(1, 1),
        lambda: nn.Linear(4, 2, bias=False).requires_grad_(False),
        lambda: nn.LayerNorm(3),
        nn.Identity,
    ]
    pool = [kinds[k]() for k in data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=9))]
    pool = [Held(module) for module in pool]
    fresh, again = list(range(len(pool))), st.integers(0, len(pool) - 1)
    order = data.draw(st.permutations(fresh + data.draw(st.lists(again, max_size=2))))
    pieces = [pool[n] for n in order]
    count = data.draw(st.integers(1, len(pieces)))
    sizes = [sum(p.numel() for p in module.parameters()) for module in pieces]
    every = ((0, *cut, len(pieces)) for cut in combinations(range(1, len(pieces)), count - 1))
    legal = [ends for ends in every if is_legal(pieces, ends)]
    if not legal:
        with pytest.raises(InputError, match=rf"^{count} stages are too many: .*\.$"):
            Staged(pieces, count)
        return
    least = min(max(sum(sizes[a:b]) for a, b in pairwise(ends)) for ends in legal)
    found = Staged(pieces, count).stages
    ends = (0, *(stage.stop for stage in found))
    assert ends in legal
    assert max(sum(sizes[n] for n in stage) for stage in found) == least
    Staged(pieces, list(ends[1:-1]))  # allowed when asked for, too


class Held(nn.Module):
    """Is never taken apart."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, u: Tensor) -> Tensor:
        return self.inner(u)


def test_operations_are_counted():
    convolutions = [nn.Conv2d(1, 4, 3, padding=1), *(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))]
    network = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(1024, 20))
    x = torch.randn(3, 1, 16, 16)
    pieces = Staged(network, 1).pieces
    products = [3 * 256 * 9 * 4, 3 * 256 * 9 * 16, 3 * 256 * 9 * 16, 0, 3 * 1024 * 20]
    written = [3 * 1024, 3 * 1024, 3 * 1024, 0, 3 * 20]  # nothing by the view
    assert costs(pieces, x) == [
        2 * count + ENTRY * each for count, each in zip(products, written, strict=True)
    ]
    assert costs(pieces, None) == [40, 148, 148, 0, 20500]
    assert [len(stage) for stage in Staged(network, 2, x).stages] == [2, 3]
    assert [len(stage) for stage in Staged(network, 2).stages] == [4, 1]
    uncounted = nn.Sequential(nn.LayerNorm(3), nn.LayerNorm(3))
    assert [len(stage) for stage in Staged(uncounted, 2, torch.randn(2, 3)).stages] == [1, 1]


def test_attention_is_counted_in_evaluation_mode():
    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(4)]
    found = costs(Staged(layers, 1).pieces, torch.randn(2, 5, 8))
    # q, k, v and what comes out of them; scores and their weighting; two layers of 16
    products = 2 * (2 * 5) * (4 * 64 + 2 * 5 * 8 + 2 * 8 * 16)
    assert found == [found[0]] * 4
    assert (found[0] - products) % ENTRY == 0
    assert found[0] > products


def test_counting_leaves_no_trace():
    network = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.BatchNorm1d(4).eval(), nn.Linear(4, 2)
    )
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes, random = [part.training for part in network.modules()], torch.get_rng_state()
    Staged(network, 2, torch.ones(5, 3))
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in network.modules()] == modes
    assert modes.count(False) == 1
    same(network.state_dict(), state)
    assert all(p.grad is None for p in network.parameters())


def test_deep_networks_are_cut_at_once():
    staged = Staged(lp.Network(None, lp.chain(lp.Dense(2), 1001), None), 7)
    assert {len(stage) for stage in staged.stages} <= {143, 144, 145}


def linears(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))


def shared() -> nn.Sequential:
    network = linears(3, 3, 3, 3)
    network[2].weight = network[0].weight
    return network


def tied(depth: int) -> lp.Network:
    return lp.Network(nn.Linear(3, 4), lp.chain(nn.Linear(4, 4), depth, tied=True), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Staged(linears(3, 3, 3), 3), "3 stages cannot be made of a network of 2 pieces; use"),
        (lambda: Staged(linears(3, 3, 3), 0), "0 stages cannot be made of a network of 2 pieces; use"),
        (
            lambda: Staged([*linears(3, 3, 3), nn.ReLU(), nn.ReLU()], 3),
            "3 stages are too many: only 2 of the 4 pieces have parameters, .*; use at most 2",
        ),
        (lambda: Staged([nn.ReLU(), nn.Tanh()], 2), "only 0 of the 2 pieces .*; give a network with"),
        (
            lambda: Staged(shared(), 2),
            "2 stages are too many: pieces such as 0 and 2 share a parameter .*; use at most 1",
        ),
        (lambda: Staged(tied(6), 4), "such as 1 and 2 share a parameter .*; use at most 3"),
        (lambda: Staged(tied(6), [1, 4]), "The cut at 4 parts the pieces 3 and 4, .* shape .4, 4.; cut"),
        (lambda: Staged(shared(), [1]), "The cut at 1 parts the pieces 0 and 2, .* shape .3, 3.; cut"),
        (lambda: Staged([*linears(3, 3), nn.ReLU(), *linears(3, 3)], [1, 2]), "Stage 1, pieces 1 to 1 "),
        (lambda: Staged(linears(3, 3, 3), [2]), r"The cuts \[2\] do not fit the 2 pieces .* to 1\.$"),
        (lambda: Staged(linears(3, 3, 3, 3), [2, 1]), r"The cuts \[2, 1\] do not fit the 3 pieces"),
        (lambda: Staged(linears(3, 3, 3, 3), [0, 1]), "give growing numbers from 1 to 2"),
    ],
)
def test_what_cannot_be_cut(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text


def test_what_cannot_be_taken_apart():
    with pytest.raises(TypeError, match=r"Linear has a forward of its own, .* give its modules"):
        Staged(nn.Linear(3, 3), 1)
    with pytest.raises(TypeError, match=r"is not a module; give torch\.nn modules"):
        Staged([nn.Linear(3, 3), torch.relu], 1)
