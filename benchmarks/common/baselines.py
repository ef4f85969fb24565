"""What a user of ordinary PyTorch could have instead: serial networks, compiled, and their gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
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


class CompiledBlocks(nn.Module):
    """A serial network of like layers, `BLOCK` a block, every block the same compiled function."""

    def __init__(self, serial: lp.SerialNetwork):
        super().__init__()
        self.serial: Any = serial
        body: Any = serial.body
        template, h, whole = body[0], body.h, body.integrator == "block"
        names = [name for name, _ in template.named_parameters()]
        self.parameters_of = [[*layer.parameters()] for layer in body]

        def block(u: Tensor, layers: list[list[Tensor]]) -> Tensor:
            for each in layers:
                value = functional_call(template, dict(zip(names, each, strict=True)), (u,))
                u = value if whole else torch.add(u, value, alpha=h)
            return u

        self.block = torch.compile(block, dynamic=False)

    def forward(self, x: Tensor) -> Tensor:
        u = self.serial.opening(x)
        for first in range(0, len(self.parameters_of), BLOCK):
            u = self.block(u, self.parameters_of[first : first + BLOCK])
        return self.serial.closing(u)
