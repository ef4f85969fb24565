"""VGG-16 with batch norm for small images (Simonyan, Zisserman 2015; Ioffe, Szegedy 2015).

It has no chains, since its layers have no skip connections: it is an nn.Sequential, to be cut into
stages or subnetworks.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

BLOCKS = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Channels of the 13 convolutions in units of `width`; max pooling behind every block."""


def vgg16(
    classes: int = 10, *, in_channels: int = 3, width: int = 64, dropout: float = 0.0
) -> nn.Sequential:
    """13 convolutions of 3x3 pixels with batch norm and ReLU, five max poolings, one linear layer.

    That is the head for images of 32x32, whose last state is (8 width, 1, 1); what larger images leave
    is averaged. Convolutions have no bias, as batch norms follow, and He's initialisation.

    Args:
        classes: outputs.
        in_channels: channels of the images, (B, in_channels, H, W) with H and W of 32 or more.
        width: channels of the first convolutions.
        dropout: probability of zeroing a feature in front of the linear layer.

    Raises:
        ValueError: a size is below 1, or the dropout no probability.
    """
    sizes = {"classes": classes, "in_channels": in_channels, "width": width}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} {value} is out of range; use 1 or more")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout {dropout} is out of range; use a probability from 0 to below 1")
    features: list[nn.Module] = []
    before = in_channels
    for block in BLOCKS:
        for channels in (width * factor for factor in block):
            conv = nn.Conv2d(before, channels, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            features += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
            before = channels
        features.append(nn.MaxPool2d(2))
    linear = nn.Linear(before, classes)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *([nn.Dropout(dropout)] if dropout else []), linear]
    parts: OrderedDict[str, nn.Module] = OrderedDict(features=nn.Sequential(*features))
    parts["classifier"] = nn.Sequential(*head)
    return nn.Sequential(parts)
