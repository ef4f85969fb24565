"""A run under way, on one rank: phases, epochs, mini batches, checkpoints."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import Batch, Batches
from ..errors import InputError, RankFailed
from ..group.norms import Norms
from ..network.stacking import layers_as_views
from ..training import layerwise
from ..training.base import Method, StepRecord
from . import checkpoint
from .checkpoint import Checkpoint, CheckpointError, Moment
from .evaluate import figures, probe, validation
from .interruption import Interruption, ending
from .progress import Display, Silent, Standing
from .record import Record, describe_network
from .run import Phase, Run
from .shares import Due, added, over_data, share
from .stopwatch import Stopwatch
from .sums import Sums


def restored(run: Run, found: Checkpoint) -> tuple[Method, dict[str, Any]]:
    """The method, and the whole state."""
    method = None
    for phase in run.phases[: found.moment.phase + 1]:
        method = phase.build(method.network if method else None)
    if method is None:
        raise CheckpointError(f"The checkpoint {found.path} is of another run: it has no phases.")
    state = found.of(method.network.state_dict())

    def load() -> None:
        try:
            method.load_state_dict(state)
        except (KeyError, RuntimeError, ValueError) as error:
            line = str(error).partition("\n")[0]
            raise CheckpointError(
                f"The checkpoint {found.path} does not fit the options of its run ({line}): was the "
                "record changed?"
            ) from error

    run.team.together(load)
    return method, state


def _refusal(error: Exception) -> str | None:
    """Why the library refuses to go on, here or on another rank: states that are no longer finite."""
    if not isinstance(error, RankFailed):
        return str(error)
    return str(error).partition(" raised ValueError: ")[2] or None


def _fallbacks(method: Method) -> int:
    return getattr(method.network, "fallbacks", 0)


class Training:
    """One run under way, on one rank."""

    def __init__(
        self,
        run: Run,
        folder: Path,
        record: Record | None,
        display: Display | None,
        interruption: Interruption,
    ) -> None:
        self.run = run
        self.folder = folder
        self.team = run.team
        self.record = record
        self.display: Display = display if display is not None and self.team.first else Silent()
        self.generator = torch.Generator().manual_seed(run.seed)
        self.seconds = 0.0  # of training, without evaluations and checkpoints
        self.interruption = interruption
        self.due = Due(run.checkpoint_seconds, self.team.everyone, interruption)
        self.stopped: Path | None = None
        """The checkpoint with which a signal has ended it."""

    def note(self, kind: str, **values: Any) -> None:
        """A line of the record, which the first rank writes."""
        if self.record is not None:
            self.record.append(kind, **values)

    def go(self, found: Checkpoint | None) -> nn.Module:
        """All phases, or what is left of them; the last one's network."""
        network: nn.Module | None = None
        moment, sums = Moment(0, 0, 0), Sums()
        method = None
        torch.manual_seed(self.run.seed)
        if found is not None:
            moment = found.moment
            with self.interruption.at_once():
                method, state = restored(self.run, found)
            sums = self._take_up(state["progress"])
        for number, phase in enumerate(self.run.phases):
            if number < moment.phase:
                continue
            if method is None:
                with self.interruption.at_once():
                    method = phase.build(network)
                if not self.team.data.first:  # dropout and the like differ where the samples do
                    torch.manual_seed(self.run.seed + self.team.data.rank)
            if number > moment.phase:
                moment = Moment(number, 0, 0)
            if moment == Moment(number, 0, 0):
                self.note("network", phase=number, **self._described(method.network))
            with self.shown(phase.name, phase.epochs):
                self._phase(number, phase, method, moment, sums)
            network, method, sums = method.network, None, Sums()
        assert network is not None
        return network

    def _described(self, network: nn.Module) -> dict[str, Any]:
        """Size and place of the whole network."""
        found = describe_network(network)
        repeated = network.uncounted() if isinstance(network, Norms) else []
        count = found["parameters"] - sum(p.numel() for p in repeated)
        return {**found, "parameters": sum(self.team.layer.gather(count))}

    # ---- checkpoints ----------------------------------------------------------------------------

    @property
    def _place(self) -> str:
        return f"{self.team.data.rank}.{self.team.layer.rank}"

    def _take_up(self, progress: dict[str, Any]) -> Sums:
        self.generator.set_state(progress["order"])
        states = progress["rng"]
        for place in (self._place, f"{self.team.data.rank}.0", "0.0"):  # of another number of ranks
            if place in states:
                torch.set_rng_state(states[place])
                break
        self.seconds = progress["seconds"]
        saved = [Sums(**each) for _, each in sorted(progress["sums"].items())]
        if len(saved) == self.team.data.size:
            return saved[self.team.data.rank]
        if self.team.data.first:
            return added(saved)
        return Sums(split=saved[0].split)

    def _save(self, method: Method, moment: Moment, order: Tensor, sums: Sums) -> None:
        team, began = self.team, time.perf_counter()
        states = team.everyone.gather((self._place, torch.get_rng_state()))
        here = dataclasses.replace(sums, loss=sums.loss.cpu(), correct=sums.correct.cpu())
        shares = team.data.gather(dataclasses.asdict(here))
        progress = {
            "order": order,
            "rng": dict(states),
            "seconds": self.seconds,
            "sums": {f"{rank:06d}": each for rank, each in enumerate(shares)},
        }

        def save() -> None:
            if team.data.first:  # the others have the same
                with layers_as_views():
                    state = {**method.state_dict(), "progress": progress}
                layers = layerwise.chains(method.network)
                checkpoint.save(self.folder, moment, state, layers=layers, group=team.layer)

        team.together(save)
        spent = time.perf_counter() - began
        self.due.restart(spent)
        self.note("checkpoint", phase=moment.phase, epoch=moment.epoch, seconds=spent)
        if self.due.signal is not None:
            self.stopped = self.folder / checkpoint.FOLDER / str(moment)
            raise ending(self.due.signal, saved=True)

    # ---- phases and epochs ----------------------------------------------------------------------

    @contextmanager
    def shown(self, name: str, epochs: int) -> Iterator[None]:
        """Within it there is something to show."""
        self.display.begin(name, self.run.data.train_x.shape[0] * epochs)
        try:
            yield
        finally:
            self.display.end()

    def _phase(self, number: int, phase: Phase, method: Method, start: Moment, sums: Sums) -> None:
        run, step = self.run, start.step
        for epoch in range(start.epoch, phase.epochs):
            last = self.epoch(method, phase, Moment(number, epoch, step), sums)
            self.seconds += sums.seconds
            done, sums = epoch + 1, over_data(sums, self.team.data)
            if not math.isfinite(sums.mean_loss()):
                raise InputError(
                    f"The loss became {sums.mean_loss()} in epoch {done}: lower the learning rate."
                )
            line = self.line(sums, number, done, self.seconds, last)
            if (said := getattr(method, "epoch_line", None)) is not None:
                line |= said()
            if done % run.evaluate_every == 0 or done == phase.epochs:
                line |= self._evaluated(method.network)
            self._tell_decisions(method, number, done)
            self.note("epoch", **line)
            step, sums = 0, Sums()
            if self.due.now(surely=True) or done == phase.epochs:
                self._save(method, Moment(number, done, 0), self.generator.get_state(), sums)

    def epoch(self, method: Method, phase: Phase, at: Moment, sums: Sums) -> StepRecord | None:
        """Train from mini batch `at.step` on to the end of the epoch."""
        method.network.train()
        order_before = self.generator.get_state()
        batches = self._batches()
        if not getattr(method, "augments", lambda epoch: True)(at.epoch):
            batches.drawn = None
        places, expect = batches.order.split(batches.size), getattr(method, "expect", None)
        found = None
        with Stopwatch(method, sums.split) as watch:
            if (begin := getattr(method, "begin_epoch", None)) is not None:
                begin(at.epoch)
            fallbacks = sums.fallbacks - _fallbacks(method)
            watch.lap("rest")
            for step in range(at.step, len(batches)):
                batch = batches[step]
                watch.lap("data")
                if expect is not None and step + 1 < len(batches):
                    expect(places[step + 1])
                try:
                    found = self._step(method, batch)
                except (ValueError, RankFailed) as error:
                    why = _refusal(error)
                    if why is None:
                        raise
                    raise InputError(
                        f"Training stopped in epoch {at.epoch + 1}, a lower learning rate may help: "
                        f"{why}"
                    ) from error
                sums.add(found, len(batch.y))
                sums.fallbacks = fallbacks + _fallbacks(method)
                watch.lap("rest")
                sums.split = watch.split()
                if self.display.due():
                    self.display.show(self._standing(phase, at.epoch, sums, found))
                if at.phase < len(self.run.phases) and step + 1 < len(batches) and self.due.now():
                    watch.lap("rest")
                    moment = Moment(at.phase, at.epoch, step + 1)
                    self._save(method, moment, order_before, sums)
                    watch.skip()
        if found is not None and at.epoch + 1 == phase.epochs:
            self.display.show(self._standing(phase, at.epoch, sums, found))
        return found

    def _step(self, method: Method, batch: Batch) -> StepRecord:
        """One step; a method that says `wants_batch` is told which samples these are, too."""
        told = {"batch": batch} if getattr(method, "wants_batch", False) else {}
        return method.step(batch.x, self.run.task.target(batch.x, batch.y), **told)

    def line(
        self, sums: Sums, phase: int, epoch: int, seconds: float, last: StepRecord | None
    ) -> dict[str, Any]:
        """An epoch as the record has it; see `Sums.line`."""
        found = sums.line(phase, epoch, seconds, last)
        if not self.run.task.classifies:
            del found["train_accuracy"]
        return found

    def _batches(self) -> Batches:
        run = self.run
        return share(Batches(run.data, run.batch, self.generator, run.prepare), self.team.data)

    def _standing(self, phase: Phase, epoch: int, sums: Sums, found: StepRecord) -> Standing:
        size = self.run.data.train_x.shape[0]
        samples = min(size, sums.samples * self.team.data.size)
        return Standing(
            epoch=epoch + 1,
            epochs=phase.epochs,
            samples=epoch * size + samples,
            total=phase.epochs * size,
            rate=samples / sums.seconds,
            loss=sums.mean_loss(),
            accuracy=sums.accuracy() if self.run.task.classifies else None,
            forward_error=found.forward_error,
            adjoint_error=found.adjoint_error,
        )

    # ---- evaluation -----------------------------------------------------------------------------

    def _evaluated(self, network: nn.Module) -> dict[str, Any]:
        """What an evaluation adds to the line of an epoch."""
        began = time.perf_counter()
        found = {**validation(self.figures(network)), **probe(network, *self.sample())}
        return {**found, "evaluation_seconds": time.perf_counter() - began}

    def sample(self) -> tuple[Tensor, Callable[[Any], Tensor]]:
        """The first training samples, as one mini batch without augmentation, and its loss."""
        data, task, chosen = self.run.data, self.run.task, slice(0, self.run.batch)
        x = self.run.prepare(data.train_x[chosen])
        target = task.target(x, data.train_y[chosen])
        return x, lambda output: task.loss(output, target)

    def figures(self, network: nn.Module, parallel: bool = False) -> dict[str, float]:
        """What the network is worth on the validation samples."""
        data, run = self.run.data, self.run
        return figures(network, data.validation_x, data.validation_y, run.task, parallel, run.prepare)

    def _tell_decisions(self, method: Method, number: int, done: int) -> None:
        """Record what the adaptive mode decided in the epoch that is done."""
        steps = -(-len(self.run.data.train_y) // self.run.batch)
        for decision in getattr(method, "decisions", []):
            if decision.step >= (done - 1) * steps:
                self.note("decision", phase=number, epoch=done, **dataclasses.asdict(decision))
