"""What is done with a run: trained from its beginning, resumed, restored from a checkpoint."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from ..training.base import Method
from . import checkpoint
from .checkpoint import Checkpoint
from .ending import conclude
from .progress import Display, Silent
from .record import Record, changed_options, machine
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
    """
    with _recording(run, folder, listener) as record:
        training = Training(run, folder, record, display)
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
        network = training.go(None)
        return Outcome(conclude(training, network), network)


def resume(
    run: Run, folder: Path, display: Display | None = None, listener: Listener | None = None
) -> Outcome:
    """Go on with a run from its last whole checkpoint; without one, from its beginning.

    The checkpoint may be of any number of ranks. On as many as before, one thread each, the result in
    float64 is bitwise that of the unbroken run.
    """
    told = display if display is not None and run.team.first else Silent()
    found = checkpoint.latest(folder, run.team.everyone, lambda error: told.say(f"passed over: {error}"))
    told.say(
        f"goes on from {found.path}" if found else f"{folder} has no whole checkpoint: begins again"
    )
    done = (found.moment.phase, found.moment.epoch) if found else (0, 0)
    with _recording(run, folder, listener) as record:
        training = Training(run, folder, record, display)
        ranks = {"data": run.team.data.size, "layer": run.team.layer.size}
        training.note("resume", done=done, machine=machine(), ranks=ranks)
        network = training.go(found)
        return Outcome(conclude(training, network), network)


@contextmanager
def _recording(run: Run, folder: Path, listener: Listener | None) -> Iterator[Record | None]:
    """The record of the run, which the first rank writes; None on the others."""
    torch.set_num_threads(run.threads)
    opened = run.team.together(lambda: Record(folder, listener) if run.team.first else None)
    with opened or nullcontext() as record:
        yield record


def restore(run: Run, found: Checkpoint) -> Method:
    """The method, with its network, as a checkpoint of this run holds it; every rank calls it.

    Raises:
        CheckpointError: where the checkpoint does not fit the run.
    """
    return restored(run, found)[0]
