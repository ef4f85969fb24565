"""Measuring gradients: how far from exact, and how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class GradientError:
    """How a gradient differs from the exact one.

    Attributes:
        relative: ``|g - g*| / |g*|`` over all parameters together.
        cosine: of the angle between the two.
        worst_layer: largest relative error of a single layer of the body, each over its own norm.
    """

    relative: float
    cosine: float
    worst_layer: float


def gradients(module: nn.Module) -> Gradients:
    """Copies of the gradients that a backward pass left, zeros where it left none."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
        for name, p in module.named_parameters()
    }


def compare(found: Gradients, exact: Gradients, depth: int = 0) -> GradientError:
    """Compares two gradients of the same network, in float64.

    Args:
        depth: N; parameters whose first dimension it is count as stacked layers for `worst_layer`.
    """
    dot = found_2 = exact_2 = error_2 = 0.0
    layers_error = torch.zeros(depth, dtype=torch.float64)
    layers_exact = torch.zeros(depth, dtype=torch.float64)
    for name, reference in exact.items():
        g, e = found[name].double().cpu(), reference.double().cpu()
        dot += float((g * e).sum())
        found_2 += float(g.square().sum())
        exact_2 += float(e.square().sum())
        error_2 += float((g - e).square().sum())
        if depth and name.startswith("body.") and e.dim() and e.shape[0] == depth:
            layers_error += (g - e).flatten(1).square().sum(1)
            layers_exact += e.flatten(1).square().sum(1)
    worst = 0.0
    if depth:
        tiny = torch.finfo(torch.float64).tiny
        worst = float((layers_error / layers_exact.clamp_min(tiny)).max().sqrt())
    norm = (found_2 * exact_2) ** 0.5
    return GradientError(
        relative=(error_2 / exact_2) ** 0.5 if exact_2 else error_2**0.5,
        cosine=dot / norm if norm else float(found_2 == exact_2),
        worst_layer=worst,
    )


def rounds(
    functions: Sequence[Callable[[], object]], repeats: int, device: torch.device | str = "cpu"
) -> list[list[float]]:
    """Milliseconds of every function, timed in turn, A B A B, after one round to warm up.

    What drifts while they run (clock rates, other processes) then meets all of them alike. A turn is
    one call that is not timed, which fetches the function's data into the caches as the step before
    does in a training loop, and one that is.
    """
    synchronise = torch.cuda.synchronize if torch.device(device).type == "cuda" else (lambda: None)
    times: list[list[float]] = [[] for _ in functions]
    for repeat in range(repeats + 1):
        for function, mine in zip(functions, times, strict=True):
            function()
            synchronise()
            start = time.perf_counter()
            function()
            synchronise()
            if repeat:
                mine.append((time.perf_counter() - start) * 1e3)
    return times


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)
