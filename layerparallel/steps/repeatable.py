"""Dropout and batch norm that are safe under repeated evaluation.

A solve evaluates a step several times, and many steps at once. So a dropout mask is a function of the
propagation's key, the step and the call within the step, not of when it is drawn; and the running
statistics of batch norm are not touched by an evaluation, but noted, and committed once per training
forward from the final states.

Both are done from outside, so that a user's module stays as it is: while a step is evaluated,
`Repeatable` stands in for the functions of torch.nn.functional that modules call.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

BatchNorm = nn.modules.batchnorm._BatchNorm
Dropout = nn.modules.dropout._DropoutNd

FEATURES = {functional.dropout1d, functional.dropout2d, functional.dropout3d}
"""Dropout of whole channels: one number per sample and channel."""
ALPHA = {functional.alpha_dropout, functional.feature_alpha_dropout}
DROPOUTS = {functional.dropout, *FEATURES, *ALPHA}
SELU_FLOOR = -1.7580993408473766
"""Value that alpha dropout puts in place of what it drops, -lambda alpha of SELU."""


def _signed(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


GOLDEN = _signed(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(z: Tensor) -> Tensor:
    """A bijection of 64-bit integers that spreads every bit (as in splitmix64)."""
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        z = (z ^ _down(z, shift)) * factor
    return z ^ _down(z, 31)


def _down(z: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills up with zeros, as torch's own of signed numbers does not."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def kept(
    shape: Sequence[int], p: float, key: int, step: int | Tensor, call: int, device: torch.device | str
) -> Tensor:
    """Which entries dropout of probability p keeps: a bool tensor, the same for the same arguments.

    Args:
        shape: of one step's activation.
        key: drawn once per training forward from torch's global generator.
        step: n, the step's place in its chain.
        call: which of the step's calls to dropout, from 0.
    """
    count = 1
    for size in shape:
        count *= size
    n = torch.as_tensor(step, device=device)
    salt = _mix(_mix(n * GOLDEN + _signed(key)) + _signed(call * GOLDEN))
    bits = _mix(torch.arange(count, device=device) * GOLDEN + salt)
    return (((bits >> 40) & 0xFFFFFF) >= p * (1 << 24)).view(tuple(shape))


class Repeatable(TorchFunctionMode):
    """Stands in for dropout and batch norm while a step is evaluated.

    Args:
        key: of the masks; with None dropout is replaced by its expectation, as on coarse levels.

    Attributes:
        names: the name of a batch norm module by the identity of its running mean.
        step: n of the step under evaluation, a number or a 0-d tensor.
        found: batch statistics met since `take`: mean and inverse deviation (C,).
        uses: the batch norm module, samples and eps of each of `found`.
        random: whether dropout was met.
    """

    def __init__(self, key: int | None):
        super().__init__()
        self.key = key
        self.names: dict[int, str] = {}
        self.step: int | Tensor = 0
        self.calls = 0
        self.random = False
        self.found: list[tuple[Tensor, Tensor]] = []
        self.uses: list[tuple[str, int, float]] = []

    def begin(self, step: int | Tensor, norms: dict[str, BatchNorm]) -> Repeatable:
        """Before the evaluation of a step, whose batch norms are `norms`.

        They are told apart by the statistics that they have now: a move to another device or dtype
        gives them others.
        """
        self.names = {id(norm.running_mean): name for name, norm in norms.items()}
        self.step, self.calls = step, 0
        self.found, self.uses = [], []
        return self

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in DROPOUTS:
            return self._dropout(func, **_arguments(func, args, kwargs))
        if func is functional.batch_norm:
            return self._batch_norm(**_arguments(func, args, kwargs))
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func is functional.multi_head_attention_forward:  # calls dropout inside
            with self:
                return _inside(func)(*args, **kwargs)
        return func(*args, **kwargs)

    def _mask(self, shape: Sequence[int], p: float, device: torch.device) -> Tensor | None:
        """Of the next call; None where dropout's expectation is taken."""
        self.random, call = True, self.calls
        self.calls += 1
        if self.key is None:
            return None
        return kept(shape, p, self.key, self.step, call, device)

    def _dropout(
        self, func: Callable[..., Any], input: Tensor, p: float, training: bool, inplace: bool
    ) -> Tensor:
        if not training or p == 0:
            return input
        whole = func in FEATURES or func is functional.feature_alpha_dropout
        shape = [*input.shape[:2], *[1] * (input.dim() - 2)] if whole else input.shape
        mask = self._mask(shape, p, input.device)
        if mask is None:
            return input
        if func in ALPHA:
            scale = ((1 - p) * (1 + p * SELU_FLOOR**2)) ** -0.5
            value = scale * torch.where(mask, input, SELU_FLOOR) - scale * p * SELU_FLOOR
        else:
            value = torch.where(mask, input, 0.0) / (1 - p) if p < 1 else torch.zeros_like(input)
        return input.copy_(value) if inplace else value  # the caller may use `input` itself

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **options: Any,
    ) -> Tensor:
        """Softmax(q k^T / sqrt(d)) v, written out where its weights are dropped."""
        if dropout_p == 0 or options.get("enable_gqa"):
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options
            )
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = scores.softmax(-1)
        if attn_mask is not None:  # rows without a key: torch's answer is 0
            weights = weights.masked_fill((scores == float("-inf")).all(-1, keepdim=True), 0.0)
        return self._dropout(functional.dropout, weights, dropout_p, True, False) @ value

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        if not training or running_mean is None:
            return functional.batch_norm(
                input, running_mean, running_var, weight, bias, training, momentum, eps
            )
        count = input.numel() // input.shape[1]
        if count < 2:
            raise ValueError(
                f"batch norm has {count} value per channel to normalise in training, of an input "
                f"{tuple(input.shape)}; give a larger batch or use eval()"
            )
        if id(running_mean) not in self.names:
            raise ValueError(
                "a step calls batch_norm with running statistics of no BatchNorm module of its own; "
                "use one, or pass None for the statistics"
            )
        out, mean, inverse = torch.native_batch_norm(input, weight, bias, None, None, True, 0.0, eps)
        self.found.append((mean.detach(), inverse.detach()))
        self.uses.append((self.names[id(running_mean)], count, eps))
        return out


def _arguments(func: Callable[..., Any], args: tuple, kwargs: dict) -> dict[str, Any]:
    bound = _signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


@cache
def _signature(func: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(func)


@cache
def _inside(func: Any) -> Callable[..., Any]:
    """A function of torch.nn.functional that no longer hands itself over: only what it calls does."""
    never = dict.fromkeys(
        ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"),
        lambda *_: False,
    )
    space = {**func.__globals__, **never}
    inside = types.FunctionType(func.__code__, space, func.__name__, func.__defaults__)
    inside.__kwdefaults__ = func.__kwdefaults__
    return inside


# ---- which modules, and their statistics -------------------------------------------------------


def batch_norms(module: nn.Module) -> dict[str, BatchNorm]:
    """The modules inside that keep running statistics, by name."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, BatchNorm) and part.running_mean is not None
    }


def frozen_statistics(module: nn.Module) -> list[str]:
    """Names of the running statistics by which batch norms normalise: those not in training."""
    return [
        f"{name}.{leaf}".lstrip(".")
        for name, norm in batch_norms(module).items()
        if not norm.training
        for leaf in ("running_mean", "running_var")
    ]


def spared(norms: dict[str, BatchNorm]) -> dict[str, Tensor]:
    """Throwaway counters for the batch norms in training: their forward counts every evaluation."""
    return {
        f"{name}.num_batches_tracked".lstrip("."): torch.zeros((), dtype=torch.long)
        for name, part in norms.items()
        if part.training and part.num_batches_tracked is not None
    }


class Statistics:
    """Batch statistics of every step, as noted when it was last evaluated.

    `on` is set while the last sweep of a solve runs, whose states are the final ones.
    """

    def __init__(self) -> None:
        self.on = False
        self.noted: dict[tuple[str, int], list[tuple[Sequence[int], Tensor, Tensor]]] = {}
        self._uses: dict[tuple[str, int], int] = {}

    def clear(self) -> None:
        """Forgets all."""
        self.noted.clear()

    def step(self) -> None:
        """Before a step: its uses of a module are counted from 0."""
        self._uses.clear()

    def add(
        self,
        layers: Sequence[int],
        uses: Iterable[tuple[str, int, float]],
        found: Iterable[tuple[Tensor, Tensor]],
    ) -> None:
        """Notes mean and inverse deviation, each (steps, C), of what `uses` tells."""
        for (name, count, eps), (mean, inverse) in zip(uses, found, strict=True):
            which = (name, layers[0])
            use = self._uses.get(which, 0)
            self._uses[which] = use + 1
            variance = (inverse.pow(-2) - eps).clamp_min_(0).mul_(count / (count - 1))
            self.noted.setdefault((name, use), []).append((layers, mean, variance))

    def ordered(self) -> list[tuple[tuple[str, int], list[tuple[Sequence[int], Tensor, Tensor]]]]:
        """What was noted, by module and use, the uses of a module in order."""
        return sorted(self.noted.items(), key=lambda item: item[0][1])

    def gathered(self, block: range) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
        """Mean and unbiased variance, each (n, C), of a block of n layers, by module and use."""
        whole = {}
        for key, parts in self.ordered():
            mean = parts[0][1].new_empty(len(block), *parts[0][1].shape[1:])
            variance = torch.empty_like(mean)
            for layers, m, v in parts:
                at = torch.as_tensor(list(layers), device=m.device) - block.start
                mean[at], variance[at] = m, v
            whole[key] = mean, variance
        return whole


@torch.no_grad()
def commit(norm: BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """One training batch into running statistics (C,), or into those of all layers (N, C)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor: Any = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if factor is None:  # the plain average of all batches
            factor = 1.0 / norm.num_batches_tracked.to(mean.dtype).unsqueeze(-1)
    norm.running_mean.mul_(1 - factor).add_(factor * mean)
    norm.running_var.mul_(1 - factor).add_(factor * variance)
