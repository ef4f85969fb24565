"""No part of a parareal network sees what another one has changed in place."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Block
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import layerparallel as lp
from layerparallel.errors import InputError
from layerparallel.parareal import PararealNetwork, parareal_network, warp

KINDS = ["relu", "dropout", "scaled", "row", "identity"]
"""Of the units' first operation."""


class Unit(nn.Module):
    """Something done to the state, in place or not, and a linear map of it."""

    def __init__(self, kind: str, inplace: bool):
        super().__init__()
        self.kind, self.inplace, self.linear = kind, inplace, nn.Linear(5, 5)

    def forward(self, u: Tensor) -> Tensor:
        v = u if self.inplace else u.clone()
        if self.kind == "relu":
            v.relu_()
        elif self.kind == "dropout" and self.training:
            v.mul_(0.5)
        elif self.kind == "scaled":
            v.view(-1, 5).sub_(0.5).div_(0.25)
        elif self.kind == "row":
            v[:, 2] = 1.0
        return self.linear(v)


class Normalised(nn.Module):
    """As images are, in place or not."""

    def __init__(self, inplace: bool):
        super().__init__()
        self.inplace = inplace

    def forward(self, u: Tensor) -> Tensor:
        return (u if self.inplace else u.clone()).sub_(0.5).div_(0.25)


def network(kinds: Sequence[str], opening: str, inplace: bool) -> nn.Sequential:
    """From (B, 4), or (B, 5) without a linear map in the opening, to (B, 3), in float64."""
    torch.manual_seed(0)
    first: dict[str, list[nn.Module]] = {
        "none": [],
        "view": [nn.Flatten()],
        "normalised": [Normalised(inplace)],
        "linear": [nn.Linear(4, 5)],
        "both": [Normalised(inplace), nn.Linear(4, 5)],
    }
    units = [Unit(kind, inplace) for kind in kinds]
    closing = [nn.ReLU(inplace=inplace), nn.Linear(5, 3)]
    return nn.Sequential(*first[opening], *units, *closing).double()


def pair(
    kinds: Sequence[str], opening: str, count: int, cuts: list[int] | None = None
) -> tuple[PararealNetwork, PararealNetwork, Tensor]:
    """A parareal network of units in place, its twin that changes nothing, and an input."""
    x = torch.randn(6, 4 if opening in ("linear", "both") else 5, dtype=torch.float64)
    ends = {"none": 0, "view": 1, "normalised": 1, "linear": 1, "both": 2}
    first = ends[opening]
    options: dict[str, Any] = {"opening": first, "closing": first + len(kinds), "cuts": cuts}
    if cuts is not None:
        options["cuts"] = [first + cut for cut in cuts]
    nets = [
        parareal_network(network(kinds, opening, inplace), count, x.clone(), **options)
        for inplace in (True, False)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    return nets[0], nets[1], x


def gradients(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, and gradients of the input and of all parameters."""
    x = x.clone().requires_grad_()
    y = net(x)
    loss = (torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype).view(y.shape) * y + y.square()).sum()
    wanted = [p for p in net.parameters() if p.requires_grad]
    return [y.detach(), *torch.autograd.grad(loss, [x, *wanted])]


def alike(mine: PararealNetwork, twin: PararealNetwork, x: Tensor) -> None:
    """In values, gradients and corrections, in both modes, several times; the input is left alone."""
    before = x.clone()
    for mode in (True, False):
        for net in (mine, twin):
            net.train(mode)
        for _ in range(3):
            torch.testing.assert_close(gradients(mine, x), gradients(twin, x), rtol=1e-12, atol=1e-12)
            assert torch.equal(x, before)
        with torch.no_grad():
            torch.testing.assert_close(mine(x), twin(x), rtol=1e-12, atol=1e-12)
        assert torch.equal(x, before)
    for found, expected in zip(mine.corrections(x), twin.corrections(x), strict=True):
        assert found.jump == pytest.approx(expected.jump, rel=1e-12)
        assert found.size == pytest.approx(expected.size, rel=1e-12)


@settings(max_examples=40)
@given(data=st.data())
def test_no_part_sees_what_another_has_changed(data):
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=2, max_size=6))
    opening = data.draw(st.sampled_from(["none", "view", "normalised", "linear", "both"]))
    cuts = data.draw(st.lists(st.integers(1, len(kinds) - 1), min_size=1, max_size=3, unique=True))
    alike(*pair(kinds, opening, len(cuts) + 1, sorted(cuts)))


@pytest.mark.parametrize("opening", ["linear", "both"])
def test_one_subnetwork_is_the_network_and_leaves_its_input(opening):
    mine, twin, x = pair(["relu", "scaled", "row"], opening, 1)
    alike(mine, twin, x)
    plain = network(["relu", "scaled", "row"], opening, False).train(mine.training)
    torch.testing.assert_close(mine(x), plain(x), rtol=1e-12, atol=1e-12)


class Itself(nn.Module):
    """A preprocessing that returns its input, or changes that and returns it."""

    def __init__(self, changes: bool):
        super().__init__()
        self.changes = changes

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2.0) if self.changes else x


@pytest.mark.parametrize("changes", [False, True])
def test_own_parts_may_share_and_change_what_they_get(changes):
    """All x_j are the input itself; the coarse parts change the differences they get."""
    x, nets = torch.randn(6, 5, dtype=torch.float64), []
    for inplace in (True, False):
        parts = iter([Itself(changes) for _ in range(2)])
        torch.manual_seed(1)
        made = parareal_network(
            network(["relu", "scaled", "row"], "none", inplace),
            3,
            x,
            cuts=[1, 2],
            opening=0,
            closing=3,
            preprocessing=lambda j, a, b, parts=parts: next(parts),
            coarse=lambda j, a, b, inplace=inplace: Unit("scaled", inplace).double(),
        )
        nets.append(made)
    nets[1].load_state_dict(nets[0].state_dict())
    if changes:  # the twin's do not
        for part in nets[1].preprocessing.values():
            part.register_forward_pre_hook(lambda module, given: (given[0].clone(),))
    alike(nets[0], nets[1], x)


def test_states_of_several_tensors():
    class Two(nn.Module):
        def __init__(self, inplace: bool):
            super().__init__()
            self.inplace, self.linear = inplace, nn.Linear(5, 5)

        def forward(self, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            a, b = state if self.inplace else (state[0].clone(), state[1].clone())
            b.relu_()
            return self.linear(b), a.mul_(0.5) + b

    class Split(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x + 1, x * x

    class Last(nn.Module):
        def forward(self, state: tuple[Tensor, Tensor]) -> Tensor:
            return state[0] * state[1]

    nets, x = [], torch.randn(6, 5, dtype=torch.float64)
    for inplace in (True, False):
        torch.manual_seed(0)
        net = nn.Sequential(Split(), *[Two(inplace) for _ in range(4)], Last()).double()
        nets.append(parareal_network(net, 2, x, opening=1, closing=5, cuts=[3]))
    nets[1].load_state_dict(nets[0].state_dict())
    alike(nets[0], nets[1], x)


# ---- while it is built --------------------------------------------------------------------------


@pytest.mark.parametrize("opening", ["none", "normalised", "linear", "both"])
def test_building_leaves_the_example_and_makes_the_same_network(opening):
    example = torch.rand(6, 4 if opening in ("linear", "both") else 5, dtype=torch.float64)
    before, made = example.clone(), []
    for inplace in (True, False):
        net = network(["relu", "scaled", "relu", "row"], opening, inplace)
        made.append(parareal_network(net, 2, example))
        assert torch.equal(example, before)
    assert made[0].ends == made[1].ends
    assert made[0].describe() == made[1].describe()
    for (name, p), q in zip(made[0].named_parameters(), made[1].parameters(), strict=True):
        assert torch.equal(p, q), name


# ---- in one batch, and where changes are not counted --------------------------------------------


@pytest.mark.parametrize("kind", ["relu", "scaled"])
def test_many_small_parts_are_one_batch_and_then_in_turn(kind):
    mine, twin, x = pair([kind] * 9, "linear", 9, list(range(1, 9)))
    assert mine.alike == twin.alike == (range(9),)
    alike(mine, twin, x)
    for net in (mine, twin):
        net.pieces(4)[0].module.extra = 1  # type: ignore[assignment]
    alike(mine, twin, x)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("opening", ["none", "both"])
def test_where_changes_are_not_counted(known, opening):
    mine, twin, x = pair(["relu", "row", "scaled"], opening, 3)
    for net in (mine.eval(), twin.eval()):
        if known:
            net(x)
    for _ in range(3):
        with torch.inference_mode():
            given = x.clone()  # one of inference mode
            assert torch.equal(mine(given), twin(given))
            assert torch.equal(given, x)
            assert torch.equal(mine(x), twin(x))
        assert torch.equal(mine(given), twin(given))
    several = torch.stack([x, x + 1, x - 1])
    found = torch.vmap(mine)(several.clone())
    torch.testing.assert_close(found, torch.stack([twin(each) for each in several]))
    found, expected = (torch.func.jacrev(net)(x[:1]) for net in (mine, twin))
    torch.testing.assert_close(found, expected)
    compiled = torch.compile(mine, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x.clone()), twin(x))
    assert torch.equal(mine(x), twin(x))  # nothing wrong was learnt there


# ---- what it costs, and changes that come later -------------------------------------------------


class Copies(TorchDispatchMode):
    """Counts copies."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.clone.default
        return func(*args, **(kwargs or {}))


def copies(net: nn.Module, x: Tensor) -> int:
    with Copies() as found:
        net(x)
    return found.count


def test_only_parts_that_change_their_input_get_copies():
    torch.manual_seed(0)
    layers = [module for _ in range(4) for module in (nn.Linear(5, 5), nn.Tanh())]
    plain = nn.Sequential(nn.Linear(4, 5), *layers)
    x = torch.randn(6, 4)
    net = parareal_network(plain, 3, x)
    for mode in (True, False):
        net.train(mode)
        assert [copies(net, x) for _ in range(3)] == [6, 0, 0]
    mine, _, x = pair(["relu", "identity", "row"], "both", 3)
    preprocessing = 3  # all of them have a copy of the opening
    assert [copies(mine, x) for _ in range(3)] == [6] + [preprocessing + 2] * 2
    assert copies(copy.deepcopy(mine), x) == preprocessing + 2


@pytest.mark.parametrize("kind", ["nothing in place", "relu"])
def test_all_calls_are_alike_to_the_bit(kind):
    """The first, which gets copies, too: a run that goes on elsewhere ends as it would have."""
    torch.manual_seed(0)
    units = [Unit("relu", True) if kind == "relu" else Block(4) for _ in range(6)]
    width = 5 if kind == "relu" else 4
    net = parareal_network(
        nn.Sequential(nn.Linear(3, width), *units, nn.Linear(width, 2)), 3, x := torch.randn(7, 3)
    )
    first, *others = [gradients(net, x) for _ in range(3)]
    for each in others:
        assert all(torch.equal(mine, expected) for mine, expected in zip(each, first, strict=True))


@pytest.mark.parametrize("where", ["opening", "subnetwork"])
def test_a_change_that_comes_later_is_noticed(where):
    mine, twin, x = pair(["identity"] * 3, "normalised", 3)
    first = mine.pieces("opening" if where == "opening" else 2)[0].module
    if where == "opening":
        first.inplace = False  # type: ignore[assignment]
    expected = [twin(x), mine(x), mine(x)]
    assert torch.equal(expected[0], expected[2])
    if where == "opening":
        first.inplace = True  # type: ignore[assignment]
        text = r"The preprocessing C\^1 changed its input in place, which it did not do at first and "
    else:
        for net in (mine, twin):
            net.pieces(2)[0].module.kind = "relu"  # type: ignore[assignment]
        text = r"The subnetwork g\^2 changed its input in place, which it did not do at first and "
    given = x.clone()
    with pytest.raises(InputError, match=text + r"others still need; call again with the input as it"):
        mine(given)
    for _ in range(2):
        assert torch.equal(mine(x), twin(x))


# ---- the K-warp operator ------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["as ever", "inference mode"])
@pytest.mark.parametrize("integrator", ["euler", "block"])
def test_units_of_one_operator_may_not_change_its_state(integrator, way):
    def made(inplace: bool, K: int) -> nn.Module:
        torch.manual_seed(0)
        units = [Unit("scaled", inplace) for _ in range(4)]
        chain = lp.chain(units, integrator=integrator)
        return warp(lp.Network(nn.Linear(4, 5), chain, nn.Linear(5, 3)), K).double().eval()

    x = torch.randn(6, 4, dtype=torch.float64)
    with torch.inference_mode(way == "inference mode"):
        for _ in range(2):
            with pytest.raises(InputError, match="Piece 1 of the network changes its state in"):
                made(True, 2)(x)
        made(True, 1)(x)
        net = made(False, 2)
        assert torch.equal(net(x), net(x))
