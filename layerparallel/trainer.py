"""The one loop: epochs over shuffled mini batches, whatever the recipe and the method.

A run goes through its phases (one, or several networks of growing depth), evaluates, records and
saves as it goes, and then trains the same network serially for a slice of the same work, so that
every run carries the ratio that was measured in it.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerparallel import checkpoint
from layerparallel.checkpoint import Checkpoint, CheckpointError, Moment
from layerparallel.data.augment import Preparation
from layerparallel.data.base import Dataset
from layerparallel.data.batches import Batch, Batches
from layerparallel.errors import InputError
from layerparallel.evaluate import accuracy, probe, residuals_per_cycle
from layerparallel.progress import Display, Silent, Standing
from layerparallel.record import (
    Record,
    changed_options,
    describe_network,
    history,
    machine,
    read,
    write_summary,
)
from layerparallel.stopwatch import Stopwatch
from layerparallel.sums import Sums
from layerparallel.training.base import Method, StepRecord

Listener = Callable[[dict[str, Any]], object]

CYCLES = 8
"""Cycles over which the residuals are followed at the end."""


@dataclass(frozen=True)
class Phase:
    """`epochs` epochs with one network; `build` gets the network of the phase before, or None."""

    name: str
    epochs: int
    build: Callable[[nn.Module | None], Method]


@dataclass(frozen=True)
class Run:
    """All that is to be done, and nothing of what was done."""

    recipe: str
    options: Any
    """The recipe's frozen dataclass: what `resume` builds the run from again."""
    data: Dataset
    phases: tuple[Phase, ...]
    batch: int
    seed: int
    threads: int = 1
    evaluate_every: int = 5
    """Epochs between two evaluations."""
    checkpoint_every: int = 10
    """Epochs between two checkpoints."""
    checkpoint_seconds: float = 60.0
    """Seconds after which a checkpoint is due in the middle of an epoch, too."""
    serial: Callable[[], Method] | None = None
    """The same network as in the last phase, as ordinary serial PyTorch, before training."""
    serial_epochs: int = 0
    prepare: Preparation = field(default_factory=Preparation)
    """How stored samples become inputs, for training (augmented) and for evaluation."""
    picture: Callable[[nn.Module, Path], None] | None = None
    """Draws what only this recipe knows how to draw, into a folder."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    summary: dict[str, Any]
    network: nn.Module


def train(
    run: Run, folder: Path, display: Display | None = None, listener: Listener | None = None
) -> Outcome:
    """Do a run from its beginning, in a run folder made by `record.new_folder`.

    Args:
        listener: called with every line of the record, for example a `Board`.
    """
    torch.set_num_threads(run.threads)
    with Record(folder, listener) as record:
        record.append(
            "start",
            recipe=run.recipe,
            options=dataclasses.asdict(run.options),
            changed=changed_options(run.options),
            data={
                "name": run.data.name,
                "training": len(run.data.train_y),
                "validation": len(run.data.validation_y),
            },
            seed=run.seed,
            machine=machine(),
            phases=[{"name": phase.name, "epochs": phase.epochs} for phase in run.phases],
        )
        return _Training(run, folder, record, display or Silent()).go(None)


def resume(
    run: Run, folder: Path, display: Display | None = None, listener: Listener | None = None
) -> Outcome:
    """Go on with a run from its last whole checkpoint; without one, from its beginning.

    In float64 on one thread the result is bitwise that of the unbroken run.
    """
    torch.set_num_threads(run.threads)
    found = checkpoint.latest(folder)
    done = (found.moment.phase, found.moment.epoch) if found else (0, 0)
    with Record(folder, listener) as record:
        record.append("resume", done=done, machine=machine())
        return _Training(run, folder, record, display or Silent()).go(found)


def restore(run: Run, found: Checkpoint) -> Method:
    """The method, with its network, as a checkpoint of this run holds it.

    Raises:
        CheckpointError: where the checkpoint does not fit the run.
    """
    method = None
    for phase in run.phases[: found.moment.phase + 1]:
        method = phase.build(method.network if method else None)
    try:
        assert method is not None
        method.load_state_dict(found.state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"The checkpoint {found.path} does not fit the options of its run: was the record changed?"
        ) from error
    return method


def _step(method: Method, batch: Batch) -> StepRecord:
    """One step; a method that says `wants_batch` is told which samples these are, too."""
    told = {"batch": batch} if getattr(method, "wants_batch", False) else {}
    return method.step(batch.x, batch.y, **told)


def _fallbacks(method: Method) -> int:
    return getattr(method.network, "fallbacks", 0)


class _Training:
    """One run under way."""

    def __init__(self, run: Run, folder: Path, record: Record, display: Display) -> None:
        self.run = run
        self.folder = folder
        self.record = record
        self.display = display
        self.generator = torch.Generator().manual_seed(run.seed)
        self.seconds = 0.0  # of training, without evaluations and checkpoints
        self.saved = time.monotonic()

    def go(self, found: Checkpoint | None) -> Outcome:
        network: nn.Module | None = None
        moment, sums = Moment(0, 0, 0), Sums()
        method = None
        torch.manual_seed(self.run.seed)
        if found is not None:
            moment = found.moment
            method = restore(self.run, found)
            sums = self._take_up(found.state["progress"])
        for number, phase in enumerate(self.run.phases):
            if number < moment.phase:
                continue
            if method is None:
                method = phase.build(network)
            if number > moment.phase:
                moment = Moment(number, 0, 0)
            if moment == Moment(number, 0, 0):
                self.record.append("network", phase=number, **describe_network(method.network))
            with self._shown(phase.name, phase.epochs):
                self._phase(number, phase, method, moment, sums)
            network, method, sums = method.network, None, Sums()
        assert network is not None
        return Outcome(self._conclude(network), network)

    def _take_up(self, progress: dict[str, Any]) -> Sums:
        self.generator.set_state(progress["order"])
        torch.set_rng_state(progress["rng"])
        self.seconds = progress["seconds"]
        return Sums(**progress["sums"])

    @contextmanager
    def _shown(self, name: str, epochs: int) -> Iterator[None]:
        self.display.begin(name, self.run.data.train_x.shape[0] * epochs)
        try:
            yield
        finally:
            self.display.end()

    def _phase(self, number: int, phase: Phase, method: Method, start: Moment, sums: Sums) -> None:
        run, step = self.run, start.step
        for epoch in range(start.epoch, phase.epochs):
            last = self._epoch(method, phase, Moment(number, epoch, step), sums)
            self.seconds += sums.seconds
            done = epoch + 1
            if not math.isfinite(sums.mean_loss()):
                raise InputError(
                    f"The loss became {sums.mean_loss()} in epoch {done}: lower the learning rate."
                )
            line = sums.line(number, done, self.seconds, last)
            if done % run.evaluate_every == 0 or done == phase.epochs:
                line |= self._evaluated(method.network)
            self._tell_decisions(method, number, done)
            self.record.append("epoch", **line)
            step, sums = 0, Sums()
            if done % run.checkpoint_every == 0 or done == phase.epochs:
                self._save(method, Moment(number, done, 0), self.generator.get_state(), sums)

    def _epoch(self, method: Method, phase: Phase, at: Moment, sums: Sums) -> StepRecord | None:
        """Train from mini batch `at.step` on to the end of the epoch."""
        method.network.train()
        order_before = self.generator.get_state()
        batches = Batches(self.run.data, self.run.batch, self.generator, self.run.prepare)
        found, paused = None, 0.0
        before, began = sums.seconds, time.perf_counter()
        fallbacks = sums.fallbacks - _fallbacks(method)
        with Stopwatch(method, sums.split) as watch:
            for step in range(at.step, len(batches)):
                with watch.data():
                    batch = batches[step]
                try:
                    found = _step(method, batch)
                except ValueError as error:  # the library refuses states that are no longer finite
                    raise InputError(
                        f"Training stopped in epoch {at.epoch + 1}, a lower learning rate may help: "
                        f"{error}"
                    ) from error
                sums.add(found, len(batch.y))
                sums.fallbacks = fallbacks + _fallbacks(method)
                sums.seconds = before + time.perf_counter() - began - paused
                sums.split = watch.split()
                if self.display.due():
                    self.display.show(self._standing(phase, at.epoch, sums, found))
                late = time.monotonic() - self.saved > self.run.checkpoint_seconds
                if late and at.phase < len(self.run.phases) and step + 1 < len(batches):
                    pause = time.perf_counter()
                    moment = Moment(at.phase, at.epoch, step + 1)
                    self._save(method, moment, order_before, sums)
                    paused += time.perf_counter() - pause
        if found is not None and at.epoch + 1 == phase.epochs:
            self.display.show(self._standing(phase, at.epoch, sums, found))
        return found

    def _standing(self, phase: Phase, epoch: int, sums: Sums, found: StepRecord) -> Standing:
        size = self.run.data.train_x.shape[0]
        return Standing(
            epoch=epoch + 1,
            epochs=phase.epochs,
            samples=epoch * size + sums.samples,
            total=phase.epochs * size,
            rate=sums.samples / sums.seconds,
            loss=sums.mean_loss(),
            accuracy=sums.accuracy(),
            forward_residual=found.forward_residual,
            adjoint_residual=found.adjoint_residual,
        )

    def _evaluated(self, network: nn.Module) -> dict[str, Any]:
        """What an evaluation adds to the line of an epoch."""
        began = time.perf_counter()
        found = {"validation_accuracy": self._accuracy(network), **probe(network, *self._sample())}
        return {**found, "evaluation_seconds": time.perf_counter() - began}

    def _sample(self) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The first training samples, as one mini batch without augmentation, and its loss."""
        data, chosen = self.run.data, slice(0, self.run.batch)
        classes = data.train_y[chosen]
        return (
            self.run.prepare(data.train_x[chosen]),
            lambda output: nn.functional.cross_entropy(output, classes),
        )

    def _tell_decisions(self, method: Method, number: int, done: int) -> None:
        """Record what the adaptive mode decided in the epoch that is done."""
        steps = -(-len(self.run.data.train_y) // self.run.batch)
        for decision in getattr(method, "decisions", []):
            if decision.step >= (done - 1) * steps:
                self.record.append("decision", phase=number, epoch=done, **dataclasses.asdict(decision))

    def _accuracy(self, network: nn.Module, parallel: bool = False) -> float:
        data, prepare = self.run.data, self.run.prepare
        return accuracy(network, data.validation_x, data.validation_y, parallel, prepare)

    def _save(self, method: Method, moment: Moment, order: Tensor, sums: Sums) -> None:
        progress = {
            "order": order,
            "rng": torch.get_rng_state(),
            "seconds": self.seconds,
            "sums": dataclasses.asdict(sums),
        }
        checkpoint.save(self.folder, moment, {**method.state_dict(), "progress": progress})
        self.saved = time.monotonic()

    def _conclude(self, network: nn.Module) -> dict[str, Any]:
        """Evaluate both ways, follow the residuals, train the serial slice, sum up."""
        run = self.run
        serially, in_parallel = self._accuracy(network), self._accuracy(network, parallel=True)
        self.display.say(
            f"validation accuracy {serially:.1%} propagated serially, {in_parallel:.1%} in parallel"
        )
        forward, adjoint = residuals_per_cycle(network, *self._sample(), CYCLES)
        self.record.append("cycles", forward=forward, adjoint=adjoint)
        epochs = history(read(self.folder), "epoch")
        fallbacks = sum(line["fallbacks"] for line in epochs)
        if fallbacks:
            self.display.say(f"{fallbacks} solves misbehaved and were done serially instead")
        last = [line for line in epochs if line["phase"] == len(run.phases) - 1]
        ours = statistics.median(line["epoch_seconds"] for line in last)
        theirs = self._serial_slice()
        ratio = theirs / ours if theirs else None
        if theirs and ratio:
            self.display.say(
                f"seconds per epoch: {theirs:.2f} serially, {ours:.2f} layer-parallel: "
                f"{ratio:.1f} times as fast"
            )
        summary = {
            "recipe": run.recipe,
            "epochs": sum(phase.epochs for phase in run.phases),
            "train_loss": last[-1]["train_loss"],
            "train_accuracy": last[-1]["train_accuracy"],
            "validation_accuracy": serially,
            "validation_accuracy_parallel": in_parallel,
            "fallbacks": fallbacks,
            "seconds": self.seconds,
            "epoch_seconds": ours,
            "serial_epochs": run.serial_epochs if theirs else 0,
            "serial_epoch_seconds": theirs,
            "serial_ratio": ratio,
            "machine": machine(),
        }
        write_summary(self.folder, summary)
        return summary

    def _serial_slice(self) -> float | None:
        """Median seconds of a serial epoch: the same initial weights, the same mini batches.

        It is not saved: a resumed run does it over again, from the fresh weights.
        """
        run = self.run
        if run.serial is None or run.serial_epochs == 0:
            return None
        method, number = run.serial(), len(run.phases)
        slice_ = Phase("serial slice", run.serial_epochs, lambda _: method)
        self.generator.manual_seed(run.seed)
        times = []
        with self._shown(slice_.name, slice_.epochs):
            for epoch in range(slice_.epochs):
                sums = Sums()
                last = self._epoch(method, slice_, Moment(number, epoch, 0), sums)
                times.append(sums.seconds)
                line = sums.line(number, epoch + 1, sum(times), last)
                line["validation_accuracy"] = self._accuracy(method.network)
                self.record.append("serial", **line)
        return statistics.median(times)
