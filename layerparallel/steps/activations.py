"""Activations in closed form, for hand-batched sweeps: in place, with their derivatives.

``F = gain * value + shift`` of the pre-activation ``z``, which arrives multiplied by `scale`; the
derivative is ``slope`` times what `pull` multiplies. Powers of two cost nothing in a matrix product's
``alpha``, and let tanh be computed as 2 sigmoid(2 z) - 1, five times as fast as torch.tanh on a CPU
with an absolute error of one unit in the last place of 1.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

_aten = torch.ops.aten

SMOOTH = 0.1
"""Half width of the quadratic part of SmoothReLU."""


class Activation(Protocol):
    """An activation in closed form."""

    scale: float
    gain: float
    shift: float
    slope: float

    def value(self, z: Tensor, saved: Tensor) -> Tensor:
        """The value at the scaled pre-activation, which may be overwritten.

        What `pull` needs is left in `saved`, which may be z itself and may be the value returned.
        """
        ...

    def pull(self, adjoint: Tensor, saved: Tensor, out: Tensor) -> Tensor:
        """out = adjoint * derivative / slope."""
        ...


class Tanh:
    """tanh(z) = 2 sigmoid(2 z) - 1; what is kept is the sigmoid s, with derivative 4 s (1 - s)."""

    scale, gain, shift, slope = 2.0, 2.0, -1.0, 4.0

    def value(self, z: Tensor, saved: Tensor) -> Tensor:
        return torch.sigmoid(z, out=saved)

    def pull(self, adjoint: Tensor, saved: Tensor, out: Tensor) -> Tensor:
        return _aten.sigmoid_backward.grad_input(adjoint, saved, grad_input=out)


class ReLU:
    """max(z, 0)."""

    scale, gain, shift, slope = 1.0, 1.0, 0.0, 1.0

    def value(self, z: Tensor, saved: Tensor) -> Tensor:
        return torch.clamp_min(z, 0, out=saved)

    def pull(self, adjoint: Tensor, saved: Tensor, out: Tensor) -> Tensor:
        return _aten.threshold_backward.grad_input(adjoint, saved, 0, grad_input=out)


class GELU:
    """z times the normal distribution function of z."""

    scale, gain, shift, slope = 1.0, 1.0, 0.0, 1.0

    def value(self, z: Tensor, saved: Tensor) -> Tensor:
        return torch.nn.functional.gelu(_kept(z, saved))

    def pull(self, adjoint: Tensor, saved: Tensor, out: Tensor) -> Tensor:
        return _aten.gelu_backward.grad_input(adjoint, saved, grad_input=out)


class SmoothReLU:
    """The ramp r = clamp((z + e)/2e, 0, 1) is the derivative; the value is e r^2 + max(z - e, 0)."""

    scale, gain, shift, slope = 1.0, 1.0, 0.0, 1.0

    def value(self, z: Tensor, saved: Tensor) -> Tensor:
        value = torch.sub(z, SMOOTH).clamp_min_(0)
        ramp = torch.mul(z, 0.5 / SMOOTH, out=saved).add_(0.5).clamp_(0, 1)
        return value.addcmul_(ramp, ramp, value=SMOOTH)

    def pull(self, adjoint: Tensor, saved: Tensor, out: Tensor) -> Tensor:
        return torch.mul(adjoint, saved, out=out)


class Identity:
    """z itself: linear chains."""

    scale, gain, shift, slope = 1.0, 1.0, 0.0, 1.0

    def value(self, z: Tensor, saved: Tensor) -> Tensor:
        return z

    def pull(self, adjoint: Tensor, saved: Tensor, out: Tensor) -> Tensor:
        return out.copy_(adjoint)


def _kept(z: Tensor, saved: Tensor) -> Tensor:
    return z if saved is z else saved.copy_(z)


CLOSED_FORM: dict[str, Activation] = {
    "tanh": Tanh(),
    "relu": ReLU(),
    "gelu": GELU(),
    "smoothrelu": SmoothReLU(),
    "identity": Identity(),
}
