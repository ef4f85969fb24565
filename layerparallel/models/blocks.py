"""Residual blocks of the CIFAR networks, from (B, C, H, W) to (B, C', H', W').

Two formulations:

- *Post-activation* (He, Zhang, Ren, Sun 2015): ``B(u) = relu(u + F(u))``. The relu after the sum makes
  it a map, not an Euler step, so its chain is one of ``integrator="block"``: a coarse step of M blocks
  is ``u + M (B(u) - u)``.
- *Pre-activation* (He, Zhang, Ren, Sun 2016): ``u + F(u)``, forward Euler with h = 1. The modules here
  return F alone, without the skip, and their chain is one of ``integrator="euler"``: a coarse step is
  ``u + M h F(u)`` for any h, without taking u off a sum it was just added to.

A chain's blocks keep the shape. The block that changes it stands between two chains, with a shortcut of
its own, and returns the next state itself.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Shortcut = Literal["A", "B"]


class HeConv2d(nn.Conv2d):
    """Convolution without bias, padded by kernel / 2; drawn from N(0, 2 / (kernel^2 C_out))."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1):
        super().__init__(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)

    def reset_parameters(self) -> None:
        """As He, Zhang, Ren, Sun, "Delving deep into rectifiers" (2015), fan-out."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")


class Basic(nn.Module):
    """Post-activation block ``relu(shortcut(u) + bn(conv(relu(bn(conv(u))))))`` of 3x3 convolutions.

    Args:
        channels_in, channels_out: C and C'.
        stride: of the first convolution; H' = H / stride, rounded up.
        shortcut: where the shape changes, "A": every `stride`-th pixel, new channels zero, no
            parameters; "B": 1x1 convolution and batch norm. Otherwise the identity.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, shortcut: Shortcut = "A"):
        super().__init__()
        self.conv1 = HeConv2d(channels_in, channels_out, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = HeConv2d(channels_out, channels_out, 3)
        self.bn2 = nn.BatchNorm2d(channels_out)
        same = stride == 1 and channels_in == channels_out
        if same:
            self.shortcut: nn.Module = nn.Identity()
        elif shortcut == "A":
            self.shortcut = Subsample(channels_out - channels_in, stride)
        else:
            self.shortcut = nn.Sequential(
                HeConv2d(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out)
            )

    @property
    def last(self) -> nn.BatchNorm2d:
        """The module whose weight scales the residual branch."""
        return self.bn2

    def forward(self, u: Tensor) -> Tensor:
        f = torch.relu(self.bn1(self.conv1(u)))
        return torch.relu(self.shortcut(u) + self.bn2(self.conv2(f)))


class Subsample(nn.Module):
    """Shortcut "A": every `stride`-th pixel, `more` new channels of zeros."""

    def __init__(self, more: int, stride: int):
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, u: Tensor) -> Tensor:
        return functional.pad(u[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))

    def extra_repr(self) -> str:
        return f"more={self.more}, stride={self.stride}"


class Preactivation(nn.Module):
    """What pre-activation residual functions share: ``F(u) = rest(relu(bn1(u)))``."""

    bn1: nn.BatchNorm2d

    @property
    def last(self) -> nn.Conv2d:
        """The module whose weight scales the residual branch."""
        raise NotImplementedError

    def activated(self, u: Tensor) -> Tensor:
        """relu(bn1(u)), which a transition hands to its projection, too."""
        return torch.relu(self.bn1(u))

    def rest(self, a: Tensor) -> Tensor:
        """F from there."""
        raise NotImplementedError

    def forward(self, u: Tensor) -> Tensor:
        return self.rest(self.activated(u))


class BasicResidual(Preactivation):
    """F of wide networks, BN-ReLU-conv3x3-BN-ReLU-(dropout)-conv3x3 (Zagoruyko, Komodakis 2016).

    Args:
        channels_in, channels_out: C and C'.
        stride: of the first convolution.
        dropout: probability of zeroing an entry between the convolutions.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, dropout: float = 0.0):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = HeConv2d(channels_in, channels_out, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = HeConv2d(channels_out, channels_out, 3)

    @property
    def last(self) -> nn.Conv2d:
        """The module whose weight scales the residual branch."""
        return self.conv2

    def rest(self, a: Tensor) -> Tensor:
        return self.conv2(self.dropout(torch.relu(self.bn2(self.conv1(a)))))


class BottleneckResidual(Preactivation):
    """F of three convolutions, 1x1 to a quarter of the channels, 3x3, 1x1 back (He et al. 2016).

    Args:
        channels_in, channels_out: C and C', the latter a multiple of 4.
        stride: of the first convolution, as in the authors' code.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1):
        super().__init__()
        width = channels_out // 4
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = HeConv2d(channels_in, width, 1, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = HeConv2d(width, width, 3)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = HeConv2d(width, channels_out, 1)

    @property
    def last(self) -> nn.Conv2d:
        """The module whose weight scales the residual branch."""
        return self.conv3

    def rest(self, a: Tensor) -> Tensor:
        a = torch.relu(self.bn2(self.conv1(a)))
        return self.conv3(torch.relu(self.bn3(self.conv2(a))))


class Transition(nn.Module):
    """A pre-activation block that changes the shape: ``projection(a) + rest(a)``, a = relu(bn1(u))."""

    def __init__(self, residual: Preactivation, projection: nn.Module):
        super().__init__()
        self.residual, self.projection = residual, projection

    def forward(self, u: Tensor) -> Tensor:
        a = self.residual.activated(u)
        return self.projection(a) + self.residual.rest(a)
