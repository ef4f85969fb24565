"""Residual networks, serially or by multigrid to finite termination, are their plain torch twins.

The twins (plain_networks.py) are written independently of the library. Compared in float64: outputs of
training forwards and of evaluation, every gradient relative to the largest of its chain, running
statistics after one and after two training forwards.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_networks import BottleneckBlock, PlainPreactivation, PlainResNet, WideBlock
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.models import preactivation_resnet, resnet, wide_resnet

TOLERANCE = 1e-10


@dataclass(frozen=True)
class Family:
    plain: Callable[[int], nn.Module]
    ours: Callable[..., lp.Network]
    """Of the number of blocks in a stage, and options."""


FAMILIES = {
    "resnet": Family(lambda n: PlainResNet(n, 3, 5), lambda n, **o: resnet(6 * n + 2, 5, width=3, **o)),
    "resnet-B": Family(
        lambda n: PlainResNet(n, 3, 5, projected=True),
        lambda n, **o: resnet(6 * n + 2, 5, width=3, shortcut="B", **o),
    ),
    "preactivation": Family(
        lambda n: PlainPreactivation(BottleneckBlock, n, 2, 8, 5),
        lambda n, **o: preactivation_resnet(9 * n + 2, 5, width=2, **o),
    ),
    "wide": Family(
        lambda n: PlainPreactivation(WideBlock, n, 2, 4, 5),
        lambda n, **o: wide_resnet(6 * n + 4, 2, 5, width=2, **o),
    ),
}


def pair(family: str, blocks: int, **options) -> tuple[nn.Module, lp.Network]:
    """The plain network and ours with the same state, batch norms away from their first values."""
    torch.manual_seed(blocks)
    plain = FAMILIES[family].plain(blocks).double()
    for part in plain.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.0)
            nn.init.normal_(part.bias, std=0.1)
            nn.init.normal_(part.get_buffer("running_mean"), std=0.1)
    net = FAMILIES[family].ours(blocks, **options).double()
    names = {name: type(plain).ours(name) for name in plain.state_dict()}  # type: ignore[attr-defined]
    net.load_state_dict({names[name]: value for name, value in plain.state_dict().items()})
    return plain, net


def images(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)


def by_layer(net: lp.Network) -> dict[str, Tensor]:
    """Gradients under the names of the state dict."""
    found = {}
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        pattern, layers = net.layer_name(name)
        found |= {pattern.format(n=n): p.grad[n] for n in range(layers)} if layers else {pattern: p.grad}
    return found


def off(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max())


def compare(plain: nn.Module, net: lp.Network) -> None:
    """Two training forwards with gradients, then evaluation."""
    ours = type(plain).ours  # type: ignore[attr-defined]
    assert {ours(name) for name in plain.state_dict()} == set(net.state_dict())
    for seed in (1, 2):
        plain.zero_grad()
        net.zero_grad()
        expected, output = plain(images(seed)), net(images(seed))
        assert off(output, expected) < TOLERANCE
        weights = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
        (expected * weights).sum().backward()
        (output * weights).sum().backward()

        gradients = by_layer(net)
        reference = {ours(name): p.grad for name, p in plain.named_parameters() if p.grad is not None}
        assert gradients.keys() == reference.keys()
        largest: dict[str, float] = {}  # of every chain, transition, opening, closing
        for name, g in reference.items():
            place = ".".join(name.split(".")[:2])
            largest[place] = max(largest.get(place, 0.0), float(g.abs().max()))
        for name, g in reference.items():
            scale = largest[".".join(name.split(".")[:2])]
            assert float((gradients[name] - g).abs().max()) < TOLERANCE * scale, name

        state = net.state_dict()
        for name, buffer in plain.named_buffers():
            mine = state[ours(name)]
            if "num_batches" in name:
                assert int(mine) == int(buffer) == seed
            else:
                assert off(mine, buffer) < TOLERANCE, name
    plain.eval()
    net.eval()
    with torch.no_grad():
        expected, output = plain(images(3)), net(images(3))
        assert off(output, expected) < TOLERANCE
    unchanged = net.state_dict()
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(unchanged[ours(name)], buffer, rtol=TOLERANCE, atol=TOLERANCE)


def to_the_end(net: lp.Network, coarsening: int, **options) -> tuple[lp.MGRIT | lp.Serial, ...]:
    """Multigrid with as many cycles as every chain has intervals, and one to spare."""
    solvers: list[lp.MGRIT | lp.Serial] = []
    for chain in net.chains:
        cycles = chain.depth // coarsening + 2
        several = chain.depth >= coarsening
        solvers.append(
            lp.MGRIT(
                coarsening=coarsening,
                forward_cycles=cycles,
                adjoint_cycles=cycles,
                tolerance=1e-14,
                guard=False,
                **options,
            )
            if several
            else lp.Serial()
        )
    return tuple(solvers)


@pytest.mark.parametrize("stacked", [False, True], ids=["own", "stacked"])
@pytest.mark.parametrize("family", FAMILIES)
def test_serially(family, stacked):
    compare(*pair(family, 3, stacked=stacked))


@pytest.mark.parametrize("stacked", [False, True], ids=["own", "stacked"])
@pytest.mark.parametrize("family", FAMILIES)
def test_to_finite_termination(family, stacked):
    """Chains of 7 or 6 blocks by intervals of 2: the last block of one is in no interval."""
    plain, net = pair(family, 7, stacked=stacked)
    net.solver = to_the_end(net, 2, coarse="mean_residual")
    net.evaluate_with = net.solver
    compare(plain, net)
    assert not net.fallbacks
    assert all(len(solution.residuals) > 1 for solution in (*net.solutions, *net.adjoint_solutions))


@settings(max_examples=8, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    blocks=st.integers(2, 6),
    coarsening=st.integers(2, 4),
    coarse=st.sampled_from(["inject", "mean_residual", "picard"]),
    relaxation=st.integers(0, 1),
)
def test_any_depth_and_coarsening(family, blocks, coarsening, coarse, relaxation):
    plain, net = pair(family, blocks)
    net.solver = to_the_end(net, coarsening, coarse=coarse, relaxation=relaxation)
    compare(plain, net)


@pytest.mark.parametrize("family", FAMILIES)
def test_serial_twin_speaks_the_same_names(family):
    _, net = pair(family, 3)
    twin = net.to_serial()
    assert twin.state_dict().keys() == net.state_dict().keys()
    x = images(1)
    assert off(net(x), twin(x)) < TOLERANCE
    assert off(copy.deepcopy(net).eval()(x), twin.eval()(x)) < TOLERANCE
