"""Measuring gradients: how far from exact, and how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
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
        worst_layer: largest relative error of a single layer of the body, each over its own norm;
            None where no layers were compared one by one.
    """

    relative: float
    cosine: float
    worst_layer: float | None


def gradients(module: nn.Module) -> Gradients:
    """Copies of the gradients that a backward pass left, zeros where it left none."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
        for name, p in module.named_parameters()
    }


def compare(
    found: Gradients,
    exact: Gradients,
    depth: int = 0,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> GradientError:
    """Compares two gradients of the same network, in float64.

    Args:
        depth: N; parameters whose first dimension it is count as stacked layers for `worst_layer`.
        total: adds up the four sums, (4,), of all ranks that have a part of the gradient each.
    """
    dot = found_2 = exact_2 = error_2 = 0.0
    layers_error = torch.zeros(depth, dtype=torch.float64)
    layers_exact = torch.zeros(depth, dtype=torch.float64)
    stacked = False
    for name, reference in exact.items():
        g, e = found[name].double().cpu(), reference.double().cpu()
        dot += float((g * e).sum())
        found_2 += float(g.square().sum())
        exact_2 += float(e.square().sum())
        error_2 += float((g - e).square().sum())
        if depth and name.startswith("body.") and e.dim() and e.shape[0] == depth:
            stacked = True
            layers_error += (g - e).flatten(1).square().sum(1)
            layers_exact += e.flatten(1).square().sum(1)
    sums = torch.tensor([dot, found_2, exact_2, error_2], dtype=torch.float64)
    dot, found_2, exact_2, error_2 = total(sums).tolist()
    worst = None
    if stacked:
        tiny = torch.finfo(torch.float64).tiny
        worst = float((layers_error / layers_exact.clamp_min(tiny)).max().sqrt())
    norm = (found_2 * exact_2) ** 0.5
    return GradientError(
        relative=(error_2 / exact_2) ** 0.5 if exact_2 else error_2**0.5,
        cosine=dot / norm if norm else float(found_2 == exact_2),
        worst_layer=worst,
    )


def timed(function: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Milliseconds of one call, until the device has done its work."""
    synchronise = torch.cuda.synchronize if torch.device(device).type == "cuda" else (lambda: None)
    synchronise()
    start = time.perf_counter()
    function()
    synchronise()
    return (time.perf_counter() - start) * 1e3


def turns(
    functions: Sequence[Callable[[], object]], device: torch.device | str = "cpu"
) -> Iterator[list[float]]:
    """Milliseconds of every function, turn after turn without end: A B A B.

    What drifts while they run (clock rates, other processes) then meets all of them alike. In a turn a
    function is called once without a clock, which fetches its data into the caches as the step before
    does in a training loop, and once with it.
    """
    while True:
        times = []
        for function in functions:
            function()
            times.append(timed(function, device))
        yield times


def rounds(
    functions: Sequence[Callable[[], object]], repeats: int, device: torch.device | str = "cpu"
) -> list[list[float]]:
    """Milliseconds of every function in `repeats` of the `turns`, after one to warm up."""
    taken = turns(functions, device)
    next(taken)
    return [list(each) for each in zip(*(next(taken) for _ in range(repeats)), strict=True)]


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)
