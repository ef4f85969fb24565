"""VGG-16 for small images: sizes, shapes, options."""

import pytest
import torch
from torch import nn

from layerparallel.models import vgg16


def test_parameters_are_those_of_the_thirteen_convolutions():
    with torch.device("meta"):
        net = vgg16()
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert sum(c.weight.numel() for c in convolutions) == 14_710_464
    assert sum(p.numel() for p in net.parameters()) == 14_710_464 + 2 * 4_224 + 5_130


@pytest.mark.parametrize("size", [32, 33, 64])
def test_images_of_several_sizes(size):
    net = vgg16(classes=7, in_channels=1, width=2)
    x = torch.randn(3, 1, size, size)
    features, _ = net
    assert features(x).shape == (3, 16, size // 32, size // 32)
    assert net(x).shape == (3, 7)


def test_the_spread_is_kept_through_all_layers():
    torch.manual_seed(0)
    net = vgg16(width=8)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            expected = (2 / (9 * layer.out_channels)) ** 0.5
            assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.2)
    assert net(torch.randn(8, 3, 32, 32)).abs().max() < 10


def test_dropout_is_in_front_of_the_last_layer():
    assert isinstance([*vgg16(width=2, dropout=0.5).modules()][-2], nn.Dropout)
    assert not any(isinstance(m, nn.Dropout) for m in vgg16(width=2).modules())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"classes": 0}, "classes 0 is out of range; use 1 or more"),
        ({"width": 0}, "width 0 is out of range; use 1 or more"),
        ({"in_channels": -1}, "in_channels -1 is out of range; use 1 or more"),
        ({"dropout": 1.0}, "dropout 1.0 is out of range; use a probability from 0 to below 1"),
    ],
)
def test_wrong_input(options, text):
    with pytest.raises(ValueError, match=text):
        vgg16(**options)
