"""Layer-parallel gradients on two ranks, and what is counted and timed inside them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from cases import Case, Gradient
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import layerparallel as lp
from layerparallel.chains.coarse import CoarseOperator
from layerparallel.chains.convolution import ConvolutionAdjoint, ConvolutionChain
from layerparallel.group.ranks import Messages
from layerparallel.solvers.variants import Solver

Call = Callable[..., Any]


@cache
def layer_mesh() -> DeviceMesh:
    """Both processes as one layer group; the same one for all jobs."""
    return init_device_mesh("cpu", (2,), mesh_dim_names=("layer",))["layer"]


class Distributed(Gradient):
    """One gradient of a network whose depth is shared by both ranks."""

    module: lp.Network

    def __init__(self, rank: int, case: Case, solver: Solver):
        x, y = case.data()
        net = lp.distribute(case.network(solver), layer_mesh())
        super().__init__(net, x, y)

    def evaluations(self) -> tuple[float, float]:
        """Of the last gradient; see `evaluations`."""
        return evaluations(self.module)

    def fallbacks(self) -> int:
        """Solves that misbehaved and were done serially."""
        return self.module.fallbacks

    def shares(self, repeats: int) -> tuple[float, float, float]:
        """Of this gradient's time; see `shares`."""
        return shares(self, repeats)


def evaluations(net: lp.Network) -> tuple[float, float]:
    """Step evaluations per owned layer in the last forward solve and in the last adjoint solve.

    A coarse step counts as often as it evaluates a layer, and in the adjoint twice, as its tape is
    recorded first.
    """
    solver, body = net.solvers[0], net.chains[0]
    found = []
    for adjoint, solutions in ((False, net.solutions), (True, net.adjoint_solutions)):
        part = solver.adjoint.adjoint if adjoint else solver.forward.forward
        spent = solutions[0].evaluations
        total, span = float(spent[0]), 1
        for level, count in enumerate(spent[1:]):
            assert isinstance(part, lp.MGRIT)
            span *= part.factors(body.depth)[level]
            total += count * layers_of_a_step(part.operator, span) * (1 + adjoint)
        found.append(total / len(body.block))
    return found[0], found[1]


def layers_of_a_step(operator: CoarseOperator, span: int) -> int:
    """Layers evaluated in one coarse step over `span` layers."""
    return operator.groups(span) * (2 if operator.kind == "picard" else 1)


def shares(step: Call, repeats: int) -> tuple[float, float, float]:
    """Which parts of its wall time a gradient spends in steps, waiting for messages, and elsewhere.

    Opening, closing and loss count as elsewhere. Medians over calls.
    """
    found = []
    step()
    with clocked(("steps", STEPS), ("waiting", WAITING)) as spent:
        for _ in range(repeats):
            spent.update(steps=0.0, waiting=0.0)
            begin = time.perf_counter()
            step()
            total = time.perf_counter() - begin
            steps, waiting = spent["steps"] / total, spent["waiting"] / total
            found.append((steps, waiting, 1 - steps - waiting))
    inside, waiting, elsewhere = (statistics.median(column) for column in zip(*found, strict=True))
    return inside, waiting, elsewhere


STEPS = ((ConvolutionChain, "advance"), (ConvolutionAdjoint, "_tape"), (ConvolutionAdjoint, "_pull"))
WAITING = ((Messages, "wait"),)


@contextmanager
def clocked(*parts: tuple[str, tuple[tuple[type, str], ...]]) -> Iterator[dict[str, float]]:
    """Seconds spent in methods of classes, by the name of the part; what is nested counts once."""
    spent = {name: 0.0 for name, _ in parts}
    open_calls = [0]
    originals = [
        (owner, method, owner.__dict__[method]) for _, pairs in parts for owner, method in pairs
    ]

    def timed(name: str, function: Call) -> Call:
        def call(*args: Any, **kwargs: Any) -> Any:
            open_calls[0] += 1
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                open_calls[0] -= 1
                if not open_calls[0]:
                    spent[name] += time.perf_counter() - begin

        return call

    try:
        for name, pairs in parts:
            for owner, method in pairs:
                setattr(owner, method, timed(name, owner.__dict__[method]))
        yield spent
    finally:
        for owner, method, function in originals:
            setattr(owner, method, function)
