"""The end of a run: evaluated both ways, compared with ordinary serial training, summed up."""

from __future__ import annotations

import statistics
from typing import Any

from torch import nn

from ..network.network import Network
from ..solvers.variants import is_serial
from .checkpoint import Moment
from .evaluate import residuals_per_cycle, told, validation
from .record import history, machine, read, write_summary
from .run import Phase
from .sums import Sums
from .underway import Training

CYCLES = 8
"""Cycles over which the residuals are followed at the end."""


def conclude(training: Training, network: nn.Module) -> dict[str, Any]:
    """Evaluate both ways, follow the residuals, train the serial slice, sum up; the summary."""
    found = training.figures(network)
    in_parallel, said = found, told(found)
    if isinstance(network, Network) and not is_serial(network.solver):
        in_parallel = training.figures(network, parallel=True)
        said = f"{said} propagated serially; {told(in_parallel)} in parallel"
    training.display.say(f"validation: {said}")
    figures = validation(found) | validation(in_parallel, parallel=True)
    forward, adjoint = residuals_per_cycle(network, *training.sample(), CYCLES)
    training.note("cycles", forward=forward, adjoint=adjoint)
    theirs = _serial_slice(training)
    return training.team.once(lambda: _summary(training, figures, theirs))


def _summary(training: Training, figures: dict[str, float], theirs: float | None) -> dict[str, Any]:
    """What the record comes to, written to the run folder by the first rank."""
    run, team, display = training.run, training.team, training.display
    epochs = history(read(training.folder), "epoch")
    fallbacks = sum(line["fallbacks"] for line in epochs)
    if fallbacks:
        display.say(f"{fallbacks} solves misbehaved and were done serially instead")
    last = [line for line in epochs if line["phase"] == len(run.phases) - 1]
    ours = statistics.median(line["epoch_seconds"] for line in last)
    ratio = theirs / ours if theirs else None
    if theirs and ratio:
        display.say(
            f"seconds per epoch: {theirs:.2f} serially, {ours:.2f} layer-parallel: "
            f"{ratio:.1f} times as fast"
        )
    summary = {
        "recipe": run.recipe,
        "epochs": sum(phase.epochs for phase in run.phases),
        **{name: last[-1][name] for name in ("train_loss", "train_accuracy") if name in last[-1]},
        **figures,
        "fallbacks": fallbacks,
        "seconds": training.seconds,
        "epoch_seconds": ours,
        "serial_epochs": run.serial_epochs if theirs else 0,
        "serial_epoch_seconds": theirs,
        "serial_ratio": ratio,
        "ranks": {"data": team.data.size, "layer": team.layer.size},
        "machine": machine(),
    }
    write_summary(training.folder, summary)
    return summary


def _serial_slice(training: Training) -> float | None:
    """Median seconds of a serial epoch: the same initial weights, the same mini batches.

    It is not saved: a resumed run does it over again, from the fresh weights. On several ranks it is
    left out: the whole network need not fit on one.
    """
    run = training.run
    if run.serial is None or run.serial_epochs == 0:
        return None
    if not training.team.alone:
        training.display.say("the comparison with serial training is left out: it is for one process")
        return None
    method, number = run.serial(), len(run.phases)
    slice_ = Phase("serial slice", run.serial_epochs, lambda _: method)
    training.generator.manual_seed(run.seed)
    times = []
    with training.shown(slice_.name, slice_.epochs):
        for epoch in range(slice_.epochs):
            sums = Sums()
            last = training.epoch(method, slice_, Moment(number, epoch, 0), sums)
            times.append(sums.seconds)
            line = training.line(sums, number, epoch + 1, sum(times), last)
            training.note("serial", **line, **validation(training.figures(method.network)))
    return statistics.median(times)
