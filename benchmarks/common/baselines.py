"""What a user of ordinary PyTorch could have instead: serial networks, compiled, and their gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import layerparallel as lp

BLOCK = 16
"""Layers that are compiled as one function."""
COMPILED = f"compiled blocks of {BLOCK}"


def gradient_of(module: nn.Module, x: Any, y: Tensor) -> Callable[[], None]:
    """One gradient of the cross-entropy: calling it leaves it in the parameters."""

    def step() -> None:
        module.zero_grad(set_to_none=True)
        functional.cross_entropy(module(x), y).backward()

    return step


@cache
def compiled_block(h: float, activation: Callable[[Tensor], Tensor]) -> Any:
    """Some layers as one compiled function of the state and their parameters."""

    def block(u: Tensor, parameters: list[Tensor]) -> Tensor:
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
            if weight.dim() == 4:
                z = functional.conv2d(u, weight, bias, padding=weight.shape[-1] // 2)
            else:
                z = functional.linear(u, weight, bias)
            u = torch.add(u, activation(z), alpha=h)
        return u

    return torch.compile(block, dynamic=False)


class CompiledBlocks(nn.Module):
    """A serial network of layers sigma(A u + b): `BLOCK` a block, each the same compiled function."""

    def __init__(self, serial: lp.SerialNetwork, activation: Callable[[Tensor], Tensor] = torch.tanh):
        super().__init__()
        self.serial: Any = serial
        self.block = compiled_block(self.serial.body.h, activation)

    def forward(self, x: Tensor) -> Tensor:
        u = self.serial.opening(x)
        layers: list[Any] = list(self.serial.body.children())
        for first in range(0, len(layers), BLOCK):
            some = layers[first : first + BLOCK]
            u = self.block(u, [p for layer in some for p in (layer.weight, layer.bias)])
        return self.serial.closing(u)
