"""The residual networks of layerparallel.models as any torch user would write them, and the names.

Each class keeps its stages in `nn.Sequential`s; `ours` says what the network of the library calls one of
its parameters or buffers.
"""

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, projected: bool):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.shortcut, self.more = None, outputs - inputs
        if projected and self.more:
            self.shortcut = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            skip = self.shortcut(x)
        elif self.more:
            skip = x[:, :, ::2, ::2]
            skip = torch.cat([skip, skip.new_zeros(len(x), self.more, *skip.shape[2:])], 1)
        else:
            skip = x
        return F.relu(out + skip)


class PlainResNet(nn.Module):
    def __init__(self, blocks: int, width: int, classes: int, projected: bool = False):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(3, width), nn.BatchNorm2d(width)
        inputs, layers = width, []
        for k in range(3):
            outputs, stride = width * 2**k, min(k + 1, 2)
            first = BasicBlock(inputs, outputs, stride, projected)
            more = [BasicBlock(outputs, outputs, 1, projected) for _ in range(blocks - 1)]
            layers.append(nn.Sequential(first, *more))
            inputs = outputs
        self.layer1, self.layer2, self.layer3 = layers
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))

    @staticmethod
    def ours(name: str) -> str:
        block = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", name)
        if block is None:
            part, _, rest = name.partition(".")
            return {"conv1": "opening.0.", "bn1": "opening.1.", "fc": "closing.2."}[part] + rest
        stage, k, rest = int(block[1]), int(block[2]), block[3]
        if stage == 1:
            return f"body.0.{k}.{rest}"
        return f"body.{2 * stage - 2}.{k - 1}.{rest}" if k else f"body.{2 * stage - 3}.{rest}"


class WideBlock(nn.Module):
    """Pre-activation, two 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv3x3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv3x3(outputs, outputs)
        self.projection = conv1x1(inputs, outputs, stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(a))))
        return out + (x if self.projection is None else self.projection(a))


class BottleneckBlock(nn.Module):
    """Pre-activation, 1x1 to a quarter of the channels, 3x3, 1x1 back."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        narrow = outputs // 4
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv1x1(inputs, narrow, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(narrow), conv3x3(narrow, narrow)
        self.bn3, self.conv3 = nn.BatchNorm2d(narrow), conv1x1(narrow, outputs)
        self.projection = conv1x1(inputs, outputs, stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(a))))
        out = self.conv3(F.relu(self.bn3(out)))
        return out + (x if self.projection is None else self.projection(a))


class PlainPreactivation(nn.Module):
    """`block` three times `blocks`; `first` channels in the first stage, `width` before it."""

    def __init__(self, block: type[nn.Module], blocks: int, width: int, first: int, classes: int):
        super().__init__()
        self.conv = conv3x3(3, width)
        inputs, stages = width, []
        for k in range(3):
            outputs = first * 2**k
            more = [block(outputs, outputs, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(block(inputs, outputs, min(k + 1, 2)), *more))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stages(self.conv(x))))
        return self.fc(x.mean((2, 3)))

    @staticmethod
    def ours(name: str) -> str:
        block = re.fullmatch(r"stages\.(\d)\.(\d+)\.(.*)", name)
        if block is None:
            part, _, rest = name.partition(".")
            return {"conv": "opening.", "bn": "closing.0.", "fc": "closing.4."}[part] + rest
        stage, k, rest = int(block[1]), int(block[2]), block[3]
        if k:
            return f"body.{2 * stage + 1}.{k - 1}.{rest}"
        inner = rest if rest.startswith("projection.") else f"residual.{rest}"
        return f"body.{2 * stage}.{inner}"
