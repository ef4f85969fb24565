"""Stages timed one after the other on one device, for what K devices would take: equation (9)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from plan import Plan
from random_images import random_images
from tables import Row
from torch import Tensor

from layerparallel import recipes
from layerparallel.data.base import Dataset
from layerparallel.data.batches import Batches
from layerparallel.solvers.cost import auxiliary_speedup

BATCHES = 2
"""Of random images, which are trained on in turn."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of one mini batch on one device.

    Args:
        device: its name.
        stages: K.
        propagation: a serial training step.
        loading: making the batch, augmented.
        coupling: what a parallel step takes beyond its stages, by interface: fetching and updating
            auxiliary variables and multipliers, and the interface's loss. A device of K has at most two
            halves of it, so one whole.
        heaviest: share of the slowest stage in the time of all stages.
    """

    device: str
    stages: int
    propagation: float
    loading: float
    coupling: float
    heaviest: float

    @staticmethod
    def key(plan: Plan, row: Row) -> str:
        """Names the network, the stages and the method that times are of."""
        kind = plan.options
        name = f"{plan.recipe} {kind.get('family', 'resnet')}-{kind['depth']}"
        return f"{name}, K = {row.stages}, {row.method}{', downsampled' if row.down else ''}"

    def speedup(self) -> float:
        """rho_K."""
        return auxiliary_speedup(
            self.stages, self.propagation, self.loading, self.coupling, heaviest=self.heaviest
        )


def time_stages(
    pairs: Iterable[tuple[Plan | None, Row]], device: str, rounds: int
) -> dict[str, dict[str, Any]]:
    """The times of all networks, stages and methods among some rows, by `Times.key`."""
    found: dict[str, dict[str, Any]] = {}
    for plan, row in pairs:
        if plan is None or row.method == "serial" or Times.key(plan, row) in found:
            continue
        options = {k: v for k, v in plan.of(row).items() if k not in ("training", "validation")}
        options |= {"device": device} | ({} if plan.draws else {"augment": "serial"})
        recipe = recipes.rebuild(plan.recipe, options)
        found[Times.key(plan, row)] = asdict(of_recipe(recipe, device, rounds))
    return found


def of_recipe(recipe: Any, device: str, rounds: int) -> Times:
    """Of a recipe's networks and methods, on random images."""
    data = _images(BATCHES * recipe.batch, recipe.shape).to(device)
    batches = Batches(data, recipe.batch, torch.Generator().manual_seed(0), recipe.prepare(data))
    serial = replace(recipe, method="serial").trained(data)
    method = recipe.trained(data)
    settings = method.settings
    method.begin_epoch(next(n for n in range(recipe.epochs) if settings.is_parallel(n)))
    network, batch = method.network.train(), batches[0]
    serial.network.train()
    count, target = network.count, recipe.task.target(batch.x, batch.y)
    starts = [batch.x]
    with torch.no_grad():
        for k in range(count - 1):
            starts.append(network.stage(k)(starts[-1]))

    def stage(k: int) -> Callable[[], None]:
        def work() -> None:
            method.optimizers[k].zero_grad()
            end = network.stage(k)(starts[k].detach().requires_grad_(k > 0))
            if k == count - 1:
                end = recipe.task.loss(end, target)
            end.backward(torch.full_like(end, 1 / end.numel()))
            method.optimizers[k].step()

        return work

    def median(work: Callable[[], object]) -> float:
        work()
        return statistics.median(_milliseconds(work, batch.x) for _ in range(rounds))

    loading = median(lambda: batches[1])
    stages = [median(stage(k)) for k in range(count)]
    propagation = median(lambda: serial.step(batch.x, target))
    whole = median(lambda: method.step(batch.x, target, batch=replace(batch, drawn=None)))
    return Times(
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu, 1 thread",
        stages=count,
        propagation=propagation,
        loading=loading,
        coupling=max(0.0, whole - sum(stages)) / max(1, count - 1),
        heaviest=max(stages) / sum(stages),
    )


def _images(count: int, shape: tuple[int, int, int]) -> Dataset:
    """Random images of a shape that fits into CIFAR's, in ten classes."""
    found, (channels, height, width) = random_images(count), shape
    small = {
        name: getattr(found, name)[:, :channels, :height, :width] for name in ("train_x", "validation_x")
    }
    return replace(found, **small)


def _milliseconds(work: Callable[[], object], where: Tensor) -> float:
    _finish(where)
    begin = time.perf_counter()
    work()
    _finish(where)
    return 1e3 * (time.perf_counter() - begin)


def _finish(where: Tensor) -> None:
    if where.is_cuda:
        torch.cuda.synchronize(where.device)
