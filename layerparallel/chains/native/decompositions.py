"""PyTorch's composite operations in terms of simpler ones: the list of operations stays short."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

_FURTHER = [
    "native_layer_norm",
    "native_group_norm",
    "gelu",
    "_softmax",
    "_log_softmax",
    "elu",
    "leaky_relu",
    "hardtanh",
    "hardswish",
    "softplus",
    "mish",
    "silu",
    "lerp",
    "baddbmm",
    "addmv",
    "addr",
    "mean",
    "var_mean",
    "var",
    "std",
    "_fused_rms_norm",
    "rsub",
    "split_with_sizes",
    "addcmul",
    "addcdiv",
    "square",
    "glu",
    "logit",
    "xlogy",
    "hardsigmoid",
    "logsumexp",
]

_KEPT = ["addmm", "select_scatter", "slice_scatter", "index_put", "_unsafe_index_put", "constant_pad_nd"]
"""What the list has itself."""


def _softshrink_backward(w: Tensor, a: Tensor, lambd: float) -> Tensor:
    return torch.where((a >= -lambd) & (a <= lambd), 0.0, w)


def _hardshrink_backward(w: Tensor, a: Tensor, lambd: float) -> Tensor:
    return torch.where((a >= -lambd) & (a <= lambd), 0.0, w)


def _hardsigmoid_backward(w: Tensor, a: Tensor) -> Tensor:
    sixth = 0.1666666716337204  # PyTorch's own, rounded to 32 bits in float64, too
    return torch.where((a > -3) & (a < 3), w * sixth, 0.0)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    others = [d for d in range(v.dim()) if d != dim]
    norm = (v * v).sum(others, keepdim=True).sqrt()
    return v * (g / norm), norm


def _weight_norm_backward(
    w: Tensor, v: Tensor, g: Tensor, norm: Tensor, dim: int
) -> tuple[Tensor, Tensor]:
    others = [d for d in range(v.dim()) if d != dim]
    along = (w * v).sum(others, keepdim=True)
    return g / norm * (w - v * (along / (norm * norm))), along / norm


@cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """By operation."""
    from torch._decomp import core_aten_decompositions, get_decompositions

    aten = torch.ops.aten
    table: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    table.update(get_decompositions([getattr(aten, name) for name in _FURTHER if hasattr(aten, name)]))
    for name in _KEPT:
        for overload in getattr(aten, name).overloads():
            table.pop(getattr(getattr(aten, name), overload), None)
    table[aten.softshrink_backward.default] = _softshrink_backward
    table[aten.hardshrink_backward.default] = _hardshrink_backward
    table[aten.hardsigmoid_backward.default] = _hardsigmoid_backward
    table[aten._weight_norm_interface.default] = _weight_norm
    table[aten._weight_norm_interface_backward.default] = _weight_norm_backward
    return table
