"""Residual networks for small images: three stages of n blocks, each half as high and wide as the last.

    net = resnet(depth=110, classes=10, solver=...)

In every stage the blocks that keep the shape are one chain; a first block that changes it stands between
two chains as a transition, exact whatever the solver is. The images come normalised; H and W are free.
For chains as short as those of the CIFAR networks `Serial()` is the solver to use; what multigrid does
with them, and with branches that begin small (`gain`), is measured in benchmarks/resnet_cycles.

The blocks of a chain stay modules of their own unless ``stacked=True``: their convolutions fill a CPU
core already at small batches, so taking many together gains little. One gradient of the whole network,
images of 32x32, one thread of an AMD EPYC, milliseconds of CPU time, median of 8 (coarsening 2 and 4):

    ===========================  =====  ==============  ==============  =====================
    .                            plain  Serial() loop   Serial() stack  1+1 cycles loop/stack
    ===========================  =====  ==============  ==============  =====================
    ResNet-20, batch 128         502    534             537             796 / 793
    pre-activation 164, 16       669    717             775             1051 / 1194
    pre-activation 164, 1        63     108             106             147 / 126
    ===========================  =====  ==============  ==============  =====================
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from ..errors import UnknownNameError
from ..network.chain import chain
from ..network.network import Network
from ..solvers import Serial
from ..solvers.variants import Solvers
from .blocks import (
    Basic,
    BasicResidual,
    BottleneckResidual,
    HeConv2d,
    Preactivation,
    Shortcut,
    Transition,
)

Block = TypeVar("Block", bound=Basic | Preactivation)


def resnet(
    depth: int = 20,
    classes: int = 10,
    *,
    in_channels: int = 3,
    width: int = 16,
    shortcut: Shortcut = "A",
    gain: float = 1.0,
    stacked: bool = False,
    solver: Solvers = Serial(),
    evaluate: Solvers = Serial(),
) -> Network:
    """CIFAR ResNet of `depth` = 6 n + 2 layers: 20, 32, 44, 56, 110 (He et al. 2015, section 4.2).

    Post-activation basic blocks; stages of width, 2 width and 4 width channels; three chains of n, n-1
    and n-1 blocks (``integrator="block"``).

    Args:
        depth: layers with weights, 6 n + 2 with n at least 2.
        classes: outputs.
        in_channels: channels of the images.
        width: channels of the first stage.
        shortcut: of the two transitions: "A" without parameters, "B" 1x1 convolutions.
        gain: initial weight of the last batch norm of every block; 0 lets all blocks begin as the
            identity (Goyal et al. 2017).
        stacked: whether the parameters of a chain's blocks are stacked, (n, ...), and intervals
            advanced in one batch by vmap. The weights of a seed are the same either way.
        solver: how the chains are propagated in training; one for all or a tuple of one per chain.
        evaluate: the same otherwise.

    Raises:
        ValueError: depth is none of the family's; width or classes below 1.
    """
    if shortcut not in ("A", "B"):
        raise UnknownNameError("shortcut", shortcut, ("A", "B"))
    count = _blocks("a ResNet", depth, per_block=6, others=2)
    _check(classes=classes, in_channels=in_channels, width=width)
    opening = nn.Sequential(HeConv2d(in_channels, width, 3), nn.BatchNorm2d(width), nn.ReLU())
    body: list[nn.Module] = []
    before = width
    for stage, channels in enumerate((width, 2 * width, 4 * width)):
        first = Basic(before, channels, 2 if stage else 1, shortcut)
        blocks = [_scaled(first, gain)]
        blocks += [_scaled(Basic(channels, channels), gain) for _ in range(count - 1)]
        if stage:
            body.append(blocks.pop(0))
        body.append(chain(blocks, integrator="block", stacked=stacked))
        before = channels
    closing = nn.Sequential(*_classifier(before, classes))
    return Network(opening, body, closing, solver, evaluate)


def preactivation_resnet(
    depth: int = 164,
    classes: int = 10,
    *,
    in_channels: int = 3,
    width: int = 16,
    h: float = 1.0,
    gain: float = 1.0,
    stacked: bool = False,
    solver: Solvers = Serial(),
    evaluate: Solvers = Serial(),
) -> Network:
    """Pre-activation ResNet of `depth` = 9 n + 2 layers: 164, 1001 (He et al. 2016).

    Bottleneck blocks; a convolution to `width` channels, stages of 4, 8 and 16 width channels, each a
    transition and a chain of n-1 blocks (``integrator="euler"``, see `blocks`).

    Args:
        h: step size of the chains' blocks, ``u + h F(u)``; 1 is the paper's. The transitions keep 1.
        gain: factor on the initial weights of the last convolution of every block. (Scaling the last
            batch norm by 0 would leave nothing to learn behind its relu.)

    The other arguments and errors are those of `resnet`.
    """
    count = _blocks("a pre-activation ResNet", depth, per_block=9, others=2)
    _check(classes=classes, in_channels=in_channels, width=width)
    opening = HeConv2d(in_channels, width, 3)
    body, last = _preactivation(BottleneckResidual, width, 4 * width, count, h, gain, stacked)
    closing = nn.Sequential(nn.BatchNorm2d(last), nn.ReLU(), *_classifier(last, classes))
    return Network(opening, body, closing, solver, evaluate)


def wide_resnet(
    depth: int = 16,
    widen: int = 4,
    classes: int = 10,
    *,
    in_channels: int = 3,
    width: int = 16,
    dropout: float = 0.0,
    h: float = 1.0,
    gain: float = 1.0,
    stacked: bool = False,
    solver: Solvers = Serial(),
    evaluate: Solvers = Serial(),
) -> Network:
    """Wide residual network WRN-`depth`-`widen` (Zagoruyko, Komodakis 2016); depth = 6 n + 4: 16, 40.

    Pre-activation basic blocks; a convolution to `width` channels, stages of 1, 2 and 4 times
    width * widen channels, each a transition and a chain of n-1 blocks (``integrator="euler"``, see
    `blocks`).

    Args:
        widen: k, the factor on the channels of all blocks.
        dropout: probability of zeroing an entry between the two convolutions of a block; the paper
            uses 0.3 on CIFAR.

    The other arguments and errors are those of `preactivation_resnet`.
    """
    count = _blocks("a wide ResNet", depth, per_block=6, others=4)
    _check(classes=classes, in_channels=in_channels, width=width, widen=widen)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout {dropout} is out of range; use a probability from 0 to below 1")
    opening = HeConv2d(in_channels, width, 3)
    residual = functools.partial(BasicResidual, dropout=dropout)
    body, last = _preactivation(residual, width, widen * width, count, h, gain, stacked)
    closing = nn.Sequential(nn.BatchNorm2d(last), nn.ReLU(), *_classifier(last, classes))
    return Network(opening, body, closing, solver, evaluate)


# ---- what they share ----------------------------------------------------------------------------


def _preactivation(
    residual: Callable[[int, int, int], Preactivation],
    width: int,
    first: int,
    count: int,
    h: float,
    gain: float,
    stacked: bool,
) -> tuple[list[nn.Module], int]:
    """Three stages of `first`, 2 `first` and 4 `first` channels, and how many channels leave them."""
    body: list[nn.Module] = []
    before = width
    for stage, channels in enumerate((first, 2 * first, 4 * first)):
        stride = 2 if stage else 1
        opening = _scaled(residual(before, channels, stride), gain)
        body.append(Transition(opening, HeConv2d(before, channels, 1, stride)))
        blocks = [_scaled(residual(channels, channels, 1), gain) for _ in range(count - 1)]
        body.append(chain(blocks, h=h, stacked=stacked))
        before = channels
    return body, before


def _classifier(channels: int, classes: int) -> list[nn.Module]:
    """Average over all pixels, and a linear layer whose biases begin at zero."""
    linear = nn.Linear(channels, classes)
    nn.init.zeros_(linear.bias)
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear]


def _scaled(block: Block, gain: float) -> Block:
    with torch.no_grad():
        block.last.weight.mul_(gain)
    return block


def _blocks(family: str, depth: int, per_block: int, others: int) -> int:
    """How many blocks a stage has.

    Raises:
        ValueError: the depth is none of the family's.
    """
    count, left = divmod(depth - others, per_block)
    if left or count < 2:
        below = others + per_block * max(count, 2)
        raise ValueError(
            f"depth {depth} is none of {family}; use {per_block} n + {others} with n of 2 or more, "
            f"such as {below} or {below + per_block}"
        )
    return count


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} {value} is out of range; use 1 or more")
