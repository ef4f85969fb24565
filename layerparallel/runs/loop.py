"""What is done with a run: trained from its beginning, resumed, restored from a checkpoint."""

import dataclasses
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from ..group import watch
from ..training.base import Method
from . import checkpoint
from .checkpoint import Checkpoint
from .ending import conclude
from .interruption import SAVED, Interruption
from .progress import Display
from .record import Record, changed_options, machine, read_summary
from .run import Listener, Outcome, Run
from .underway import Training, restored


def train(
    run: Run, folder: Path, display: Display | None = None, listener: Listener | None = None
) -> Outcome:
    """Do a run from its beginning, in a run folder made by `record.new_folder`.

    Every rank of the run's team calls it.

    Args:
        run: what is to be done, and by whom.
        folder: the run folder, the same one for all ranks.
        display: shows how it goes; the first rank's is used.
        listener: called with every line of the record, for example a `Board`; the first rank's.

    In the main thread it handles SIGINT and SIGTERM, and puts the handlers of before back in any case.
    While it trains, a signal lets the step, or the evaluation, that is under way come to its end. Then a
    checkpoint is written, and all ranks raise. A second signal raises at once; so does the first one
    before and after training, where nothing is lost.

    Raises:
        KeyboardInterrupt: by SIGINT.
        SystemExit: by SIGTERM, with the status 143.
    """
    with _underway(run, folder, display, listener) as training:
        training.note(
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
            ranks={"data": run.team.data.size, "layer": run.team.layer.size},
            phases=[{"name": phase.name, "epochs": phase.epochs} for phase in run.phases],
        )
        return _done(training, None)


def resume(
    run: Run, folder: Path, display: Display | None = None, listener: Listener | None = None
) -> Outcome:
    """Go on with a run from its last whole checkpoint; without one, from its beginning.

    The checkpoint may be of any number of ranks. On as many as before, one thread each, on CPUs of the
    same kind, the result in float64 is bitwise that of the unbroken run. Signals are handled as by
    `train`.
    """
    with _underway(run, folder, display, listener) as training:
        say = training.display.say
        with training.interruption.at_once():
            found = checkpoint.latest(
                folder, run.team.everyone, lambda error: say(f"passed over: {error}")
            )
        say(f"goes on from {found.path}" if found else f"{folder} has no whole checkpoint: begins again")
        done = (found.moment.phase, found.moment.epoch) if found else (0, 0)
        ranks = {"data": run.team.data.size, "layer": run.team.layer.size}
        training.note("resume", done=done, machine=machine(), ranks=ranks)
        return _done(training, found)


def _done(training: Training, found: Checkpoint | None) -> Outcome:
    """What is left of the run, and its end."""
    network = training.go(found)
    with training.interruption.at_once():
        return Outcome(conclude(training, network), network)


@contextmanager
def _underway(
    run: Run, folder: Path, display: Display | None, listener: Listener | None
) -> Iterator[Training]:
    """The training, with its record, which the first rank writes; an interruption is told."""
    torch.set_num_threads(run.threads)
    opened = run.team.together(lambda: Record(folder, listener) if run.team.first else None)
    with opened or nullcontext() as record, Interruption() as interruption:
        training = Training(run, folder, record, display, interruption)
        try:
            yield training
        except (KeyboardInterrupt, SystemExit) as error:
            training.display.say(_farewell(training))
            if not isinstance(error, SAVED):
                watch.report(error)  # the others have not met it themselves
            raise


def _farewell(training: Training) -> str:
    """How an interrupted run stands."""
    folder = training.folder
    command = f"layerparallel resume {shlex.quote(str(folder))}"
    if training.stopped is not None:
        return f"stopped and saved; go on from {training.stopped} with: {command}"
    if read_summary(folder) is not None:
        return f"stopped after the run had ended; draw its plots and its report with: {command}"
    found = checkpoint.latest(folder)
    if found is None:
        return f"stopped before the first checkpoint; begin again with: {command}"
    return f"stopped at once; go on from {found.path} with: {command}"


def restore(run: Run, found: Checkpoint) -> Method:
    """The method, with its network, as a checkpoint of this run holds it; every rank calls it.

    Raises:
        CheckpointError: where the checkpoint does not fit the run.
    """
    return restored(run, found)[0]
