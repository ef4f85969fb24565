"""Residual functions F for the steps of a chain; ordinary modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UnknownNameError
from .activations import SMOOTH


def smooth_relu(x: Tensor) -> Tensor:
    """max(x, 0) with a quadratic blend on |x| < 0.1 (Guenther et al. 2020)."""
    ramp = ((x + SMOOTH) / (2 * SMOOTH)).clamp(0, 1)
    return SMOOTH * ramp.square() + (x - SMOOTH).clamp_min(0)


ACTIVATIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "smoothrelu": smooth_relu,
    "identity": lambda x: x,
}


def _check_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise UnknownNameError("activation", name, ACTIVATIONS)


class Dense(nn.Module):
    """F(u) = sigma(W u + b), from (..., width) to (..., width).

    Args:
        width: size of the state's last dimension.
        activation: "tanh", "relu", "gelu", "smoothrelu" or "identity".
    """

    def __init__(self, width: int, activation: str = "tanh"):
        super().__init__()
        if width < 1:
            raise ValueError(f"width {width} is out of range; use 1 or more")
        _check_activation(activation)
        self.width, self.activation = width, activation
        self.weight = nn.Parameter(torch.empty(width, width))
        self.bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch.nn.Linear: uniform within 1/sqrt(width)."""
        bound = self.width**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, u: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](functional.linear(u, self.weight, self.bias))

    def extra_repr(self) -> str:
        return f"{self.width}, activation={self.activation!r}"


class Convolution(nn.Module):
    """F(u) = sigma(K * u + b) with a square kernel, from (B, C, H, W) to (B, C, H, W).

    Args:
        channels: C.
        activation: as for `Dense`.
        kernel: odd size of the kernel; the borders are padded with zeros.
    """

    def __init__(self, channels: int, activation: str = "tanh", kernel: int = 3):
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels {channels} is out of range; use 1 or more")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} would change the state's shape; use an odd size")
        _check_activation(activation)
        self.channels, self.activation, self.kernel = channels, activation, kernel
        self.weight = nn.Parameter(torch.empty(channels, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch.nn.Conv2d: uniform within 1/sqrt(C kernel^2)."""
        bound = (self.channels * self.kernel**2) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, u: Tensor) -> Tensor:
        out = functional.conv2d(u, self.weight, self.bias, padding=self.kernel // 2)
        return ACTIVATIONS[self.activation](out)

    def extra_repr(self) -> str:
        return f"{self.channels}, activation={self.activation!r}, kernel={self.kernel}"


class Hamiltonian(nn.Module):
    """The residual function of a Hamiltonian network for the Verlet integrator.

    ``F_y(z) = sigma(K z + b)``, ``F_z(y) = -sigma(K^T y + b)`` on a pair (y, z) of shape (..., width)
    each (Haber and Ruthotto 2017).
    """

    def __init__(self, width: int, activation: str = "tanh"):
        super().__init__()
        _check_activation(activation)
        self.activation = activation
        self.linear = nn.Linear(width, width)

    def forward(self, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y, z = state
        sigma, weight, bias = ACTIVATIONS[self.activation], self.linear.weight, self.linear.bias
        return sigma(functional.linear(z, weight, bias)), -sigma(functional.linear(y, weight.t(), bias))
