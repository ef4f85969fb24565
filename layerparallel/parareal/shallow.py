"""Default coarse parts and preprocessing: a few layers of the kind that the network itself has.

From one shape to another leads a fresh copy of a block that the network has there: a residual unit, say,
or one that changes the shape just so. Where there is none, an adapter (average pooling and a 1x1
convolution; a linear map) leads to the shape that a block takes. What consists of no blocks gets a
convolution of 3x3 pixels or a linear map. Corrections go both ways: behind a coarse part whose values
are never negative, as those of a residual unit that ends in a ReLU, comes a 1x1 convolution or a linear
map. Where the network has convolutions along one dimension or three, so have these.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import InputError
from ..network.serial_twins import SerialBody, SerialFunction
from ..staged.pieces import FunctionStep, Piece, Step, TiedStep
from .trace import Layer, Shape, evaluating, shape_of

CONVOLUTION: dict[int, type[Any]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLING: dict[int, type[Any]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE: dict[int, type[Any]] = {
    1: nn.AdaptiveAvgPool1d,
    2: nn.AdaptiveAvgPool2d,
    3: nn.AdaptiveAvgPool3d,
}
NORM: dict[int, type[Any]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
"""By the dimensions of the pixels."""


def fresh(module: nn.Module) -> nn.Module:
    """A copy with new weights, which learn; what has no `reset_parameters` keeps those it has."""
    copied = copy.deepcopy(module)
    for part in copied.modules():
        reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if callable(reset) and not _asks(reset):
            reset()
    for p in copied.parameters():
        p.requires_grad_(p.is_floating_point() or p.is_complex())
    return copied


def _asks(function: Callable[..., Any]) -> bool:
    """Whether it cannot be called with nothing."""
    parameters = inspect.signature(function).parameters.values()
    several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return any(p.default is p.empty and p.kind not in several for p in parameters)


def opened(pieces: Sequence[Piece]) -> list[nn.Module]:
    """A fresh copy of a network's opening."""
    return [fresh(piece.module) for piece in pieces]


def shallow(before: Shape, after: Shape, layers: Sequence[Layer], name: str, option: str) -> nn.Module:
    """A few layers from states of one shape to those of another.

    Args:
        before, after: without samples.
        layers: of the network, whose kind they are to have; the last one that fits counts.
        name, option: of the part, and of the argument by which a user gives another.

    Raises:
        InputError: there are none for these shapes.
    """
    blocks = [layer for layer in layers if layer.after == after and _is_block(layer.piece)]
    fitting = [layer for layer in blocks if layer.before == before]
    if fitting:
        return _copy(fitting[-1], layers)
    inside = [layer for layer in blocks if layer.keeps]
    block = next(reversed(inside or blocks), None)
    target = after if block is None else block.before
    pixels = _pixels(after, layers)
    if target is None or not _reachable(before, target, pixels):
        samples = "" if before and after else "; or give an example with its samples first, (B, ...)"
        raise InputError(
            f"There is no default for the {name} from states of shape {before} to {after}; give one by "
            f"{option}, a function of its number and both shapes{samples}."
        )
    if block is None:
        return nn.Sequential(*_plain(before, after, layers, pixels))
    return nn.Sequential(*_adapter(before, target, pixels), _copy(block, layers))


def both_ways(module: nn.Module, before: Any, layers: Sequence[Layer]) -> nn.Module:
    """The module, with a linear map behind it where its values are never negative.

    Args:
        module: new, so that it may be called with random numbers.
        before: a state like those it is given.
        layers: of the network, as for `shallow`.
    """
    if not isinstance(before, Tensor):
        return module
    samples = 1 + 1000 // max(1, before[0].numel())
    with evaluating([module]):  # so large that no bias decides about signs
        value = module(1000.0 * torch.randn_like(before[:1].expand(samples, *before.shape[1:])))
        negative = isinstance(value, Tensor) and bool((value < 0).any())
    after = shape_of(value)
    pixels = _pixels(after, layers)
    if negative or not after or not _reachable(after, after, pixels):
        return module
    return nn.Sequential(module, *_adapter(after, after, pixels))


def _is_block(piece: Piece) -> bool:
    """Whether it is a block of several layers, not a single one."""
    step = isinstance(piece, Step | TiedStep | FunctionStep)
    return step or any(True for _ in piece.module.children())


def _pixels(shape: Shape | None, layers: Sequence[Layer]) -> int:
    """Dimensions of the pixels of a state; 0 where it is not one of convolutions."""
    count = len(shape or ()) - 1
    if count in (1, 3):
        convolutions = (m for layer in layers for m in layer.piece.module.modules())
        return count * any(isinstance(m, CONVOLUTION[count]) for m in convolutions)
    return count if count == 2 else 0


def _reachable(before: Shape, after: Shape, pixels: int) -> bool:
    """Whether a convolution or a linear map leads from one shape to the other."""
    if any(isinstance(size, tuple) for size in (*before, *after)):
        return False
    return 0 < len(before) == len(after) and (pixels > 0 or before[:-1] == after[:-1])


# ---- blocks -------------------------------------------------------------------------------------


def _copy(layer: Layer, layers: Sequence[Layer]) -> nn.Module:
    """A fresh copy of a block; a chain's step is as long as all of the chain's steps among `layers`.

    It is no longer than 1 where it learns, unless the chain's own are.
    """
    piece = layer.piece
    if not isinstance(piece, Step | TiedStep | FunctionStep):
        return fresh(piece.module)
    chain = _chain(piece)
    count = sum(type(x.piece) is type(piece) and _chain(x.piece) is chain for x in layers)
    if isinstance(chain, SerialFunction):
        return SerialFunction(chain.step, 1, chain.h * count)
    return SerialBody([fresh(piece.module)], max(chain.h, min(1.0, chain.h * count)), chain.integrator)


def _chain(piece: Piece) -> Any:
    return piece.module if isinstance(piece, FunctionStep) else piece.holder


def _adapter(before: Shape, after: Shape, pixels: int) -> list[nn.Module]:
    """A linear map; of images average pooling to the resolution, and a 1x1 convolution."""
    if not pixels:
        return [nn.Linear(before[-1], after[-1], bias=False)]
    pools: list[nn.Module] = []
    ratio = before[1] // after[1]
    if before[1:] == tuple(ratio * size for size in after[1:]):
        pools = [POOLING[pixels](ratio)] if ratio > 1 else []
    else:
        pools = [ADAPTIVE[pixels](after[1:])]
    return [*pools, CONVOLUTION[pixels](before[0], after[0], 1, bias=False)]


# ---- single layers ------------------------------------------------------------------------------


def _plain(before: Shape, after: Shape, layers: Sequence[Layer], pixels: int) -> list[nn.Module]:
    """A convolution or a linear map, with norm and activation as the network has them."""
    modules = [layer.piece.module for layer in layers]
    norms = [m for m in modules if isinstance(m, _BatchNorm)]
    bias = not norms and any(getattr(m, "bias", None) is not None for m in modules)
    active = [m for m in modules if type(m).__module__ == "torch.nn.modules.activation"]
    activation: list[nn.Module] = [copy.deepcopy(active[-1])] if active else []
    if not pixels:
        return [nn.Linear(before[-1], after[-1], bias), *activation]
    norm = [NORM[pixels](after[0])] if norms else []
    pools, stride = _reduced(before, after, pixels)
    conv = CONVOLUTION[pixels](before[0], after[0], 3, stride, 1, bias=bias)
    return [*pools, conv, *norm, *activation]


def _reduced(before: Shape, after: Shape, pixels: int) -> tuple[list[nn.Module], int]:
    """Average pooling to twice the resolution, and the stride that is left for a convolution."""
    ratio = before[1] // after[1]
    fits = before[1:] == tuple(ratio * size for size in after[1:])
    if fits and (ratio == 1 or ratio % 2 == 0):
        return ([POOLING[pixels](ratio // 2)] if ratio > 2 else []), min(ratio, 2)
    return [ADAPTIVE[pixels](after[1:])], 1
