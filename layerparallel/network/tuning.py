"""Choosing a solver by measurement, on the user's own network and batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..solvers import MGRIT, Serial
from ..solvers.measure import GradientError, compare, gradients, median, rounds
from ..steps import draws
from .network import Network


@dataclass(frozen=True)
class Trial:
    """One solver measured: milliseconds per gradient (None if it was too inexact to time)."""

    solver: Serial | MGRIT
    error: GradientError
    milliseconds: float | None
    fallback: str | None = None

    @property
    def name(self) -> str:
        return describe(self.solver)


@dataclass(frozen=True)
class Tuning:
    """What `tune` found: the fastest solver within the bound, and everything it measured."""

    solver: Serial | MGRIT
    trials: tuple[Trial, ...]

    def table(self) -> str:
        """The trials as plain text, fastest first, those beyond the bound last."""
        serial = next(t.milliseconds for t in self.trials if isinstance(t.solver, Serial))
        lines = [
            f"{'solver':44} {'ms':>9} {'speed-up':>9} {'error':>9} {'cosine':>8} {'worst layer':>12}"
        ]
        order = sorted(self.trials, key=lambda t: (t.milliseconds is None, t.milliseconds or 0))
        for t in order:
            ms = f"{t.milliseconds:9.2f}" if t.milliseconds is not None else "        -"
            ratio = f"{serial / t.milliseconds:8.2f}x" if serial and t.milliseconds else "        -"
            mark = " <-" if t.solver == self.solver else ""
            lines.append(
                f"{t.name:44} {ms} {ratio} {t.error.relative:9.1e} {t.error.cosine:8.4f} "
                f"{t.error.worst_layer:12.1e}{mark}"
            )
        return "\n".join(lines)


def describe(solver: Serial | MGRIT) -> str:
    """A solver's settings in a few words, for tables."""
    if isinstance(solver, Serial):
        return "Serial()"
    coarse = solver.coarse if solver.samples is None else f"{solver.coarse}:{solver.samples}"
    relaxation = "" if solver.relaxation == 0 else f" relaxation={solver.relaxation}"
    return (
        f"MGRIT L={solver.levels} m={solver.coarsening} "
        f"({solver.forward_cycles},{solver.adjoint_cycles}) {coarse}{relaxation}"
    )


def candidates(depth: int) -> list[Serial | MGRIT]:
    """A few settings worth trying at this depth; `Serial()` is always among them."""
    found: list[Serial | MGRIT] = [Serial()]
    sizes = sorted({m for m in (8, 16, 32, 64) if depth // m >= 4} or {max(2, depth // 4)})
    for m in sizes:
        for cycles in (1, 2):
            for coarse, samples in (
                ("inject", None),
                ("mean_residual", 4),
                ("picard", 4),
                ("picard", None),
            ):
                if samples is not None and samples >= m:
                    continue
                solver = MGRIT(
                    levels=2,
                    coarsening=m,
                    forward_cycles=cycles,
                    adjoint_cycles=cycles,
                    coarse=coarse,  # type: ignore[arg-type]
                    samples=samples,
                )
                if solver.factors(depth):
                    found.append(solver)
    return found


def tune(
    network: Network,
    batch: tuple[Any, Any],
    criterion: Callable[[Any, Any], Tensor],
    *,
    error: float = 0.1,
    solvers: Sequence[Serial | MGRIT] | None = None,
    repeats: int = 5,
) -> Tuning:
    """Measures solvers on this network and batch and picks the fastest that is exact enough.

    The network is left as it was, gradients and solver included: set ``network.solver`` yourself.

    Args:
        network: in the state whose gradients matter; errors grow with training, so tune again.
        batch: (input, target), of the size that will be trained with.
        criterion: ``criterion(network(input), target)`` is the loss.
        error: bound on the relative error of the whole gradient.
        solvers: what to try; `candidates(depth)` if None. ``Serial()`` is tried in any case. Those that
            choose their coarsening are tried with what they choose for the shortest chain.
        repeats: timings of each.

    Raises:
        ValueError: a bound that is not positive.
    """
    if not error > 0:
        raise ValueError(f"error={error} is out of range; use a positive bound")
    if not isinstance(batch, tuple) or len(batch) != 2:
        raise TypeError(f"batch is a {type(batch).__name__}; give the pair (input, target)")
    x, y = batch
    depth = min(body.depth for body in network.chains)
    picard = all(body.allows_picard for body in network.chains)
    wanted = list(solvers) if solvers is not None else candidates(depth)
    tried = [s.fitted(depth, picard) if isinstance(s, MGRIT) else s for s in wanted]
    if not any(isinstance(s, Serial) for s in tried):
        tried.insert(0, Serial())
    before = {p: p.grad for p in network.parameters()}
    was_training = network.training
    network.train()

    def gradient(solver: Serial | MGRIT) -> None:
        network.zero_grad(set_to_none=True)
        with draws.apart(), network.solved_by(solver):  # the same masks every time
            criterion(network(x), y).backward()

    try:
        with network.undisturbed():
            gradient(Serial())
            exact = gradients(network)
            trials: list[Trial] = []
            for solver in tried:
                network.forget_guesses()
                gradient(solver)
                solved = [*network.solutions, *network.adjoint_solutions]
                fallback = next((s.fallback for s in solved if s.fallback), None)
                error_found = compare(gradients(network), exact, depth)
                trials.append(Trial(solver, error_found, None, fallback))
            good = [k for k, t in enumerate(trials) if t.error.relative <= error and not t.fallback]
            device = next((p.device for p in network.parameters()), torch.device("cpu"))
            calls = [lambda solver=trials[k].solver: gradient(solver) for k in good]
            for k, times in zip(good, rounds(calls, repeats, device), strict=True):
                trials[k] = Trial(trials[k].solver, trials[k].error, median(times))
    finally:
        network.train(was_training)
        network.forget_guesses()
        for p, g in before.items():
            p.grad = g
    best = min((trials[k] for k in good), key=lambda t: t.milliseconds or 0.0)
    return Tuning(best.solver, tuple(trials))
