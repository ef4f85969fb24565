"""The published problem of layer-parallel training, as its authors train it.

Level sets of `peaks`: 32 layers of width 8, T = 1, SmoothReLU, all 5000 samples as one batch, 130
steps of L-BFGS with a memory of 10, regularisation 1e-7 / 1e-5 / 1e-7 (Tikhonov / smoothness
without its factor h / closing). One row for each solver; the baseline is the same training of the
same network in ordinary PyTorch, layer by layer under autograd, with the same optimiser.
"""

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import layerparallel as lp
from layerparallel.data.base import Dataset
from layerparallel.data.level_sets import CLASSES, NAMES, SIDE, grid, peaks, published
from layerparallel.network.propagate import Solver
from layerparallel.training.groups import depth_groups
from layerparallel.training.objective import Objective
from layerparallel.training.one_shot import OneShot
from layerparallel.training.optim import LBFGS

DEPTH, WIDTH, T, STEPS = 32, 8, 1.0, 130
TIKHONOV, SMOOTHNESS, CLOSING = 1e-7, 1e-5, 1e-7
GAIN = 3.5
"""The body starts at this multiple of nn.Linear's spread: near 0 its 130 steps are too few."""
WARM = lp.MGRIT(levels=2, coarsening=4, forward_cycles=2, adjoint_cycles=2, warm_start=True)
SOLVERS: dict[str, tuple[Solver, int]] = {
    # with the milliseconds that the authors' C++ code (-O3) took on one core of a 2-core machine
    "Serial()": (lp.Serial(), 8100),
    "MGRIT(levels=2, coarsening=4), 2 + 2 cycles, warm start": (WARM, 47000),
}


@dataclass(frozen=True)
class Result:
    """One training: wall time, last objective, share of validation points classed rightly."""

    seconds: float
    objective: float
    validation: float
    evaluations: int
    fallbacks: int = 0


def bands(points: Tensor) -> Tensor:
    """The authors' classes: five bands of equal height between the surface's extremes."""
    heights = peaks(grid(600))
    lowest, highest = heights.min().item(), heights.max().item()
    edges = torch.linspace(lowest, highest, CLASSES + 1, dtype=torch.float64)[1:-1]
    return torch.bucketize(peaks(points.double()), edges)


def generated(seed: int = 0) -> Dataset:
    """Points as the authors draw them: uniform within each band, 1000 + 40 in every one.

    This is not the set of `layerparallel.data.level_sets`, whose classes have equal areas.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.rand(200_000, 2, generator=generator, dtype=torch.float64) * 2 - 1) * SIDE
    classes = bands(drawn)
    chosen = torch.stack([(classes == c).nonzero().squeeze(1)[:1040] for c in range(CLASSES)])
    train, validation = chosen[:, :1000].flatten(), chosen[:, 1000:].flatten()
    points = drawn.float()
    return Dataset(
        "level-sets-drawn",
        points[train],
        classes[train],
        points[validation],
        classes[validation],
        NAMES,
    )


def points() -> tuple[Dataset, str]:
    """The authors' points where LAYERPARALLEL_DATA has them, else as many generated ones."""
    root = os.environ.get("LAYERPARALLEL_DATA")
    folder = Path(root) / "level-sets" if root else None
    if folder is None or not folder.is_dir():
        return generated(), "generated"
    return published(), "the authors'"


def network(seed: int, solver: Solver) -> lp.Network:
    """The authors' network, smooth in depth at first."""
    torch.manual_seed(seed)
    body = lp.chain(lp.Dense(WIDTH, activation="smoothrelu"), depth=DEPTH, T=T, initial="smooth")
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.mul_(GAIN)
    return lp.Network(nn.Linear(2, WIDTH), body, nn.Linear(WIDTH, CLASSES), solver=solver)


def accuracy(net: nn.Module, data: Dataset) -> float:
    """Share of the validation points classed rightly, propagated serially."""
    net.eval()
    with torch.no_grad():
        right = net(data.validation_x).argmax(dim=1) == data.validation_y
    net.train()
    return right.double().mean().item()


def optimizer(net: nn.Module) -> LBFGS:
    """The authors' method, in the inner product of L2(0, T)."""
    return LBFGS(depth_groups(net), memory=10, reuse_gradient=True)


def ours(net: lp.Network, data: Dataset, steps: int) -> Result:
    """`steps` steps of simultaneous training."""
    objective = Objective(F.cross_entropy, TIKHONOV, SMOOTHNESS, CLOSING, weighted=False)
    descent, evaluations = optimizer(net), 1
    method = OneShot(net, descent, objective)
    start = time.perf_counter()
    for _ in range(steps):
        method.step(data.train_x, data.train_y)
        evaluations += descent.search.trials if descent.search else 0
    seconds = time.perf_counter() - start
    value = descent.search.value if descent.search else float("nan")
    return Result(seconds, value, accuracy(net, data), evaluations, net.fallbacks)


def penalty(twin: lp.SerialNetwork) -> Tensor:
    """The regularisation of a network of single layers."""
    assert isinstance(twin.body, nn.ModuleList)
    value = torch.zeros(())
    for stack in zip(*(layer.parameters() for layer in twin.body), strict=True):
        theta = torch.stack(stack)
        value = value + 0.5 * TIKHONOV * theta.square().sum()
        value = value + 0.5 * SMOOTHNESS * (theta.diff(dim=0) * (DEPTH / T)).square().sum()
    for parameter in twin.closing.parameters():
        value = value + 0.5 * CLOSING * parameter.square().sum()
    return value


def plain(twin: lp.SerialNetwork, data: Dataset, steps: int) -> Result:
    """The same training as anyone would write it in PyTorch."""
    descent, evaluations = optimizer(twin), 1

    def objective() -> Tensor:
        return F.cross_entropy(twin(data.train_x), data.train_y) + penalty(twin)

    def closure() -> Tensor:
        descent.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    start = time.perf_counter()
    for _ in range(steps):
        descent.step(closure, objective)
        evaluations += descent.search.trials if descent.search else 0
    seconds = time.perf_counter() - start
    value = descent.search.value if descent.search else float("nan")
    return Result(seconds, value, accuracy(twin, data), evaluations)


def gradient_error(net: lp.Network, data: Dataset) -> tuple[float, float]:
    """Relative error and cosine of the loss gradient beside ordinary autograd's."""
    twin = net.to_serial()
    for each in (net, twin):
        each.zero_grad()
        F.cross_entropy(each(data.train_x), data.train_y).backward()
    exact = {name: p.grad for name, p in twin.named_parameters()}
    pairs: list[tuple[Tensor, Tensor]] = []
    for name, p in net.named_parameters():
        assert p.grad is not None
        inner = name.removeprefix("body.")
        pattern = "body." + net.body.layer_name(inner)[0] if inner != name else name
        names = [pattern.format(n=n) for n in range(DEPTH)] if "{n}" in pattern else [pattern]
        found = torch.cat([exact[each].flatten() for each in names])  # pyright: ignore[reportOptionalMemberAccess]
        pairs.append((p.grad.flatten(), found))
    a, b = (torch.cat(parts).double() for parts in zip(*pairs, strict=True))
    return ((a - b).norm() / b.norm()).item(), F.cosine_similarity(a, b, dim=0).item()


def rows(seeds: int, steps: int) -> list[dict[str, Any]]:
    """Train with every solver and serially in PyTorch, from the same weights in turn."""
    data, source = points()
    twins, solved = [], {name: [] for name in SOLVERS}
    errors: dict[str, list[tuple[float, float]]] = {name: [] for name in SOLVERS}
    for seed in range(seeds):
        twins.append(plain(network(seed, lp.Serial()).to_serial(), data, steps))
        for name, (solver, _) in SOLVERS.items():
            net = network(seed, solver)
            solved[name].append(ours(net, data, steps))
            errors[name].append(gradient_error(net, data))
    baseline_ms = 1e3 * statistics.median(r.seconds for r in twins)
    found = []
    for name, (_, published_ms) in SOLVERS.items():
        results = solved[name]
        ours_ms = 1e3 * statistics.median(r.seconds for r in results)
        found.append(
            {
                "case": f"{steps} L-BFGS steps, {DEPTH} layers, batch {len(data.train_x)}: {name}",
                "threads": torch.get_num_threads(),
                "baseline": "eager PyTorch layer by layer, the same optimiser",
                "baseline_ms": baseline_ms,
                "ours_ms": ours_ms,
                "ratio": baseline_ms / ours_ms,
                "relative_error": max(error for error, _ in errors[name]),
                "cosine": min(cosine for _, cosine in errors[name]),
                "solver": name,
                "points": source,
                "seeds": seeds,
                "validation_accuracy": statistics.fmean(r.validation for r in results),
                "validation_accuracies": [r.validation for r in results],
                "baseline_validation_accuracy": statistics.fmean(r.validation for r in twins),
                "objective": statistics.fmean(r.objective for r in results),
                "objective_evaluations": [r.evaluations for r in results],
                "fallbacks": [r.fallbacks for r in results],
                "published_ms": published_ms if steps == STEPS else None,
            }
        )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its rows, as a table or as JSON."""
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each kind")
    parser.add_argument("--steps", type=int, default=STEPS, help="L-BFGS steps")
    options = parser.parse_args(argv)
    for name in ("threads", "seeds", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)} is out of range: give 1 or more.")
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        found = rows(options.seeds, options.steps)
    finally:
        torch.set_num_threads(before)
    if options.json:
        harness.print_json(found)
        return
    for row in found:
        print(row["case"])
        print(f"  ours {row['ours_ms']:7.0f} ms   PyTorch {row['baseline_ms']:7.0f} ms", end="   ")
        print(f"ratio {row['ratio']:.2f}   threads {row['threads']}")
        each = ", ".join(f"{100 * value:.1f}" for value in row["validation_accuracies"])
        print(f"  validation {100 * row['validation_accuracy']:.1f} %  ({each})", end="   ")
        print(f"gradient error {row['relative_error']:.1e}, cosine {row['cosine']:.6f}")


if __name__ == "__main__":
    main()
