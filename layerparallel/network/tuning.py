"""Choosing a solver by measurement, on the user's own network and batch."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor

from ..solvers import Serial, Split
from ..solvers.measure import GradientError
from ..solvers.variants import Solvers, fitted, is_serial, serially
from .candidates import candidates, with_one_more
from .gradients import Call, Measured, left_alone
from .network import Network

FAR = 3.0
"""A solver that takes so many times as long as the fastest so far is given up."""
FINALISTS = 4
"""Most multigrid solvers that are timed in turns."""
BEYOND = "beyond the bound"
SHOWN = ("levels", "coarsening", "forward_cycles", "adjoint_cycles", "coarse", "samples")


@dataclass(frozen=True)
class Trial:
    """What was found about one solver; None is what was not measured.

    Attributes:
        solver: None for plain PyTorch, ``net.to_serial()``.
        error: of the gradient, beside that of `Serial()`; None if a solve fell back to the serial one.
        milliseconds: per gradient, the median of those that were timed in turns with the others.
        fallback: why a solve was done serially instead.
        note: why it was not timed.
    """

    solver: Solvers | None
    error: GradientError | None = None
    milliseconds: float | None = None
    fallback: str | None = None
    note: str | None = None

    @property
    def name(self) -> str:
        return "plain PyTorch, net.to_serial()" if self.solver is None else describe(self.solver)


@dataclass(frozen=True)
class Tuning:
    """What `tune` found.

    Attributes:
        solver: the fastest of the library's solvers within the bound.
        plain: plain PyTorch, ``net.to_serial()``, eagerly.
        trials: of the solvers, in the order in which they were tried.
        bound: on the relative error.
        seconds: that `tune` was given.
        untried: solvers for which there was no time left.
    """

    solver: Solvers
    plain: Trial
    trials: tuple[Trial, ...]
    bound: float
    seconds: float
    untried: tuple[Solvers, ...] = ()

    @property
    def best(self) -> Trial:
        """The trial of `solver`."""
        return next(t for t in self.trials if t.solver == self.solver)

    @property
    def speedup(self) -> float | None:
        """How many times as fast as plain PyTorch `solver` is; None if that was not measured."""
        return _ratio(self.plain, self.best)

    @property
    def plain_won(self) -> bool:
        """Whether plain PyTorch is faster than every solver of the library within the bound."""
        return self.speedup is not None and self.speedup < 1

    def table(self) -> str:
        """The trials as plain text: plain PyTorch, the timed ones by time, the others by error."""
        rows = [self.plain, *sorted(self.trials, key=_place)]
        width = max(len(t.name) for t in rows)
        heads = _line(width, "solver", "ms", "vs plain", "error", "cosine", "worst layer", "")
        lines = [heads, *(self._row(t, width) for t in rows)]
        if self.untried:
            lines.append(
                f"{len(self.untried)} more would not have fitted into seconds={self.seconds:g} and were "
                "not tried."
            )
        if self.plain_won:
            lines.append(
                "Plain PyTorch is the fastest on this batch and machine: train net.to_serial(), or keep "
                "Serial()."
            )
        return "\n".join(lines)

    def _row(self, t: Trial, width: int) -> str:
        ratio = _ratio(self.plain, t)
        exact = t.solver is not None and is_serial(t.solver)
        return _line(
            width,
            t.name,
            "" if t.milliseconds is None else f"{t.milliseconds:.2f}",
            "" if ratio is None else f"{ratio:.2f}x",
            *(("exact", "", "") if exact else _figures(t.error)),
            "<-" if t.solver == self.solver else t.note or "",
        )


def _line(
    width: int, name: str, ms: str, ratio: str, error: str, cosine: str, worst: str, note: str
) -> str:
    return f"{name:{width}} {ms:>9} {ratio:>9} {error:>8} {cosine:>8} {worst:>11} {note}".rstrip()


def _place(t: Trial) -> tuple[float, float]:
    """In the table."""
    return t.milliseconds or math.inf, t.error.relative if t.error else math.inf


def _ratio(plain: Trial, trial: Trial) -> float | None:
    if plain.milliseconds is None or trial.milliseconds is None:
        return None
    return plain.milliseconds / trial.milliseconds


def _figures(error: GradientError | None) -> tuple[str, str, str]:
    if error is None:
        return "", "", ""
    worst = "" if error.worst_layer is None else f"{error.worst_layer:.1e}"
    return f"{error.relative:.1e}", f"{error.cosine:.4f}", worst


def describe(solver: Solvers) -> str:
    """A solver's settings in a few words, for tables."""
    if isinstance(solver, tuple):
        return " | ".join(map(describe, solver))
    if isinstance(solver, Split):
        return f"forward {describe(solver.forward)}, adjoint {describe(solver.adjoint)}"
    if isinstance(solver, Serial):
        return "Serial()" if solver.memory == "store" else f"Serial({solver.memory!r})"
    m, coarse = solver.coarsening or "by depth", solver.coarse or "by steps"
    coarse += "" if solver.samples is None else f":{solver.samples}"
    others = {f.name: getattr(solver, f.name) for f in fields(solver) if f.name not in SHOWN}
    defaults = {f.name: f.default for f in fields(solver)}
    rest = [
        f" {name}={getattr(value, '__name__', value)}"
        for name, value in others.items()
        if value != defaults[name]
    ]
    return (
        f"MGRIT L={solver.levels} m={m} "
        f"({solver.forward_cycles},{solver.adjoint_cycles}) {coarse}{''.join(rest)}"
    )


def tune(
    network: Network,
    batch: tuple[Any, Any],
    criterion: Callable[[Any, Any], Tensor],
    *,
    error: float = 0.1,
    solvers: Sequence[Solvers] | None = None,
    seconds: float = 10.0,
    repeats: int = 5,
    progress: bool | None = None,
) -> Tuning:
    """Measures solvers on this network and batch and picks the fastest that is exact enough.

    Beside them it times plain PyTorch, the same network as ``net.to_serial()``. Every solver's gradient
    is compared with that of ``Serial()``; the fastest within the bound are then timed in turns. On a
    layer group all ranks call this, and plain PyTorch is left out: no rank has the whole network.

    The network is left as it was, gradients, solver, buffers, random numbers and modes included: set
    ``network.solver`` yourself. So it is when Ctrl-C ends this early, which raises KeyboardInterrupt.

    Args:
        network: in the state whose gradients matter; errors grow with training, so tune again.
        batch: (input, target), of the size that will be trained with.
        criterion: ``criterion(network(input), target)`` is the loss.
        error: bound on the relative error of the whole gradient.
        solvers: what to try, with what they choose for these chains written out; if None, settings that
            fit the network's chains, with one more cycle for those that are fast and not exact enough.
            ``Serial()`` is tried in any case. A solver that the network cannot take is a row of the
            table.
        seconds: after which nothing new is begun. Plain PyTorch and ``Serial()`` are timed in any case,
            so a network whose gradient takes long may take longer.
        repeats: most timings of each.
        progress: whether to show on stderr what is being tried; if None, where that is a terminal.

    Raises:
        ValueError: `error`, `seconds` or `repeats` is not positive; the network has no gradient on this
            batch, or one that is not finite.
        TypeError: the network, the batch or a solver is none.
    """
    for name, value in (("error", error), ("seconds", seconds), ("repeats", repeats)):
        if not value > 0:
            raise ValueError(f"{name}={value} is out of range; use a positive number")
    if not isinstance(network, Network):
        raise TypeError(
            f"{type(network).__name__} is no layerparallel.Network; give the network itself, without "
            "what is wrapped around it"
        )
    if not isinstance(batch, tuple) or len(batch) != 2:
        raise TypeError(f"batch is a {type(batch).__name__}; give the pair (input, target)")
    for solver in solvers or []:
        with contextlib.suppress(ValueError), network.solved_by(solver):
            pass  # what is no solver is refused before any work
    given = None if solvers is None else [_written_out(network, solver) for solver in solvers]
    x, y = batch
    with _Progress(progress, network) as show, left_alone(network, criterion):
        measured = Measured(network, x, y, criterion, seconds)
        return _Search(measured, error, repeats, show).run(given)


def _written_out(network: Network, solver: Solvers) -> Solvers:
    """The solver with all that it chooses for the network's chains; as it is where they refuse it."""
    each = solver if isinstance(solver, tuple) else [solver] * len(network.chains)
    try:
        found = tuple(
            fitted(one, body.depth, body.allows_picard)
            for one, body in zip(each, network.chains, strict=True)
        )
    except ValueError:
        return solver
    return found[0] if len(set(found)) == 1 else found


class _Progress:
    """One line on stderr that is written over; lines one below the other where it is no terminal."""

    def __init__(self, wanted: bool | None, network: Network):
        self.terminal = sys.stderr.isatty()
        self.shown = network.group.first and (self.terminal if wanted is None else wanted)

    def __call__(self, text: str) -> None:
        if self.shown:
            line = f"\r{text[:79]:79}" if self.terminal else f"{text}\n"
            print(line, end="", file=sys.stderr, flush=True)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown and self.terminal:
            print(f"\r{'':79}\r", end="", file=sys.stderr, flush=True)


@dataclass
class _Search:
    """One call of `tune`.

    Attributes:
        quick: milliseconds of the solvers that are in the running, `Serial()` the first of them.
        always: milliseconds of what is timed in any case.
    """

    measured: Measured
    bound: float
    repeats: int
    show: Callable[[str], None]
    trials: list[Trial] = field(default_factory=list)
    quick: dict[Solvers, float] = field(default_factory=dict)
    always: float = 0.0

    def run(self, given: list[Solvers] | None) -> Tuning:
        """Tries one solver after the other, and times the fastest in turns."""
        measured = self.measured
        serial = serially(measured.network.solver)
        if isinstance(serial, tuple) and len(set(serial)) == 1:
            serial = serial[0]
        self.show("tune: the gradient by Serial()")
        call = measured.by(serial)
        error, ms = measured.refer_to(call)
        self.trials.append(Trial(serial, error))
        self.quick[serial] = measured.again(ms, call, measured.seconds / 20)
        self.show("tune: the gradient by plain PyTorch")
        plain, plainly, plain_ms = self.plain()
        self.always = plain_ms + self.quick[serial]
        queue = list(dict.fromkeys(candidates(measured.network) if given is None else given))
        queue = [solver for solver in queue if solver != serial]
        while queue and measured.left() > self.reserve():
            solver = queue.pop(0)
            self.show(f"tune: {measured.left():.0f} s left; {describe(solver)}")
            trial, ms = self.tried(solver)
            self.trials.append(trial)
            more = with_one_more(solver) if given is None and trial.note == BEYOND else None
            if more is not None and 1.3 * ms < min(self.quick.values()):
                queue.insert(0, more)  # it can afford another cycle
        fastest = self.finalists()
        self.show(f"tune: {len(fastest)} of {len(self.trials)} in turns")
        found = measured.in_turns([*plainly, *map(measured.by, fastest)], self.repeats)
        if plainly:
            plain = replace(plain, milliseconds=found.pop(0))
        times = dict(zip(fastest, found, strict=True))
        trials = tuple(self.finished(t, times) for t in self.trials)
        chosen = min(fastest, key=times.__getitem__)
        return Tuning(chosen, plain, trials, self.bound, measured.seconds, tuple(queue))

    def reserve(self) -> float:
        """Seconds for the timing in turns: up to a third of all that there are, or one turn."""
        _, *others = self.quick.values()
        turn = 2e-3 * (self.always + sum(sorted(others)[:FINALISTS]))
        return min((1 + self.repeats) * turn, max(turn, self.measured.seconds / 3))

    def finalists(self) -> list[Solvers]:
        """`Serial()` and the fastest others, as many as there is time for; one if there is any."""
        serial, *others = self.quick
        fastest = sorted(others, key=self.quick.__getitem__)[:FINALISTS]
        left = self.measured.left()
        while fastest[1:] and left < 2e-3 * (self.always + sum(self.quick[s] for s in fastest)):
            fastest.pop()
        return [serial, *fastest]

    def finished(self, trial: Trial, times: dict[Solvers, float]) -> Trial:
        """With its milliseconds in turns, or why there are none."""
        assert trial.solver is not None
        if trial.note is not None or trial.solver in times:
            return replace(trial, milliseconds=times.get(trial.solver))
        late = self.quick[trial.solver] / min(self.quick.values())
        return replace(trial, note=f"not timed: {late:.1f} x the fastest at first")

    def plain(self) -> tuple[Trial, list[Call], float]:
        """Plain PyTorch, what takes its gradient, if anything does, and its milliseconds, else 0."""
        if not self.measured.network.group.alone:
            return Trial(None, note="not timed: a layer group has no net.to_serial()"), [], 0.0
        try:
            call = self.measured.plainly()
            ms = self.measured.again(self.measured.first(call)[0], call, self.measured.seconds / 20)
        except Exception as error:  # it copies the user's modules and calls them one by one
            return Trial(None, note=f"not timed: {_sentence(error)}"), [], 0.0
        return Trial(None), [call], ms

    def tried(self, solver: Solvers) -> tuple[Trial, float]:
        """A solver's trial, with a note if it is out of the running, and its milliseconds."""
        network, call = self.measured.network, self.measured.by(solver)
        network.forget_guesses()
        before, best = network.fallbacks, min(self.quick.values())
        refusals = (ValueError, RuntimeError) if network.group.alone else ValueError
        try:
            ms, gradient = self.measured.first(call)
            if network.fallbacks > before:
                solved = (*network.solutions, *network.adjoint_solutions)
                reason = next(s.fallback for s in solved if s.fallback)
                return Trial(solver, fallback=reason, note=f"fell back to Serial(): {reason}"), ms
            error = self.measured.compared(gradient)
            ms = self.measured.again(ms, call, self.measured.seconds / 100)
        except refusals as refusal:  # Serial() was not refused the same batch
            return Trial(solver, note=f"refused: {_sentence(refusal)}"), math.inf
        if not error.relative <= self.bound:
            return Trial(solver, error, note=BEYOND), ms
        if ms > FAR * best:
            return Trial(solver, error, note=f"given up: {ms / best:.1f} x the fastest at first"), ms
        self.quick[solver] = ms
        return Trial(solver, error), ms


def _sentence(error: BaseException) -> str:
    """The first line of what was raised."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__
