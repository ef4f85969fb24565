"""The residual networks of layerparallel.models: sizes, weights, options."""

import pytest
import torch
from torch import nn

import layerparallel as lp
from layerparallel.models import preactivation_resnet, resnet, wide_resnet


def small(family: str, **options) -> lp.Network:
    """A network of a few thousand weights with chains of 2 and 3 blocks."""
    if family == "resnet":
        return resnet(20, width=4, classes=5, **options)
    if family == "preactivation":
        return preactivation_resnet(29, width=4, classes=5, **options)
    return wide_resnet(22, widen=2, width=2, classes=5, **options)


FAMILIES = ("resnet", "preactivation", "wide")


def chosen(net: nn.Module, kinds: tuple[type, ...]) -> int:
    return sum(p.numel() for part in net.modules() if isinstance(part, kinds) for p in part.parameters())


@pytest.mark.parametrize(
    ("make", "published", "exact"),
    [
        (lambda: resnet(20), 0.27e6, 269_722),
        (lambda: resnet(32), 0.46e6, 464_154),
        (lambda: resnet(44), 0.66e6, 658_586),
        (lambda: resnet(56), 0.85e6, 853_018),
        (lambda: resnet(110), 1.7e6, 1_727_962),
        (lambda: preactivation_resnet(164), 1.7e6, 1_703_258),
        (lambda: wide_resnet(40, 2), 2.2e6, 2_243_546),
        (lambda: wide_resnet(16, 4), None, 2_748_890),
        (lambda: wide_resnet(16, 8), 11.0e6, 10_961_370),
        (lambda: wide_resnet(28, 10), 36.5e6, 36_479_194),
        (lambda: wide_resnet(40, 10), 55.8e6, 55_841_754),
    ],
    ids=["20", "32", "44", "56", "110", "164", "40-2", "16-4", "16-8", "28-10", "40-10"],
)
def test_parameters_are_as_many_as_published(make, published, exact):
    with torch.device("meta"):
        count = sum(p.numel() for p in make().parameters())
    assert count == exact
    if published is not None:  # to the digits printed
        digits = 2 if published < 10e6 else 3
        assert float(f"{count:.{digits - 1}e}") == published


def test_parameters_of_1001_layers():
    """The paper's 10.2 M are the weights of convolutions and classifier; batch norm adds 0.15 M."""
    with torch.device("meta"):
        net = preactivation_resnet(1001)
    assert chosen(net, (nn.Conv2d, nn.Linear)) == 10_178_490
    assert chosen(net, (nn.BatchNorm2d,)) == 149_216
    assert sum(p.numel() for p in net.parameters()) == 10_327_706


def test_layers_are_as_many_as_the_depth_says():
    """Convolutions and the classifier on the longest way through."""
    with torch.device("meta"):
        for net, depth, beside in ((resnet(44), 44, 0), (preactivation_resnet(164), 164, 3)):
            layers = sum(isinstance(part, nn.Conv2d | nn.Linear) for part in net.modules())
            assert layers - beside == depth  # the projections stand beside the transitions
        net = wide_resnet(28, 2)  # the paper counts its three projections
        assert sum(isinstance(part, nn.Conv2d) for part in net.modules()) == 28


def test_chains_and_transitions():
    with torch.device("meta"):
        assert [chain.depth for chain in resnet(56).chains] == [9, 8, 8]
        assert [chain.depth for chain in preactivation_resnet(164).chains] == [17, 17, 17]
        assert [chain.depth for chain in wide_resnet(40, 10).chains] == [5, 5, 5]
        assert {chain.integrator for chain in resnet(20).chains} == {"block"}
        assert {chain.integrator for chain in wide_resnet(40, 4).chains} == {"euler"}
        assert {chain.h for chain in preactivation_resnet(29, h=0.5).chains} == {0.5}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_a_seed_do_not_depend_on_stacking(family):
    states = []
    for stacked in (False, True):
        torch.manual_seed(3)
        states.append(small(family, stacked=stacked).state_dict())
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_layers_are_drawn_independently_with_the_spread_of_he():
    torch.manual_seed(0)
    net = wide_resnet(40, 2)
    draws = [value for name, value in net.state_dict().items() if name.startswith("body.5.")]
    weights = [value for value in draws if value.dim() == 4]
    assert len(weights) == 10
    spread = (2 / (9 * 128)) ** 0.5
    for k, weight in enumerate(weights):
        assert float(weight.std()) == pytest.approx(spread, rel=0.02)
        for other in weights[:k]:
            cosine = torch.cosine_similarity(weight.flatten(), other.flatten(), dim=0)
            assert abs(float(cosine)) < 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_no_gain_is_the_identity_and_learns(family):
    torch.manual_seed(0)
    net = small(family, gain=0.0)
    x = torch.randn(8, 3, 8, 8)
    body = net.chains[0]
    u = torch.randn(8, 4 if family != "preactivation" else 16, 8, 8).relu()
    alone = lp.Network(None, body, None)
    assert torch.equal(alone(u), u)
    net(x).square().sum().backward()
    last = "bn2" if family == "resnet" else "conv3" if family == "preactivation" else "conv2"
    gradients = [p.grad for name, p in body.named_parameters() if f".{last}." in name]
    assert len(gradients) >= 2
    assert all(g is not None and bool(g.any()) for g in gradients)


def test_dropout_stands_between_the_convolutions():
    torch.manual_seed(0)
    net = small("wide", dropout=0.4)
    assert sum(isinstance(part, nn.Dropout) for part in net.modules()) == 9
    x = torch.randn(4, 3, 8, 8)
    torch.manual_seed(1)
    first = net(x)
    torch.manual_seed(1)
    with net.solved_by(lp.MGRIT(coarsening=2, forward_cycles=2, guard=False)):  # two cycles are exact
        second = net(x)
    torch.manual_seed(2)
    third = net(x)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    assert (first - third).abs().max() > 1e-2
    net.eval()
    assert torch.equal(net(x), net(x))


def test_images_of_other_channels_and_sizes():
    net = resnet(14, classes=7, in_channels=1, width=2, shortcut="B")
    assert net(torch.randn(3, 1, 9, 7)).shape == (3, 7)
    assert sum("shortcut.0" in name for name in net.state_dict()) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resnet(21), "depth 21 .* use 6 n .* such as 20 or 26"),
        (lambda: resnet(8), "such as 14 or 20"),
        (lambda: preactivation_resnet(115), "use 9 n . 2 with n of 2 or more, such as 110 or 119"),
        (lambda: wide_resnet(10, 2), "such as 16 or 22"),
        (lambda: wide_resnet(16, 0), "widen 0 is out of range"),
        (lambda: wide_resnet(16, 1, dropout=1.0), "dropout 1.0 is out of range"),
        (lambda: resnet(20, classes=0), "classes 0"),
        (lambda: resnet(20, shortcut="a"), "shortcut 'a'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
